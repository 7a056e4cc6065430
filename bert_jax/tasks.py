# SPDX-License-Identifier: Apache-2.0
"""Losses and accuracies of pre-training: the only place that knows both batch keys and losses.

Everything is a pair (sum, weight) until the very end, so that averages over micro-batches, devices
and evaluation batches are exact. Source: `run_pretraining.py` of google-research/bert.
"""

import jax
import jax.numpy as jnp

from bert_jax.model import PretrainingLogits

Batch = dict[str, jax.Array]
Terms = dict[str, tuple[jax.Array, jax.Array]]


@jax.named_scope("loss")
def pretraining_terms(
    logits: PretrainingLogits, batch: Batch, row_weights: jax.Array | None = None
) -> Terms:
    """Sums and weights of `mlm_loss`, `mlm_accuracy`, `nsp_loss` and `nsp_accuracy`, in nats.

    Args:
        logits: what `apply_pretraining` or `training_logits` made of `batch`.
        batch: features of `data_pipeline.batch`.
        row_weights: float [batch], 0 for rows whose next-sentence label must not count; default 1.
            Rows without a label (`NO_LABEL`, negative) never count.

    Returns:
        Name -> (weighted sum, sum of weights), scalars in the type of the logits.
    """
    dtype = logits.mlm.dtype
    if row_weights is None:
        row_weights = jnp.ones(logits.nsp.shape[0])
    slots = batch["masked_weights"].astype(dtype)
    labels = batch["next_sentence_label"]
    rows = jnp.where(labels < 0, 0, row_weights).astype(dtype)
    mlm_loss, mlm_hits = cross_entropy(logits.mlm, batch["masked_ids"])
    nsp_loss, nsp_hits = cross_entropy(logits.nsp, jnp.maximum(labels, 0))
    return {
        "mlm_loss": (jnp.sum(mlm_loss * slots), jnp.sum(slots)),
        "mlm_accuracy": (jnp.sum(mlm_hits * slots), jnp.sum(slots)),
        "nsp_loss": (jnp.sum(nsp_loss * rows), jnp.sum(rows)),
        "nsp_accuracy": (jnp.sum(nsp_hits * rows), jnp.sum(rows)),
    }


Weights = tuple[jax.Array, jax.Array]


def loss_weights(batch: Batch) -> Weights:
    """Numbers of predictions and of next-sentence labels in a batch, float32."""
    labels = jnp.sum(batch["next_sentence_label"] >= 0, dtype=jnp.float32)
    return jnp.sum(batch["masked_weights"], dtype=jnp.float32), labels


def pretraining_loss(terms: Terms, whole: Weights | None = None) -> jax.Array:
    """Mean masked-LM loss plus mean next-sentence loss.

    Args:
        terms: of a batch, or of a part of it.
        whole: `loss_weights` of the batch that the terms are a part of; the parts' losses then add
            up to the loss of the whole. Default: the terms are the whole.
    """
    (mlm_sum, mlm_weight), (nsp_sum, nsp_weight) = terms["mlm_loss"], terms["nsp_loss"]
    if whole is not None:
        mlm_weight, nsp_weight = (each.astype(mlm_sum.dtype) for each in whole)
    return mlm_sum / (mlm_weight + 1e-5) + nsp_sum / jnp.maximum(nsp_weight, 1.0)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood of each label, and 1 where the label has the highest logit."""
    shape = labels.shape
    # Flat: TPUs lay the last two axes out in tiles of 8 x 128, and 20 predictions fill 24 rows.
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    # Not gathered, which would be a pass of its own over all logits, and another one backwards.
    columns = jax.lax.broadcasted_iota(labels.dtype, logits.shape, 1)
    chosen = jnp.sum(jnp.where(columns == labels[:, None], logits, 0), axis=-1)
    # The maximum is there already, whereas argmax alone costs XLA:CPU 3% of a tiny model's step.
    hits = chosen == logits.max(axis=-1)
    losses = log_normalizer - chosen
    return losses.reshape(shape), hits.astype(logits.dtype).reshape(shape)
