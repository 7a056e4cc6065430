# SPDX-License-Identifier: Apache-2.0
"""Parameters, initial values, and what must not change what the model computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bert_jax import attention, dropout
from bert_jax.config import BertConfig
from bert_jax.convert.mapping import flatten
from bert_jax.model import apply_pretraining, encode, init_params
from bert_jax.tasks import pretraining_loss, pretraining_terms
from data_pipeline.batch import BatchSpec, validate
from data_pipeline.errors import DataError

CONFIG = BertConfig(
    vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, mlp_size=64, max_positions=32
)
SPEC = BatchSpec(batch_size=8, length=24)
KEY = jax.random.key(11)


def make_batch(seed=0, spec=SPEC, vocab_size=300):
    """A valid batch of random tokens with ragged lengths."""
    random = np.random.default_rng(seed)
    lengths = random.integers(spec.length // 2, spec.length + 1, spec.batch_size)
    mask = (np.arange(spec.length) < lengths[:, None]).astype(np.int32)
    slots = (spec.batch_size, spec.predictions)
    batch = {
        "input_ids": random.integers(0, vocab_size, mask.shape, dtype=np.int32) * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(spec.length) > 5).astype(np.int32) * mask,
        "masked_positions": np.sort(random.integers(1, 12, slots, dtype=np.int32)),
        "masked_ids": random.integers(0, vocab_size, slots, dtype=np.int32),
        "masked_weights": np.ones(slots, np.float32),
        "next_sentence_label": random.integers(0, 2, spec.batch_size, dtype=np.int32),
    }
    validate(batch, spec, vocab_size)
    return batch


def loss_and_gradients(config, params, batch, key=None):
    def loss(params):
        return pretraining_loss(
            pretraining_terms(apply_pretraining(config, params, batch, key), batch)
        )

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))


@pytest.mark.parametrize("segment", [-1, 2])
def test_a_segment_that_there_is_not_makes_no_number(params, segment):
    ids = np.ones((2, 4), np.int32)
    segments = np.array([[0, 0, 1, 1], [0, 0, 1, segment]], np.int32)
    hidden = encode(CONFIG, params, ids, ids, segments).hidden
    assert np.isfinite(hidden[0]).all()
    assert np.isnan(hidden[1, 3]).all()


def test_parameter_tree_is_the_checkpoint_contract():
    config = dataclasses.replace(CONFIG, num_layers=3, num_heads=4)
    tree = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    assert {path: array.shape for path, array in flatten(tree).items()} == {
        "embeddings/word": (384, 32),
        "embeddings/position": (32, 32),
        "embeddings/segment": (2, 32),
        "embeddings/norm/scale": (32,),
        "embeddings/norm/bias": (32,),
        "encoder/attention/qkv/kernel": (3, 3, 32, 32),
        "encoder/attention/qkv/bias": (3, 3, 32),
        "encoder/attention/output/kernel": (3, 32, 32),
        "encoder/attention/output/bias": (3, 32),
        "encoder/attention/norm/scale": (3, 32),
        "encoder/attention/norm/bias": (3, 32),
        "encoder/mlp/up/kernel": (3, 32, 64),
        "encoder/mlp/up/bias": (3, 64),
        "encoder/mlp/down/kernel": (3, 64, 32),
        "encoder/mlp/down/bias": (3, 32),
        "encoder/mlp/norm/scale": (3, 32),
        "encoder/mlp/norm/bias": (3, 32),
        "pooler/kernel": (32, 32),
        "pooler/bias": (32,),
        "mlm/dense/kernel": (32, 32),
        "mlm/dense/bias": (32,),
        "mlm/norm/scale": (32,),
        "mlm/norm/bias": (32,),
        "mlm/bias": (384,),
        "nsp/kernel": (32, 2),
        "nsp/bias": (2,),
    }
    assert jax.tree.all(jax.tree.map(lambda leaf: isinstance(leaf, jax.Array), tree))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("size", "encoder", "everything"),
    [("base", 109_482_240, 110_106_428), ("large", 335_141_888, 336_226_108)],
)
def test_published_parameter_counts(size, encoder, everything):
    config = BertConfig.preset(size, vocab_size=30522, vocab_multiple=1)
    tree = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    count = {top: sum(leaf.size for leaf in jax.tree.leaves(tree[top])) for top in tree}
    assert count["embeddings"] + count["encoder"] + count["pooler"] == encoder
    assert sum(count.values()) == everything


def test_initial_values():
    config = dataclasses.replace(CONFIG, hidden_size=128, vocab_size=3000)
    flat = flatten(init_params(config, jax.random.key(1)))
    for path, array in flat.items():
        if path.endswith("scale"):
            np.testing.assert_array_equal(array, 1)
        elif path.endswith("bias"):
            np.testing.assert_array_equal(array, 0)
        else:
            drawn = array[: config.vocab_size] if path == "embeddings/word" else array
            assert np.abs(drawn).max() <= 0.04
            # A normal distribution cut at two standard deviations has 0.8796 of its own; four
            # standard errors of the smallest table leave 15%, of the largest 0.5%.
            tolerance = 4 / np.sqrt(drawn.size)
            np.testing.assert_allclose(drawn.std(), 0.02 * 0.8796, rtol=tolerance)
            assert abs(drawn.mean()) < tolerance * 0.02
    assert not flat["embeddings/word"][config.vocab_size :].any()
    layers = flat["encoder/mlp/up/kernel"]
    assert not np.array_equal(layers[0], layers[1])


def test_initial_values_follow_the_key_alone(params):
    make = jax.jit(init_params, static_argnums=0)
    config = dataclasses.replace(CONFIG, unroll=2, remat=True, compute_dtype="bfloat16")
    other_layout, other_key = make(config, jax.random.key(0)), make(CONFIG, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, params, other_layout)
    assert not np.array_equal(params["nsp"]["kernel"], other_key["nsp"]["kernel"])


def test_initial_loss_is_that_of_guessing():
    config = BertConfig.preset("tiny", vocab_size=2000)
    batch = make_batch(spec=BatchSpec(batch_size=64, length=32), vocab_size=2000)

    @jax.jit
    def untrained_terms(key, batch):
        logits = apply_pretraining(config, init_params(config, key), batch)
        return pretraining_terms(logits, batch)

    terms = untrained_terms(jax.random.key(3), batch)
    assert abs(terms["mlm_loss"][0] / terms["mlm_loss"][1] - np.log(2000)) < 0.1
    assert abs(terms["nsp_loss"][0] / terms["nsp_loss"][1] - np.log(2)) < 0.1


def test_padding_tokens_change_nothing(params):
    batch = make_batch()
    noisy = dict(batch)
    padding = 1 - batch["input_mask"]
    noisy["input_ids"] = batch["input_ids"] + 7 * padding
    noisy["segment_ids"] = batch["segment_ids"] + padding
    compute = jax.jit(apply_pretraining, static_argnums=0)
    plain, noised = compute(CONFIG, params, batch), compute(CONFIG, params, noisy)
    np.testing.assert_array_equal(plain.mlm, noised.mlm)
    np.testing.assert_array_equal(plain.nsp, noised.nsp)


def test_more_padding_changes_nothing(params):
    batch = make_batch()
    longer = {
        name: np.pad(array, ((0, 0), (0, 8))) if array.shape[1:] == (24,) else array
        for name, array in batch.items()
    }
    compute = jax.jit(apply_pretraining, static_argnums=0)
    plain, padded = compute(CONFIG, params, batch), compute(CONFIG, params, longer)
    np.testing.assert_allclose(plain.mlm, padded.mlm, atol=1e-6)
    np.testing.assert_allclose(plain.nsp, padded.nsp, atol=1e-6)


@pytest.fixture(scope="module")
def reference(params):
    """Loss and gradients with dropout, whose masks must not move either."""
    return loss_and_gradients(CONFIG, params, make_batch(), KEY)


@pytest.mark.parametrize("changes", [{"unroll": 2}, {"remat": True}])
def test_unroll_and_remat_change_no_value(params, reference, changes):
    config = dataclasses.replace(CONFIG, **changes)
    loss, gradients = loss_and_gradients(config, params, make_batch(), KEY)
    np.testing.assert_allclose(loss, reference[0], rtol=1e-6)
    for found, expected in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(reference[1]), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_vocabulary_padding_changes_nothing(params):
    exact = dataclasses.replace(CONFIG, vocab_multiple=1)
    exact_params = jax.jit(init_params, static_argnums=0)(exact, jax.random.key(0))
    padded = flatten(params)
    for path, array in flatten(exact_params).items():
        rows = slice(300) if path in ("embeddings/word", "mlm/bias") else slice(None)
        np.testing.assert_array_equal(array, padded[path][rows])
    compute = jax.jit(apply_pretraining, static_argnums=0)
    logits, other = (
        compute(exact, exact_params, make_batch()),
        compute(CONFIG, params, make_batch()),
    )
    assert logits.mlm.shape == other.mlm.shape == (8, 4, 300)
    # The matrix product may add in another order when its result is wider.
    np.testing.assert_allclose(logits.mlm, other.mlm, atol=1e-6)
    np.testing.assert_array_equal(logits.nsp, other.nsp)


def test_encode_returns_every_layer(params):
    batch = make_batch()
    inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
    compute = jax.jit(encode, static_argnums=0, static_argnames="all_layers")
    output = compute(CONFIG, params, *inputs, all_layers=True)
    assert output.layers.shape == (3, 8, 24, 32)
    np.testing.assert_array_equal(output.layers[-1], output.hidden)
    assert output.pooled.shape == (8, 32)
    assert jax.eval_shape(lambda: encode(CONFIG, params, *inputs)).layers is None


@pytest.mark.parametrize("length", [1, 32])
def test_shortest_and_longest_input(params, length):
    ids = np.ones((2, length), np.int32)
    output = encode(CONFIG, params, ids, ids, ids)
    assert output.hidden.shape == (2, length, 32)
    assert np.isfinite(output.hidden).all()


def test_too_long_input_is_refused(params):
    ids = np.ones((2, 33), np.int32)
    with pytest.raises(DataError, match="33 tokens.*at most 32"):
        encode(CONFIG, params, ids, ids, ids)


def test_bfloat16_stays_close_to_float32(params):
    half = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    batch = make_batch()
    types = jax.eval_shape(lambda: apply_pretraining(half, params, batch))
    assert types.mlm.dtype == types.nsp.dtype == np.float32
    ids = batch["input_ids"]
    assert jax.eval_shape(lambda: encode(half, params, ids, ids, ids)).hidden.dtype == jnp.bfloat16
    loss, gradients = loss_and_gradients(CONFIG, params, batch)
    half_loss, half_gradients = loss_and_gradients(half, params, batch)
    np.testing.assert_allclose(half_loss, loss, rtol=2e-3)
    # Relative to all gradients: a query's or key's is a small difference of large terms.
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradients)))
    for leaf, half_leaf in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(half_gradients), strict=True
    ):
        assert half_leaf.dtype == np.float32
        assert 0 < np.linalg.norm(np.asarray(leaf - half_leaf)) < 0.02 * norm


def test_gradients_agree_with_finite_differences():
    config = dataclasses.replace(
        CONFIG, vocab_size=11, hidden_size=8, mlp_size=12, num_layers=1, compute_dtype="float64"
    )
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: 5 * x.astype(jnp.float64), init_params(config, KEY))
        batch = make_batch(spec=BatchSpec(batch_size=2, length=12), vocab_size=11)

        @jax.jit
        def loss(params):
            logits = apply_pretraining(config, params, batch, KEY)
            return pretraining_loss(pretraining_terms(logits, batch))

        check_grads(loss, (params,), order=1, modes=["rev"], eps=1e-5, rtol=1e-6)


def test_dropout_is_where_the_original_has_it(params, monkeypatch):
    config = dataclasses.replace(CONFIG, hidden_dropout=0.25, attention_dropout=0.5)
    calls = []

    def record(shape, rate, key):
        calls.append((shape, rate, key is not None))
        return None, 1.0

    for owner in (dropout, attention):
        monkeypatch.setattr(owner, "draw_kept", record)
    jax.eval_shape(lambda: apply_pretraining(config, params, make_batch(), KEY))
    # The embeddings after their LayerNorm, then in a layer: attention probabilities, attention
    # output, output of the inner layers. The layers are traced once.
    hidden, probabilities = (8, 24, 32), (8, 2, 24, 24)
    assert calls == [
        (hidden, 0.25, True),
        (probabilities, 0.5, True),
        (hidden, 0.25, True),
        (hidden, 0.25, True),
    ]


def test_every_dropout_of_every_layer_has_its_own_key(params, monkeypatch):
    seen = []

    def record(shape, rate, key):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return None, 1.0

    for owner in (dropout, attention):
        monkeypatch.setattr(owner, "draw_kept", record)
    jax.block_until_ready(apply_pretraining(CONFIG, params, make_batch(), KEY))
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 1 + 3 * CONFIG.num_layers


def test_dropout_follows_its_key_alone(params):
    compute = jax.jit(lambda key: apply_pretraining(CONFIG, params, make_batch(), key).mlm)
    np.testing.assert_array_equal(compute(KEY), compute(KEY))
    assert not np.array_equal(compute(KEY), compute(jax.random.key(12)))


def test_no_rates_mean_no_dropout(params):
    config = dataclasses.replace(CONFIG, hidden_dropout=0.0, attention_dropout=0.0)
    compute = jax.jit(apply_pretraining, static_argnums=0)
    with_key = compute(config, params, make_batch(), KEY)
    np.testing.assert_array_equal(with_key.mlm, compute(CONFIG, params, make_batch()).mlm)
