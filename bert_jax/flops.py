# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of a training step, peak rates of chips, and the ratio of the two (MFU).

Matrix products only, forward and twice that backward, as everyone counts who reports an MFU (PaLM,
arXiv 2204.02311, appendix B): no embeddings, LayerNorm, softmax, dropout, optimiser or recomputed
activations. Every position counts, padding included.
"""

from bert_jax.config import BertConfig
from data_pipeline.batch import max_predictions

# Dense bfloat16 TFLOP/s of one JAX device, by the start of `device_kind`. The first match counts:
# more specific names stand first. A chip is two devices on TPU v2, v3 and v7x, and one on v4 and
# v5p with megacore, the default. Sources: cloud.google.com/tpu/docs and NVIDIA's data sheets.
_PEAK_TFLOPS = (
    ("TPU v2", 23.0),
    ("TPU v3", 61.5),
    ("TPU v4 lite", 138.0),
    ("TPU v4", 275.0),
    ("TPU v5 lite", 197.0),
    ("TPU v5e", 197.0),
    ("TPU v5", 459.0),
    ("TPU v6 lite", 918.0),
    ("TPU v6e", 918.0),
    ("TPU7x", 1153.5),
    ("NVIDIA A100", 312.0),
    ("NVIDIA H100 PCIe", 756.0),
    ("NVIDIA H100 NVL", 835.0),
    ("NVIDIA H100", 989.0),
    ("NVIDIA H200 NVL", 835.0),
    ("NVIDIA H200", 989.0),
    ("NVIDIA GH200", 989.0),
    ("NVIDIA B200", 2250.0),
    ("NVIDIA GB200", 2500.0),
    ("NVIDIA L40S", 362.0),
    ("NVIDIA L4", 121.0),
)


def sequence_flops(config: BertConfig, length: int, predictions: int) -> int:
    """Floating-point operations to train on one sequence.

    With layers L, width H, inner width F, length S, predictions P and vocabulary V (unpadded):

        6 L (4 H^2 + 2 H F) S   encoder      12 L H S^2         attention, both directions
        6 P (H V + H^2)         MLM head     6 H^2              pooler

    Args:
        config: the model.
        length: tokens in the sequence.
        predictions: masked positions whose words are predicted.
    """
    hidden, layers = config.hidden_size, config.num_layers
    encoder = 6 * layers * (4 * hidden**2 + 2 * hidden * config.mlp_size) * length
    attention = 12 * layers * hidden * length**2
    head = 6 * predictions * (hidden * config.vocab_size + hidden**2)
    return encoder + attention + head + 6 * hidden**2


def step_flops(config: BertConfig, batch_size: int, length: int) -> int:
    """Floating-point operations of one training step on a batch."""
    return batch_size * sequence_flops(config, length, max_predictions(length))


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of a device (`jax.Device.device_kind`), if known."""
    for kind, tera in _PEAK_TFLOPS:
        if device_kind.startswith(kind):
            return tera * 1e12
    return None


def mfu(flops: float, seconds: float, device_kind: str, devices: int) -> float | None:
    """Model FLOPs utilisation: the share of the bfloat16 peak; None where no peak is known.

    Args:
        flops: of a step, over all devices (`step_flops`).
        seconds: of a step.
        device_kind: `jax.Device.device_kind`.
        devices: how many of them take part.
    """
    peak = peak_flops(device_kind)
    return None if peak is None else flops / (seconds * devices * peak)
