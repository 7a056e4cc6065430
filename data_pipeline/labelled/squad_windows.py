# SPDX-License-Identifier: Apache-2.0
"""Paragraphs longer than the model as overlapping windows, each [CLS] question [SEP] part [SEP].

Source: `convert_examples_to_features` and `_check_is_max_context` in `run_squad.py` of
google-research/bert.
"""

import dataclasses

import numpy as np
from absl import logging
from numpy.typing import NDArray

from data_pipeline.errors import ConfigError, DataError
from data_pipeline.labelled.examples import Examples, assemble
from data_pipeline.labelled.squad import AnswerFinder, Question, Squad, complain
from data_pipeline.tokenizers import AlignedPieces, Tokenizer


@dataclasses.dataclass(frozen=True)
class WindowOptions:
    """Tokens of a window, from one window to the next, and of a question at most."""

    length: int
    stride: int = 128
    query: int = 64

    def __post_init__(self) -> None:
        if self.length <= self.query + 3:
            raise ConfigError(
                f"length {self.length} leaves no room for a paragraph after questions of up to "
                f"{self.query} tokens and three special ones: raise length or lower "
                "question_answering.max_query_length"
            )


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a paragraph: `count` pieces from piece `first` on, in the sequence at `offset`."""

    question: int
    first: int
    count: int
    offset: int


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of a file.

    Attributes:
        squad: the file.
        pieces: those of every paragraph.
        windows: those of a question stand together, from left to right.
        examples: their sequences; for training with the targets `start_position` and
            `end_position`, int32 [windows]: 0, the place of [CLS], where the answer is not whole in
            the window or where there is none.
    """

    squad: Squad
    pieces: list[AlignedPieces]
    windows: list[Window]
    examples: Examples

    def of_questions(self) -> dict[int, range]:
        """The numbers of each question's windows."""
        found: dict[int, range] = {}
        for number, window in enumerate(self.windows):
            start = found[window.question].start if window.question in found else number
            found[window.question] = range(start, number + 1)
        return found


def make_windows(
    squad: Squad, tokenizer: Tokenizer, options: WindowOptions, *, training: bool, impossible: bool
) -> Windows:
    """Cuts every question's paragraph into windows.

    Args:
        squad: the file.
        tokenizer: of the model.
        options: sizes.
        training: adds the targets, and leaves out questions whose answer is not in the paragraph,
            with a warning.
        impossible: whether questions without an answer are to be learnt (SQuAD 2.0).

    Raises:
        DataError: for training, a question without answer that is not to be learnt as such.
    """
    pieces = [tokenizer.encode_aligned(context) for context in squad.contexts]
    finders = [
        AnswerFinder(context, aligned, tokenizer)
        for context, aligned in zip(squad.contexts, pieces, strict=True)
    ]
    queries = tokenizer.encode_batch([question.text for question in squad.questions])
    windows: list[Window] = []
    pairs: list[tuple[list[int], list[int]]] = []
    answers: list[tuple[int, int]] = []
    missing: list[Question] = []
    for number, question in enumerate(squad.questions):
        answer = None
        if training and not (impossible and question.impossible):
            if not question.answers:
                raise DataError(_unanswered(squad, question))
            answer = finders[question.context](question.start, question.answers[0])
            if answer is None:
                missing.append(question)
                continue
        query = queries[number][: options.query]
        ids = pieces[question.context].ids
        for first, count in spans(len(ids), options.length - len(query) - 3, options.stride):
            window = Window(number, first, count, len(query) + 2)
            windows.append(window)
            pairs.append((query, ids[first : first + count]))
            answers.append(_in_window(answer, window))
    if missing:
        logging.warning("%s", complain(squad, missing))
    if not windows:
        raise DataError(f"{squad.name}: no question is left")
    targets = {}
    if training:
        columns = np.array(answers, np.int32).T
        targets = {"start_position": columns[0], "end_position": columns[1]}
    examples = assemble(pairs, tokenizer.special, options.length, targets)
    return Windows(squad, pieces, windows, examples)


def spans(pieces: int, room: int, stride: int) -> list[tuple[int, int]]:
    """First piece and number of pieces of each window over a paragraph."""
    found = []
    first = 0
    while first < pieces:
        count = min(pieces - first, room)
        found.append((first, count))
        if first + count == pieces:
            break
        first += min(count, stride)
    return found


def max_context(windows: list[Window]) -> list[NDArray[np.bool_]]:
    """For each piece of each of a question's windows: is it here that it has most context?

    That is the smaller of the numbers of pieces to its left and right; the windows' lengths decide
    between equals, then their order.
    """
    pieces = max(window.first + window.count for window in windows)
    places = np.arange(pieces)
    scores = np.full((len(windows), pieces), -np.inf)
    for row, window in enumerate(windows):
        last = window.first + window.count - 1
        context = np.minimum(places - window.first, last - places) + 0.01 * window.count
        inside = (window.first <= places) & (places <= last)
        scores[row, inside] = context[inside]
    best = scores.argmax(axis=0)
    return [
        best[window.first : window.first + window.count] == row
        for row, window in enumerate(windows)
    ]


def _in_window(answer: tuple[int, int] | None, window: Window) -> tuple[int, int]:
    if answer is None or answer[0] < window.first or answer[1] >= window.first + window.count:
        return 0, 0
    shift = window.offset - window.first
    return answer[0] + shift, answer[1] + shift


def _unanswered(squad: Squad, question: Question) -> str:
    return (
        f"{squad.name}: question {question.id} has no answer to learn from; to learn that a "
        'question has none, as in SQuAD 2.0, it must say "is_impossible": true and the recipe '
        "--config.question_answering.impossible=True"
    )
