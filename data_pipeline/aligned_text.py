# SPDX-License-Identifier: Apache-2.0
"""Text that remembers, through cleaning, lower-casing and decomposing, where it came from.

A tokenizer changes text before it looks for pieces. Whoever wants the words of the user back (an
answer as it stands in its paragraph, a vector for every word) needs to know which characters of the
original text a piece stands for.
"""

import bisect
import dataclasses
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_WORD = re.compile(r"\S+")


class AlignedPieces(NamedTuple):
    """Pieces of a text: piece n has the id `ids[n]` and stands for `text[starts[n]:ends[n]]`.

    Pieces of one character share it (those of a Korean syllable, the 1 and the 2 of ½).
    """

    ids: list[int]
    starts: list[int]
    ends: list[int]


@dataclasses.dataclass
class AlignedText:
    """Character n of `text` stands for `starts[n]` up to, not including, `ends[n]` of the source.

    The functions below do what `str.translate`, `str.lower` and `unicodedata.normalize` do.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


def align(text: str) -> AlignedText:
    """Text as it comes."""
    return AlignedText(text, range(len(text)), range(1, len(text) + 1))


def translate(aligned: AlignedText, table: Mapping[int, str | None]) -> AlignedText:
    """Replaces every character by what `table` says; marks that it drops stay with their letter."""
    characters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for character, start, end in zip(aligned.text, aligned.starts, aligned.ends, strict=True):
        value = table[ord(character)]
        if value is None:
            if ends and unicodedata.category(character) == "Mn":
                ends[-1] = max(end, ends[-1])
            continue
        characters.append(value)
        starts.extend([start] * len(value))
        ends.extend([end] * len(value))
    return AlignedText("".join(characters), starts, ends)


def lower(aligned: AlignedText) -> AlignedText:
    """Lower case of the whole text: a sigma at the end of a word depends on its neighbours."""
    lengths = [len(character.lower()) for character in aligned.text]
    return AlignedText(
        aligned.text.lower(), _repeat(aligned.starts, lengths), _repeat(aligned.ends, lengths)
    )


def decompose(aligned: AlignedText) -> AlignedText:
    """Unicode's form NFD: characters taken apart, marks in their canonical order."""
    parts = [unicodedata.normalize("NFD", character) for character in aligned.text]
    lengths = [len(part) for part in parts]
    text = "".join(parts)
    starts, ends = _repeat(aligned.starts, lengths), _repeat(aligned.ends, lengths)
    classes = [unicodedata.combining(character) for character in text]
    order: list[int] = []
    place = 0
    while place < len(text):
        last = place + 1
        while classes[place] and last < len(text) and classes[last]:
            last += 1
        order.extend(sorted(range(place, last), key=classes.__getitem__))
        place = last
    return AlignedText(
        "".join(text[place] for place in order),
        [starts[place] for place in order],
        [ends[place] for place in order],
    )


def drop_marks(aligned: AlignedText) -> AlignedText:
    """Without the characters of Unicode's category Mn, the accents of decomposed text."""
    table = {ord(c): None if unicodedata.category(c) == "Mn" else c for c in set(aligned.text)}
    return translate(aligned, table)


def words(aligned: AlignedText) -> Iterator[AlignedText]:
    """The parts between white space, as `str.split`."""
    place = 0
    for word in aligned.text.split():
        place = aligned.text.index(word, place)
        last = place + len(word)
        yield AlignedText(word, aligned.starts[place:last], aligned.ends[place:last])
        place = last


def word_numbers(text: str, starts: Sequence[int]) -> list[int]:
    """For each place in `text` the number of the blank-separated word it is in.

    A place in white space belongs to the word after it, or to the last one.
    """
    ends = [match.end() for match in _WORD.finditer(text)]
    return [min(bisect.bisect_right(ends, start), len(ends) - 1) for start in starts]


def _repeat(numbers: Sequence[int], times: Sequence[int]) -> list[int]:
    return [number for number, count in zip(numbers, times, strict=True) for _ in range(count)]
