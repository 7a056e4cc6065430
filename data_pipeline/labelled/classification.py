# SPDX-License-Identifier: Apache-2.0
"""Rows to examples for tasks with one answer a row: a class, a number, or one of several endings.

Source: `convert_single_example` in `run_classifier.py` of google-research/bert; for multiple
choice section 4.4 (SWAG) of arXiv 1810.04805.
"""

from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.labelled.examples import Examples, assemble
from data_pipeline.labelled.tables import Table, class_numbers, shorten
from data_pipeline.tokenizers import Tokenizer

_MOST_LABELS = 1000


def find_labels(table: Table, column: str) -> tuple[str, ...]:
    """The label set of a column: what stands in it, in alphabetical order.

    Raises:
        DataError: a row has no label, or this cannot be a column of labels.
    """
    found = tuple(sorted(set(table.column(column))))
    if "" in found:
        row = table.column(column).index("")
        raise DataError(f"{table.place(row)}, column {column!r}: no label")
    if not 2 <= len(found) <= _MOST_LABELS:
        raise DataError(
            f"{table.name}, column {column!r} holds {len(found)} different labels; expected 2 to "
            f"{_MOST_LABELS}. For numbers take --config.task=regression"
        )
    return found


def class_targets(table: Table, column: str, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """`label`, int32 [rows]: the place of each row's label in `labels`."""
    return {"label": np.array(class_numbers(table, column, labels), np.int32)}


def number_targets(table: Table, column: str) -> dict[str, np.ndarray]:
    """`label`, float32 [rows]: the number that each row's label says.

    Raises:
        DataError: a label is no finite number.
    """
    numbers = np.empty(len(table.rows), np.float32)
    for row, label in enumerate(table.column(column)):
        try:
            numbers[row] = float(label)
        except ValueError:
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            raise DataError(
                f"{table.place(row)}, column {column!r}: {shorten(label)} is no number, and this "
                "task is a regression"
            )
    return {"label": numbers}


def text_examples(
    table: Table,
    tokenizer: Tokenizer,
    *,
    length: int,
    text_a: str,
    text_b: str = "",
    targets: dict[str, np.ndarray],
) -> Examples:
    """One sequence a row: a single text, or a pair if `text_b` names a column.

    Raises:
        DataError: a column does not exist, or a row has no text.
    """
    first = encode(table, text_a, tokenizer)
    second: list[list[int]] | list[None] = [None] * len(first)
    if text_b:
        second = encode(table, text_b, tokenizer)
    pairs = list(zip(first, second, strict=True))
    for row, (a, b) in enumerate(pairs):
        if not a and not b:
            columns = f"columns {text_a!r} and {text_b!r}" if text_b else f"column {text_a!r}"
            raise DataError(f"{table.place(row)}, {columns}: no text; remove the row or fill it in")
    return assemble(pairs, tokenizer.special, length, targets)


def choice_examples(
    table: Table,
    tokenizer: Tokenizer,
    *,
    length: int,
    text_a: str,
    text_b: str,
    choices: Sequence[str],
    targets: dict[str, np.ndarray],
) -> Examples:
    """One sequence a choice: A, then B and the ending as one text (SWAG: sent1, sent2, ending0-3).

    Args:
        table: the rows.
        tokenizer: of the model.
        length: tokens of a sequence at most.
        text_a: column of the context.
        text_b: column of what every ending continues; empty if there is none.
        choices: columns of the endings.
        targets: see `Examples`.

    Raises:
        DataError: a column does not exist, or a row lacks a context or an ending.
    """
    contexts = encode(table, text_a, tokenizer)
    stems = table.column(text_b) if text_b else [""] * len(table.rows)
    encoded = []
    for column in choices:
        endings = table.column(column)
        for row, ending in enumerate(endings):
            if not ending.strip():
                raise DataError(f"{table.place(row)}, column {column!r}: no text")
        joined = [f"{stem} {ending}".strip() for stem, ending in zip(stems, endings, strict=True)]
        encoded.append(tokenizer.encode_batch(joined))
    for row, context in enumerate(contexts):
        if not context:
            raise DataError(f"{table.place(row)}, column {text_a!r}: no text")
    pairs = [(context, endings[row]) for row, context in enumerate(contexts) for endings in encoded]
    return assemble(pairs, tokenizer.special, length, targets, choices=len(choices))


def encode(table: Table, column: str, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of a column's texts."""
    return tokenizer.encode_batch(table.column(column))
