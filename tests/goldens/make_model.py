# SPDX-License-Identifier: Apache-2.0
"""Makes `model.npz`: a tiny random BERT, a batch, and what transformers computes from them.

    python -m tests.goldens.make_model

Needs PyTorch and transformers (`make parity` installs them). Everything is float64: parameters and
batch, the embeddings and every layer's output, the pooled vector, both logits, the loss, and the
gradient of the loss by every parameter.
"""

from pathlib import Path

import numpy as np

from bert_jax.convert.mapping import flatten
from tests.goldens.model_config import CONFIG
from tests.parity.pytorch_bert import Reference, random_batch, random_params


def main() -> None:
    """Writes the file beside this script."""
    random = np.random.default_rng(20181011)
    params = random_params(CONFIG, random, np.float64)
    batch = random_batch(random, batch_size=5, length=20, vocab_size=CONFIG.vocab_size)
    outputs, gradients = Reference(CONFIG, params).outputs_and_gradients(batch)
    groups = {
        "params": flatten(params),
        "batch": batch,
        "outputs": outputs,
        "gradients": flatten(gradients),
    }
    arrays = {f"{group}/{name}": a for group, part in groups.items() for name, a in part.items()}
    np.savez_compressed(Path(__file__).with_name("model.npz"), **arrays)


if __name__ == "__main__":
    main()
