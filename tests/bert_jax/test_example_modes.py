# SPDX-License-Identifier: Apache-2.0
"""Training in every mode of examples, and on several stores."""

import json
import math

import pytest

from bert_jax.train import train_and_evaluate
from data_pipeline.errors import ConfigError, DataError
from tests.bert_jax.topics import write_topics_store

SHORT = {"steps": 4, "phases.short.share": 1.0, "phases.long.share": 0.0, "checkpoint.every": 4}


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pairs", ["sentence_order", "none"])
def test_trains_and_evaluates(pairs, make_recipe, topics_store, tmp_path, capsys):
    stores = f"{topics_store}:3,{topics_store}:1"
    config = make_recipe(**SHORT, **{"data.pairs": pairs, "data.store": stores})
    config_again = make_recipe(**SHORT, **{"data.pairs": pairs, "data.store": str(topics_store)})
    summary = train_and_evaluate(config, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    told = capsys.readouterr()
    for row in [*rows, summary["validation"]]:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        named = {name for name in row if "nsp" in name or name == "random_share"}
        assert bool(named) == (pairs != "none")
        if pairs == "none":
            assert row["loss"] == row["mlm_loss"]
    assert ("NSP" in told.out + told.err) == (pairs != "none")
    with pytest.raises(DataError, match="content of the store"):
        train_and_evaluate(config_again, tmp_path / "run")
    with pytest.raises(ConfigError, match="data.dupe_factor: 0 -> 5"):
        train_and_evaluate(
            make_recipe(
                **SHORT, **{"data.pairs": pairs, "data.store": stores, "data.dupe_factor": 5}
            ),
            tmp_path / "run",
        )


def test_stores_of_different_vocabularies_are_refused(make_recipe, topics_store, tmp_path):
    other = write_topics_store(tmp_path / "other", topics=7)
    config = make_recipe(**{"data.store": f"{topics_store}:0.5,{other}:0.5"})
    with pytest.raises(DataError, match="were made with different vocabularies"):
        train_and_evaluate(config, tmp_path / "run")
