# SPDX-License-Identifier: Apache-2.0
"""A recipe as a run, without the store that a real run takes its vocabulary from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bert_jax.config import RunConfig


def load(mapping: Mapping[str, Any], vocab_size: int) -> RunConfig:
    """The run of a recipe (`ConfigDict.to_dict()`); `vocab_size` where it leaves that to the store.

    Raises:
        ConfigError: the recipe is no good.
    """
    data = mapping["data"] | {"store": mapping["data"]["store"] or "not read to plan"}
    config = RunConfig.from_mapping({**mapping, "data": data})
    if config.model.vocab_size:
        return config
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    return dataclasses.replace(config, model=model)
