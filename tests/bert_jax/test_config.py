# SPDX-License-Identifier: Apache-2.0
"""Recipes become typed configurations; every mistake is refused by the name of its key."""

import dataclasses
import pathlib

import pytest

from bert_jax.config import BertConfig, PhaseSpan, RunConfig
from bert_jax.model_config import SIZES
from bert_jax.run_directory import FREE_KEYS
from bert_jax.typed_mapping import differences
from configs import demo, pretrain
from data_pipeline.errors import ConfigError


def recipe(**changes):
    config = pretrain.get_config("tiny")
    config.data.store = "store"
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config.to_dict()


@pytest.mark.parametrize("size", SIZES)
def test_every_published_size_is_a_recipe(size):
    config = pretrain.get_config(size)
    config.data.store = "store"
    run = RunConfig.from_mapping(config.to_dict())
    assert (run.model.num_layers, run.model.hidden_size) == SIZES[size]
    assert run.model.head_dim == 64
    assert run.model.mlp_size == 4 * run.model.hidden_size


def test_a_pod_changes_how_a_run_is_made_and_not_what_it_computes():
    plain, pod = (pretrain.get_config(choice).to_dict() for choice in ("large", "large,pod"))
    changed = differences(plain, pod)
    assert changed == ["mesh.shard_optimizer: False -> True", "model.unroll: 1 -> 24"]
    assert all(line.startswith(FREE_KEYS) for line in changed)
    with pytest.raises(ConfigError, match="unknown model size 'large,tpu': use one of tiny, mini"):
        pretrain.get_config("large,tpu")


def test_paper_recipe_spends_90_percent_at_128_and_10_at_512():
    assert RunConfig.from_mapping(recipe()).spans() == [
        PhaseSpan(length=128, batch_size=256, first_step=0, last_step=900_000),
        PhaseSpan(length=512, batch_size=256, first_step=900_000, last_step=1_000_000),
    ]


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 99, 1001])
def test_spans_cover_every_step_once(steps):
    spans = RunConfig.from_mapping(recipe(steps=steps, **{"optimizer.warmup_steps": 0})).spans()
    covered = [step for span in spans for step in range(span.first_step, span.last_step)]
    assert covered == list(range(steps))


def test_recipes_set_every_key_that_exists():
    """A recipe shows all there is to set; what it leaves out would be hidden from its reader."""

    def keys(kind):
        return {field.name: field for field in dataclasses.fields(kind)}

    config = pretrain.get_config("tiny")
    assert set(config) == set(keys(RunConfig))
    hints = {"model": BertConfig} | {
        name: field.type
        for name, field in keys(RunConfig).items()
        if hasattr(field.type, "__mro__")
    }
    for name, kind in hints.items():
        if dataclasses.is_dataclass(kind):
            assert set(config[name]) == set(keys(kind)), name


def test_no_field_is_dead():
    """Every field of the configuration is read by some module, by name."""
    root = pathlib.Path(__file__).parents[2]
    code = "".join(
        path.read_text()
        for path in sorted((root / "bert_jax").rglob("*.py"))
        if path.name != "config.py"
    )
    config = pretrain.get_config("tiny")
    groups = {"model", "optimizer", "data", "mesh", "evaluation", "checkpoint", "profile"}
    names = {key for group in groups for key in config[group]} | set(config) - groups
    names |= set(config.phases.short)
    # `share` makes the spans, `vocab_multiple` the padded size: read in config.py itself.
    dead = [
        n
        for n in sorted(names)
        if f".{n}" not in code and n not in ("share", "vocab_multiple", "phases")
    ]
    assert not dead


def test_the_demo_recipe_is_valid():
    config = demo.get_config()
    config.data.store = "store"
    run = RunConfig.from_mapping(config.to_dict())
    assert {span.length for span in run.spans()} == {128, 512}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "config.stepz does not exist: did you mean steps?"),
        ({"model.hidden": 3}, "config.model.hidden does not exist"),
        (
            {"phases.short.lenght": 3},
            "config.phases.short.lenght does not exist: did you mean length",
        ),
        ({"steps": 0}, "steps must be positive"),
        ({"accumulation": 3}, "batch_size 256 is not a multiple of accumulation 3"),
        ({"model.num_heads": 3}, "hidden_size 128 is not a multiple of model.num_heads 3"),
        ({"model.activation": "relu"}, "model.activation 'relu' is not known"),
        ({"model.compute_dtype": "int8"}, "model.compute_dtype 'int8' is not known"),
        ({"model.hidden_dropout": 1.0}, "model.hidden_dropout must lie in"),
        ({"phases.short.share": 0.5}, "shares of the phases add up to 0.6, not to 1"),
        ({"phases.long.length": 1024}, "phases.long.length 1024 exceeds model.max_positions 512"),
        ({"optimizer.warmup_steps": 1_000_000}, "leaves nothing of 1000000 steps"),
        ({"optimizer.name": "sgd"}, "optimizer.name 'sgd' is not known"),
        ({"optimizer.learning_rate": float("nan")}, "learning_rate must be finite, not nan"),
        ({"data.store": ""}, "data.store is empty"),
        ({"data.reader": "grain"}, "data.reader 'grain' is not known"),
        ({"checkpoint.keep_last": 0}, "checkpoint.keep_last must be positive"),
        ({"evaluation.every": 0}, "evaluation.every must be positive"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_mapping(recipe(**changes))
    assert message in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", "many", "config.steps must be of type int, not str"),
        ("steps", 10.5, "config.steps must be of type int, not float"),
        ("steps", True, "config.steps must be of type int, not bool"),
        ("phases", 3, "config.phases must be a group of keys, not 3"),
        ("model", None, "config.model must be a group of keys, not None"),
    ],
)
def test_wrong_types_are_named(key, value, message):
    mapping = recipe() | {key: value}
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        RunConfig.from_mapping(mapping)


def test_missing_key_is_named():
    mapping = recipe()
    del mapping["optimizer"], mapping["data"]["store"]
    with pytest.raises(ConfigError, match="config.optimizer is missing"):
        RunConfig.from_mapping(mapping)


def test_whole_numbers_are_taken_for_fractions():
    assert (
        RunConfig.from_mapping(recipe(**{"optimizer.weight_decay": 0})).optimizer.weight_decay == 0
    )


def test_resolved_configuration_reads_back():
    run = RunConfig.from_mapping(recipe())
    assert RunConfig.from_mapping(dataclasses.asdict(run)) == run


def test_differences_name_dotted_keys():
    saved = {"seed": 1, "model": {"size": 2, "old": 3}}
    current = {"seed": 1, "model": {"size": 2.0, "new": "x"}}
    assert differences(saved, current) == [
        "model.new: absent -> 'x'",
        "model.old: 3 -> absent",
        "model.size: 2 -> 2.0",
    ]


def test_vocabulary_is_padded_to_a_multiple():
    assert BertConfig.preset("tiny").padded_vocab_size == 30592
    assert BertConfig.preset("tiny", vocab_size=256).padded_vocab_size == 256
    assert BertConfig.preset("tiny", vocab_size=1000, vocab_multiple=1).padded_vocab_size == 1000
