# SPDX-License-Identifier: Apache-2.0
"""Words with tags in the columns of CoNLL, and the sequences of pieces a model sees of them.

A line is a word and its columns, separated by tabs or else by blanks; an empty line ends a
sentence; lines that start with -DOCSTART- mark documents and are passed over. Every word is cut
into pieces by itself, and its tag stands on the first one (arXiv 1810.04805, section 5.3).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.errors import ConfigError, DataError
from data_pipeline.labelled.examples import Examples, assemble
from data_pipeline.labelled.tables import shorten
from data_pipeline.text_files import TextFile
from data_pipeline.tokenizers import Tokenizer

NO_TAG = -1  # target of pieces that continue a word, of special tokens and of padding
_DOCUMENT = "-DOCSTART-"


@dataclasses.dataclass(frozen=True)
class Conll:
    """A file.

    Attributes:
        name: for messages.
        lines: all of them, as they are.
        sentences: for each the numbers of its lines.
    """

    name: str
    lines: list[str]
    sentences: list[list[int]]

    def column(self, column: str) -> list[list[str]]:
        """What stands in one column of every sentence.

        Args:
            column: "first", "last" or a number from 1.

        Raises:
            DataError: a line has no such column, or nothing in it.
        """
        place = column_place(column)
        found = []
        for sentence in self.sentences:
            values = []
            for number in sentence:
                fields = _fields(self.lines[number])
                if not -len(fields) <= place < len(fields) or not fields[place]:
                    raise DataError(
                        f"{self.name}, line {number + 1} has nothing in column {column}: "
                        f"{shorten(self.lines[number])}"
                    )
                values.append(fields[place])
            found.append(values)
        return found


def column_place(column: str) -> int:
    """Where a column is in a list of them.

    Raises:
        ConfigError: it is neither "first" nor "last" nor a number from 1.
    """
    if column in ("first", "last"):
        return 0 if column == "first" else -1
    if not column.isdecimal() or int(column) < 1:
        raise ConfigError(f"column {column!r}: say first, last or a number from 1")
    return int(column) - 1


def _fields(line: str) -> list[str]:
    return line.rstrip().split("\t") if "\t" in line else line.split()


def read_conll(path: Path) -> Conll:
    """Reads a file.

    Raises:
        DataError: it cannot be read, or holds no words.
    """
    with TextFile(path) as file:
        lines = list(file.lines(whole=True))
    sentences: list[list[int]] = [[]]
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith(_DOCUMENT):
            sentences[-1].append(number)
        elif sentences[-1]:
            sentences.append([])
    if not sentences[-1]:
        sentences.pop()
    if not sentences:
        raise DataError(f"{path} holds no words")
    return Conll(str(path), lines, sentences)


@dataclasses.dataclass(frozen=True)
class Tagged:
    """A file as sequences.

    Attributes:
        conll: the file.
        examples: [CLS] pieces [SEP]; with tags also the target `tag`, int32 [sequences, length].
        places: for each sentence its words' sequences and first pieces in them, int [words, 2].
    """

    conll: Conll
    examples: Examples
    places: list[np.ndarray]


def find_tags(conll: Conll, column: str) -> tuple[str, ...]:
    """The tags of a file in alphabetical order.

    Raises:
        DataError: there is only one, which leaves nothing to learn.
    """
    found = tuple(sorted({tag for tags in conll.column(column) for tag in tags}))
    if len(found) < 2:
        raise DataError(f"{conll.name}: all words have the tag {found[0]!r}: nothing to learn")
    return found


def make_tagged(
    conll: Conll,
    tokenizer: Tokenizer,
    *,
    length: int,
    words: str,
    tags: str,
    labels: Sequence[str],
) -> Tagged:
    """Cuts words into pieces, and sentences longer than `length` into several sequences.

    Args:
        conll: the file.
        tokenizer: of the model.
        length: tokens of a sequence at most.
        words: column of the words.
        tags: column of the tags; empty for a file without.
        labels: the label set.

    Raises:
        DataError: a column that is not there, or a tag that is not in the label set.
    """
    room = length - 2
    sequences: list[list[int]] = []
    targets: list[np.ndarray] = []
    places: list[np.ndarray] = []
    sentences = conll.column(words)
    numbers = _tag_numbers(conll, tags, labels) if tags else [[NO_TAG] * len(s) for s in sentences]
    for sentence, own in zip(sentences, numbers, strict=True):
        where = np.empty((len(sentence), 2), int)
        sequences.append([])
        targets.append(np.full(length, NO_TAG, np.int32))
        for word, (pieces, tag) in enumerate(
            zip(tokenizer.encode_batch(sentence), own, strict=True)
        ):
            # A word of nothing but control characters still needs a place for its tag.
            pieces = (pieces or [tokenizer.special.unk])[:room]
            if len(sequences[-1]) + len(pieces) > room:
                sequences.append([])
                targets.append(np.full(length, NO_TAG, np.int32))
            where[word] = len(sequences) - 1, len(sequences[-1]) + 1
            targets[-1][where[word, 1]] = tag
            sequences[-1] += pieces
        places.append(where)
    examples = assemble(
        [(pieces, None) for pieces in sequences],
        tokenizer.special,
        length,
        {"tag": np.stack(targets)} if tags else {},
    )
    return Tagged(conll, examples, places)


def _tag_numbers(conll: Conll, column: str, labels: Sequence[str]) -> list[list[int]]:
    known = {label: number for number, label in enumerate(labels)}
    found = conll.column(column)
    for sentence, tags in zip(conll.sentences, found, strict=True):
        for line, tag in zip(sentence, tags, strict=True):
            if tag not in known:
                raise DataError(
                    f"{conll.name}, line {line + 1}: the tag {shorten(tag)} is not in the label "
                    f"set ({', '.join(labels)}); correct the line, or name the whole set with "
                    "--config.data.labels"
                )
    return [[known[tag] for tag in tags] for tags in found]


def with_tags(conll: Conll, tags: Sequence[Sequence[str]]) -> str:
    """The file with one more column at the end, as `conlleval` reads it."""
    lines = list(conll.lines)
    for sentence, own in zip(conll.sentences, tags, strict=True):
        for number, tag in zip(sentence, own, strict=True):
            separator = "\t" if "\t" in lines[number] else " "
            lines[number] = f"{lines[number].rstrip()}{separator}{tag}"
    return "\n".join(lines) + "\n"
