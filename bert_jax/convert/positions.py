# SPDX-License-Identifier: Apache-2.0
"""Another number of positions for a trained model, which has to be asked for."""

import dataclasses

import numpy as np

from bert_jax.config import BertConfig
from bert_jax.convert.mapping import Parameters


def resize_positions(
    config: BertConfig, params: Parameters, max_positions: int
) -> tuple[BertConfig, Parameters]:
    """Cuts the position table, or extends it by its own rows from the first one on.

    Texts that fit both lengths give the same results before and after. The extension repeats the
    table as Longformer did (Beltagy et al. 2020, section 5): the model keeps what it knows of
    neighbours, and has to be trained further to tell the repetitions apart.

    Args:
        config: the model.
        params: its parameters.
        max_positions: rows of the new table.
    """
    table = params["embeddings"]["position"]
    rows = np.arange(max_positions) % config.max_positions
    embeddings = params["embeddings"] | {"position": np.asarray(table)[rows]}
    return (
        dataclasses.replace(config, max_positions=max_positions),
        params | {"embeddings": embeddings},
    )
