# SPDX-License-Identifier: Apache-2.0
"""The original's way to make examples, one sentence and one draw at a time: an oracle for tests.

Reproduces `create_pretraining_data.py` of google-research/bert, whole-word masking included, down
to the order in which numbers are drawn: with the same `random.Random` it makes the same examples
(tests/goldens/original_examples.json). Tokens are ids; a document is a list of sentences, a
sentence a list of tokens.
"""

import dataclasses
import random
from collections.abc import Container, Iterator, Sequence

Document = Sequence[Sequence[int]]


@dataclasses.dataclass
class Example:
    """One example: `tokens` after masking, without padding; the first `a_end` are of segment 0."""

    tokens: list[int]
    a_end: int
    positions: list[int]
    labels: list[int]
    is_random: bool


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the original takes as flags, and the ids it knows by name."""

    length: int
    predictions: int
    vocab_size: int
    cls: int
    sep: int
    mask: int
    short_probability: float = 0.1
    continuations: Container[int] = ()  # ids of pieces that begin with ##; given: whole words


def original_examples(
    documents: Sequence[Document], recipe: Recipe, passes: int, rng: random.Random
) -> list[Example]:
    """`create_training_instances`: shuffled documents, `passes` times, and the result shuffled."""
    documents = list(documents)
    rng.shuffle(documents)
    examples: list[Example] = []
    for _ in range(passes):
        for index in range(len(documents)):
            examples.extend(document_examples(documents, index, recipe, rng))
    rng.shuffle(examples)
    return examples


def document_examples(
    documents: Sequence[Document], index: int, recipe: Recipe, rng: random.Random
) -> Iterator[Example]:
    """`create_instances_from_document`: one pass over one document."""
    document = documents[index]
    room = recipe.length - 3
    target = rng.randint(2, room) if rng.random() < recipe.short_probability else room
    start = 0
    while start < len(document):
        stop, tokens = start, 0
        while stop < len(document) and tokens < target:
            tokens += len(document[stop])
            stop += 1
        a_stop = start + (rng.randint(1, stop - start - 1) if stop - start > 1 else 1)
        a = [token for sentence in document[start:a_stop] for token in sentence]
        is_random = stop - start == 1 or rng.random() < 0.5
        if is_random:
            b = _random_b(documents, index, target - len(a), rng)
        else:
            b = [token for sentence in document[a_stop:stop] for token in sentence]
        truncate(a, b, room, rng)
        tokens_of_pair = [recipe.cls, *a, recipe.sep, *b, recipe.sep]
        positions = mask(tokens_of_pair, recipe, rng)
        masked, ordered = tokens_of_pair[:], sorted(positions)
        for position, shown in positions.items():
            masked[position] = shown
        labels = [tokens_of_pair[position] for position in ordered]
        yield Example(masked, len(a) + 2, ordered, labels, is_random)
        start = a_stop if is_random else stop


def _random_b(
    documents: Sequence[Document], index: int, wanted: int, rng: random.Random
) -> list[int]:
    for _ in range(10):
        other = rng.randint(0, len(documents) - 1)
        if other != index:
            break
    b: list[int] = []
    for sentence in documents[other][rng.randint(0, len(documents[other]) - 1) :]:
        b.extend(sentence)
        if len(b) >= wanted:
            break
    return b


def truncate(a: list[int], b: list[int], room: int, rng: random.Random) -> None:
    """`truncate_seq_pair`."""
    while len(a) + len(b) > room:
        longer = a if len(a) > len(b) else b
        longer.pop(0 if rng.random() < 0.5 else -1)


def mask(tokens: list[int], recipe: Recipe, rng: random.Random) -> dict[int, int]:
    """`create_masked_lm_predictions`: position -> token shown there."""
    words: list[list[int]] = []
    for position, token in enumerate(tokens):
        if token in (recipe.cls, recipe.sep):
            continue
        if words and token in recipe.continuations:
            words[-1].append(position)
        else:
            words.append([position])
    rng.shuffle(words)
    number = min(recipe.predictions, max(1, round(len(tokens) * 0.15)))
    shown: dict[int, int] = {}
    for word in words:
        if len(shown) == number:
            break
        if len(shown) + len(word) > number:
            continue
        for position in word:
            if rng.random() < 0.8:
                shown[position] = recipe.mask
            elif rng.random() < 0.5:
                shown[position] = tokens[position]
            else:
                shown[position] = rng.randint(0, recipe.vocab_size - 1)
    return shown
