# SPDX-License-Identifier: Apache-2.0
"""The optimiser of the original, with bias-corrected AdamW and LAMB beside it.

Source: `optimization.py` of google-research/bert (`AdamWeightDecayOptimizer`, learning rate and
clipping), arXiv 1904.00962 for LAMB.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig
from data_pipeline.errors import ConfigError

UNDECAYED = ("norm", "bias")


def learning_rate_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then the line that falls from the full rate at step 0 to 0 at the end.

    The decay counts from step 0 as in the original, so the rate drops a little where the lines
    meet: with 10,000 of 1,000,000 steps of warm-up, from 1e-4 to 0.99e-4.

    Returns:
        Function of the number of updates made so far.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, dtype=float)
        warm = step / max(config.warmup_steps, 1)
        decayed = jnp.maximum(total_steps - step, 0.0) / total_steps
        return config.learning_rate * jnp.where(step < config.warmup_steps, warm, decayed)

    return schedule


def decay_mask(params: Any) -> Any:
    """True for every parameter with weight decay: all but LayerNorm's and biases, by name."""

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        return not any(entry.key in UNDECAYED for entry in path)

    return jax.tree_util.tree_map_with_path(decayed, params)


class BertAdamState(NamedTuple):
    """Running means of the gradient and of its square."""

    mu: Any
    nu: Any


def scale_by_bert_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam as in the original: no bias correction, epsilon outside the root.

    The first update is 0.1 / sqrt(0.001) = 3.16 times the gradient's sign, where Adam with bias
    correction has 1.
    """

    def init(params: Any) -> BertAdamState:
        return BertAdamState(
            mu=jax.tree.map(jnp.zeros_like, params), nu=jax.tree.map(jnp.zeros_like, params)
        )

    def update(
        gradients: Any, state: BertAdamState, params: Any = None
    ) -> tuple[Any, BertAdamState]:
        del params
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * jnp.square(g), state.nu, gradients)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        return updates, BertAdamState(mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def scale_by_layer_trust_ratio() -> optax.GradientTransformation:
    """LAMB's trust ratio |parameter| / |update|, one for each matrix of each layer.

    Stacked layers, and query, key and value side by side, would otherwise share one ratio.
    """

    def scale(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
        names = [entry.key for entry in path]
        apart = (0, 1) if "qkv" in names else (0,) if "encoder" in names else ()
        axes = tuple(axis for axis in range(param.ndim) if axis not in apart)
        param_norm = jnp.sqrt(jnp.sum(jnp.square(param), axes, keepdims=True))
        update_norm = jnp.sqrt(jnp.sum(jnp.square(update), axes, keepdims=True))
        usable = (param_norm > 0) & (update_norm > 0)
        return update * jnp.where(usable, param_norm / jnp.where(usable, update_norm, 1.0), 1.0)

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return jax.tree_util.tree_map_with_path(scale, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clip, scale, decay, and step by the learning rate, in this order.

    With `config.per_replica` nothing is clipped here: the training step does that on each device.

    Raises:
        ConfigError: `config.name` is not known.
    """
    adam = (config.beta1, config.beta2, config.epsilon)
    if config.name == "bert_adam":
        scale, adapt = scale_by_bert_adam(*adam), optax.identity()
    elif config.name == "adamw":
        scale, adapt = optax.scale_by_adam(*adam), optax.identity()
    elif config.name == "lamb":
        # Parameters without decay are not adapted either, as in the authors' code.
        adapt = optax.masked(scale_by_layer_trust_ratio(), decay_mask)
        scale = optax.scale_by_adam(*adam)
    else:
        raise ConfigError(
            f"optimizer.name {config.name!r} is not known: use 'bert_adam', 'adamw' or 'lamb'"
        )
    clip = optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(
        optax.identity() if config.per_replica else clip,
        scale,
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        adapt,
        optax.scale_by_learning_rate(learning_rate_schedule(config, total_steps)),
    )
