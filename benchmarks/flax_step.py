# SPDX-License-Identifier: Apache-2.0
"""The peer of `pod_peer.py`: the training step of Hugging Face's `run_mlm_flax.py`.

`FlaxBertForPreTraining` of transformers 4.57, the last with Flax, trained as
`examples/flax/language-modeling/run_mlm_flax.py` of that release does it with `--dtype=bfloat16`:
every token scored against one-hot labels, float32 weights and gradients, `optax.adamw` with decay
masked, data parallel with everything replicated. Three things differ, none of which saves it work:

- its `pmap` is written as `shard_map`, the form that can be compiled for absent devices; what runs
  on each device is the same;
- the loss of next-sentence prediction, which the script leaves out, is added;
- gradients are divided by the number of labels before they are summed, not after.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from flax.training.common_utils import onehot
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec
from transformers import BertConfig as TheirConfig
from transformers import FlaxBertForPreTraining

from bert_jax import partitioning
from bert_jax.config import BertConfig, MeshConfig, OptimizerConfig
from bert_jax.convert.huggingface import to_huggingface_config
from data_pipeline.batch import Batch, BatchSpec

WHOLE, ROWS = PartitionSpec(), PartitionSpec(partitioning.BATCH_AXES)


class FlaxStep:
    """Their training step over all of the given devices.

    Args:
        config: the model.
        optimizer: its settings; of AdamW whatever name it has.
        steps: of the run, for the learning rate.
        devices: of one slice.
    """

    def __init__(
        self,
        config: BertConfig,
        optimizer: OptimizerConfig,
        steps: int,
        devices: Sequence[jax.Device],
    ) -> None:
        self.mesh = partitioning.make_mesh(MeshConfig(), devices)
        settings = TheirConfig(**to_huggingface_config(config))
        self.model = FlaxBertForPreTraining(
            settings, dtype=jnp.dtype(config.compute_dtype), _do_init=False
        )
        self._schedule = optax.join_schedules(
            [
                optax.linear_schedule(0.0, optimizer.learning_rate, optimizer.warmup_steps),
                optax.linear_schedule(optimizer.learning_rate, 0, steps - optimizer.warmup_steps),
            ],
            [optimizer.warmup_steps],
        )
        self._optimizer = optax.adamw(
            learning_rate=self._schedule,
            b1=optimizer.beta1,
            b2=optimizer.beta2,
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            mask=_decayed,
        )
        step = jax.shard_map(
            self._on_device,
            mesh=self.mesh,
            in_specs=(WHOLE, ROWS, ROWS),
            out_specs=(WHOLE, WHOLE, ROWS),
            check_vma=False,  # gradients are summed below, as under pmap
        )
        self.step = jax.jit(step, donate_argnums=0)

    def init(self, params: Any) -> TrainState:
        """A fresh state around their parameters."""
        return TrainState.create(apply_fn=self.model.__call__, params=params, tx=self._optimizer)

    def lower(self, spec: BatchSpec) -> tuple[jax.stages.Lowered, Any]:
        """The step for a batch, and the shapes of its state by what they are for."""
        state = self._shapes(jax.eval_shape(self.init, self.model.params_shape_tree), WHOLE)
        features = spec.features().items()
        batch = {name: jax.ShapeDtypeStruct(*feature) for name, feature in features}
        batch = self._shapes(jax.eval_shape(their_batch, batch), ROWS)
        keys = self._shapes(jax.eval_shape(self.dropout_keys), ROWS)
        parts = {"params": state.params, "optimizer": state.opt_state}
        return self.step.lower(state, batch, keys), parts

    def dropout_keys(self) -> jax.Array:
        """A key for each device."""
        return jax.random.split(jax.random.PRNGKey(0), self.mesh.size)

    def _shapes(self, tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    def _on_device(
        self, state: TrainState, batch: dict[str, jax.Array], keys: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array], jax.Array]:
        axes = partitioning.BATCH_AXES
        dropout_key, next_key = jax.random.split(keys[0])
        labels, next_sentence = batch.pop("labels"), batch.pop("next_sentence_label")
        label_mask = jnp.where(labels > 0, 1.0, 0.0)
        number = jax.lax.psum(label_mask.sum(), axes)
        rows = jax.lax.psum(next_sentence.size, axes)

        def loss_function(params: Any) -> jax.Array:
            output = state.apply_fn(**batch, params=params, dropout_rng=dropout_key, train=True)
            words, pairs = output.prediction_logits, output.seq_relationship_logits
            with jax.named_scope("loss"):
                labelled = onehot(labels, words.shape[-1])
                mlm = optax.softmax_cross_entropy(words, labelled) * label_mask
                nsp = optax.softmax_cross_entropy(pairs, onehot(next_sentence, 2))
                return mlm.sum() / number + nsp.sum() / rows

        loss, gradients = jax.value_and_grad(loss_function)(state.params)
        loss, gradients = jax.lax.psum((loss, gradients), axes)
        metrics = {"loss": loss, "learning_rate": self._schedule(state.step)}
        with jax.named_scope("optimizer"):
            state = state.apply_gradients(grads=gradients)
        return state, metrics, next_key[None]


def their_batch(batch: Batch) -> dict[str, Any]:
    """A batch of ours (`data_pipeline.batch`) as their collator makes it: a label every token."""
    rows = jnp.arange(batch["input_ids"].shape[0])[:, None]
    ids = jnp.where(batch["masked_weights"] > 0, batch["masked_ids"], -100)
    labels = jnp.full(batch["input_ids"].shape, -100, jnp.int32)
    labels = labels.at[rows, batch["masked_positions"]].set(ids)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["input_mask"],
        "token_type_ids": batch["segment_ids"],
        "labels": labels.at[:, 0].set(-100),  # unused slots point at [CLS]
        "next_sentence_label": batch["next_sentence_label"],
    }


def _decayed(params: Any) -> Any:
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: path[-1] != "bias" and path[-2:] != ("LayerNorm", "scale") for path in flat}
    )
