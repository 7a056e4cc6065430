# SPDX-License-Identifier: Apache-2.0
r"""The recipe behind `make demo`: a real BERT in minutes on two CPU cores.

    python -m bert_jax.pretrain --config=configs/demo.py --workdir=runs/demo \
        --config.data.store=runs/demo/store

Where it leaves the paper's recipe, it does so to learn something within minutes: many small
batches at a high rate; no dropout, for a model this small does not overfit in ten passes; and
weights drawn 0.05 wide, which gives signals through 128 units the strength that 0.02 gives them
through 768.
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config() -> ConfigDict:
    """The paper's recipe with the tiny model, few steps and small batches."""
    config = pretrain.get_config("tiny")
    config.name = "bert-demo"
    config.steps = 5000
    config.phases.short.batch_size = 16
    config.phases.long.batch_size = 4
    config.model.compute_dtype = "float32"
    config.model.initializer_range = 0.05
    config.model.hidden_dropout = 0.0
    config.model.attention_dropout = 0.0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 300
    config.evaluation.update(dict(every=500, examples=1024, batch_size=64))
    config.checkpoint.every = 500
    config.log_every = 50
    return config
