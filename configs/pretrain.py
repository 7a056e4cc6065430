# SPDX-License-Identifier: Apache-2.0
r"""The paper's pre-training recipe (arXiv 1810.04805, appendix A.2) for a model of a given size.

    python -m bert_jax.pretrain --config=configs/pretrain.py:base --workdir=runs/base \
        --config.data.store=STORE

Sizes: tiny, mini, small, medium, base, large; `base,pod` is the same run by a program that compiles
longer and is faster on a slice of TPUs (docs/tpu.md). 1,000,000 steps of 256 sequences, the first
90% at 128 tokens and the last 10% at 512, make 42.6 billion token slots: days on the 16 chips of
the original, so on one machine set `--config.steps` (and `optimizer.warmup_steps`) lower. On a CPU
add `--config.model.compute_dtype=float32`, which is faster there than bfloat16.
Published figures to compare with (paper, table 6): held-out MLM perplexity 3.99 for base (1.38
nats) and 3.23 for large, NSP accuracy 97-98%.
"""

import dataclasses

from ml_collections import ConfigDict

from bert_jax.config import BertConfig


def get_config(choice: str = "base") -> ConfigDict:
    """The recipe for one of the published sizes, with `,pod` after it for a slice of TPUs.

    The vocabulary is the store's.
    """
    size = choice.removesuffix(",pod")
    pod = size != choice
    model = BertConfig.preset(size, vocab_size=0, compute_dtype="bfloat16")
    if pod:  # not one layer after the other in a loop
        model = dataclasses.replace(model, unroll=model.num_layers)
    return ConfigDict(
        dict(
            name=f"bert-{size}",
            seed=0,
            steps=1_000_000,
            phases=dict(
                short=dict(length=128, batch_size=256, share=0.9),
                long=dict(length=512, batch_size=256, share=0.1),
            ),
            accumulation=1,  # parts a batch is worked off in; the update stays the same
            model=dataclasses.asdict(model),
            optimizer=dict(
                name="bert_adam",
                learning_rate=1e-4,
                warmup_steps=10_000,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-6,
                weight_decay=0.01,
                clip_norm=1.0,
                per_replica=False,  # True: clip on each device and sum, as on the TPUs of 2018
            ),
            data=dict(
                store="",  # a directory made by data_pipeline.prepare, or wiki:0.7,books:0.3
                pairs="next_sentence",  # sentence_order: as ALBERT; none: as RoBERTa
                short_sequence_probability=0.1,
                whole_word=False,
                dupe_factor=0,  # d: the same masks every d epochs, as in files written once
                reader="auto",  # tf.data where TensorFlow is installed, else threads
            ),
            # -1: all devices that are left; slices > 1: TPU slices over the data-centre network
            mesh=dict(data=-1, fsdp=1, tensor=1, slices=1, shard_optimizer=pod),
            evaluation=dict(every=10_000, examples=8192, batch_size=256),
            checkpoint=dict(every=10_000, keep_last=3),
            profile=dict(first_step=100, steps=0),  # steps > 0 traces that many
            log_every=100,
            init_from="",  # weights of another run to start from, with a fresh optimiser
        )
    )
