# SPDX-License-Identifier: Apache-2.0
"""Makes `google_checkpoint/`: a model as the original code itself saves it, and its outputs.

    pip download bert-tensorflow==1.0.4 --no-deps && unzip bert_tensorflow-1.0.4-*.whl -d original
    PYTHONPATH=original python tests/goldens/make_google_checkpoint.py

Needs TensorFlow 2. The model of `bert/modeling.py` with the heads of `run_pretraining.py` is built
and its optimiser makes one step, so that the checkpoint holds what Google's own do: variables,
slots (`adam_m`, `adam_v`) and `global_step`. `log_probabilities.npz` holds a batch and what the
original computes from it; its gelu is the tanh formula. Two functions that TensorFlow 2 lacks stand
in: `tf.layers.dense` and `tf.contrib.layers.layer_norm`, whose epsilon is 1e-12.
"""

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

SIZES = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.2,
    "intermediate_size": 56,
    "max_position_embeddings": 40,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 47,
}
BATCH, LENGTH, PREDICTIONS = 4, 20, 3


def layer_norm(inputs, begin_norm_axis, begin_params_axis, scope):
    """Stands in for `tf.contrib.layers.layer_norm`."""
    assert begin_norm_axis == begin_params_axis == -1
    with tf.variable_scope(scope, default_name="LayerNorm"):
        size = [inputs.shape[-1]]
        beta = tf.get_variable("beta", size, initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", size, initializer=tf.ones_initializer())
        mean, variance = tf.nn.moments(inputs, [-1], keepdims=True)
        return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, 1e-12)


def dense(inputs, units, activation=None, kernel_initializer=None):
    """Stands in for `tf.layers.dense`."""
    with tf.variable_scope(None, default_name="dense"):
        kernel = tf.get_variable("kernel", [inputs.shape[-1], units], None, kernel_initializer)
        bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
        outputs = inputs @ kernel + bias
        return outputs if activation is None else activation(outputs)


def original():
    """The modules `modeling`, `optimization` and `run_pretraining` of the original."""
    layers = types.ModuleType("tensorflow.contrib.layers")
    layers.layer_norm = layer_norm
    contrib = types.ModuleType("tensorflow.contrib")
    contrib.layers = layers
    sys.modules |= {"tensorflow.contrib": contrib, "tensorflow.contrib.layers": layers}
    tf.layers = types.SimpleNamespace(dense=dense)
    from bert import modeling, optimization, run_pretraining

    return modeling, optimization, run_pretraining


def random_batch(random):
    """A batch with padding, segments and masked positions."""
    lengths = np.array([LENGTH, 13, 7, 2])
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
    return {
        "input_ids": random.integers(5, SIZES["vocab_size"], (BATCH, LENGTH)).astype(np.int32),
        "input_mask": mask,
        "segment_ids": ((np.arange(LENGTH) > 5) * mask).astype(np.int32),
        "masked_positions": np.array([[1, 4, 9], [1, 2, 12], [3, 5, 6], [1, 0, 0]], np.int32),
    }


def main() -> None:
    """Writes the directory beside this script."""
    modeling, optimization, run_pretraining = original()
    folder = Path(__file__).with_name("google_checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    random = np.random.default_rng(20181011)
    batch = random_batch(random)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        config = modeling.BertConfig.from_dict(SIZES)
        inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
        model = modeling.BertModel(config, False, *(tf.constant(x) for x in inputs))
        labels = tf.zeros([BATCH * PREDICTIONS], tf.int32)
        mlm_loss, _, mlm = run_pretraining.get_masked_lm_output(
            config,
            model.get_sequence_output(),
            model.get_embedding_table(),
            tf.constant(batch["masked_positions"]),
            labels,
            tf.ones([BATCH * PREDICTIONS]),
        )
        nsp_loss, _, nsp = run_pretraining.get_next_sentence_output(
            config, model.get_pooled_output(), tf.zeros([BATCH], tf.int32)
        )
        tf.train.get_or_create_global_step()
        train = optimization.create_optimizer(mlm_loss + nsp_loss, 1e-3, 10, 0, use_tpu=False)
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():  # biases and scales too
            value = session.run(variable) + random.normal(0, 0.1, variable.shape)
            variable.load(value.astype(np.float32), session)
        session.run(train)
        tf.train.Saver().save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
        outputs = session.run({"mlm": mlm, "nsp": nsp})
    (folder / "checkpoint").unlink()
    (folder / "bert_config.json").write_text(json.dumps(SIZES, indent=2) + "\n", "utf-8")
    outputs["mlm"] = outputs["mlm"].reshape(BATCH, PREDICTIONS, -1)
    np.savez_compressed(folder / "log_probabilities.npz", **batch, **outputs)


if __name__ == "__main__":
    main()
