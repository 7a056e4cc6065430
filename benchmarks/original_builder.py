# SPDX-License-Identifier: Apache-2.0
"""The original's way from text to examples, as a peer of `benchmarks/prepare.py`.

A literal port of `FullTokenizer` in `tokenization.py` of google-research/bert, character by
character as there, in front of the port of `create_pretraining_data.py` that the tests check
against the original's own output, and `write_instance_to_example_files` behind it.
"""

import collections
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.data_pipeline.original_examples import Example, Recipe, original_examples


def _is_whitespace(char: str) -> bool:
    if char in (" ", "\t", "\n", "\r"):
        return True
    return unicodedata.category(char) == "Zs"


def _is_control(char: str) -> bool:
    if char in ("\t", "\n", "\r"):
        return False
    return unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(char).startswith("P")


def _is_chinese(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


class OriginalTokenizer:
    """`FullTokenizer`, for vocabularies in lower case."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._ids = {token: number for number, token in enumerate(tokens)}

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return [self._ids[piece] for word in self._basic(text) for piece in self._word_pieces(word)]

    def _basic(self, text: str) -> list[str]:
        output = []
        for char in text:
            code = ord(char)
            if code == 0 or code == 0xFFFD or _is_control(char):
                continue
            output.append(" " if _is_whitespace(char) else char)
        spaced = []
        for char in "".join(output):
            spaced += [" ", char, " "] if _is_chinese(ord(char)) else [char]
        words = []
        for token in "".join(spaced).strip().split():
            stripped = [
                char
                for char in unicodedata.normalize("NFD", token.lower())
                if unicodedata.category(char) != "Mn"
            ]
            words.extend(self._split_on_punctuation("".join(stripped)))
        return " ".join(words).strip().split()

    def _split_on_punctuation(self, text: str) -> list[str]:
        output: list[list[str]] = []
        start_new_word = True
        for char in text:
            if _is_punctuation(char):
                output.append([char])
                start_new_word = True
            else:
                if start_new_word:
                    output.append([])
                start_new_word = False
                output[-1].append(char)
        return ["".join(chars) for chars in output]

    def _word_pieces(self, token: str) -> list[str]:
        chars = list(token)
        if len(chars) > 200:
            return ["[UNK]"]
        pieces = []
        start = 0
        while start < len(chars):
            end = len(chars)
            found = None
            while start < end:
                piece = "".join(chars[start:end])
                if start > 0:
                    piece = "##" + piece
                if piece in self._ids:
                    found = piece
                    break
                end -= 1
            if found is None:
                return ["[UNK]"]
            pieces.append(found)
            start = end
        return pieces


def build(
    lines: Sequence[str], tokens: Sequence[str], recipe: Recipe, passes: int, output: Path
) -> int:
    """`main`: from a text of one sentence a line to a file of TFRecords.

    Returns:
        the number of examples.
    """
    tokenizer = OriginalTokenizer(tokens)
    documents: list[list[list[int]]] = [[]]
    for line in lines:
        line = line.strip()
        if not line:
            documents.append([])
        elif ids := tokenizer.encode(line):
            documents[-1].append(ids)
    documents = [document for document in documents if document]
    examples = original_examples(documents, recipe, passes, random.Random(12345))
    with tf.io.TFRecordWriter(str(output)) as writer:
        for example in examples:
            writer.write(_record(example, recipe).SerializeToString())
    return len(examples)


def _record(example: Example, recipe: Recipe) -> Any:
    """One instance of `write_instance_to_example_files`."""
    input_ids = list(example.tokens)
    input_mask = [1] * len(input_ids)
    segment_ids = [0] * example.a_end + [1] * (len(input_ids) - example.a_end)
    while len(input_ids) < recipe.length:
        input_ids.append(0)
        input_mask.append(0)
        segment_ids.append(0)
    positions, ids = list(example.positions), list(example.labels)
    weights = [1.0] * len(ids)
    while len(positions) < recipe.predictions:
        positions.append(0)
        ids.append(0)
        weights.append(0.0)
    features: Any = collections.OrderedDict()
    features["input_ids"] = _integers(input_ids)
    features["input_mask"] = _integers(input_mask)
    features["segment_ids"] = _integers(segment_ids)
    features["masked_lm_positions"] = _integers(positions)
    features["masked_lm_ids"] = _integers(ids)
    features["masked_lm_weights"] = tf.train.Feature(float_list=tf.train.FloatList(value=weights))
    features["next_sentence_labels"] = _integers([1 if example.is_random else 0])
    return tf.train.Example(features=tf.train.Features(feature=features))


def _integers(values: Sequence[int]) -> Any:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=list(values)))
