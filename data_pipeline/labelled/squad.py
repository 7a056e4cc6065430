# SPDX-License-Identifier: Apache-2.0
"""Questions about paragraphs in the JSON of SQuAD 1.1 and 2.0, and where their answers stand.

Source: `read_squad_examples` and `_improve_answer_span` in `run_squad.py` of google-research/bert.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.labelled.tables import shorten
from data_pipeline.sentencepieces import WORD_START
from data_pipeline.tokenizers import AlignedPieces, Tokenizer, word_numbers


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about `contexts[context]`.

    Attributes:
        id: as in the file.
        text: the question.
        context: number of its paragraph.
        answers: the texts that count as right; none in a file without answers.
        start: character of the paragraph where the first answer is said to start; -1 if none.
        impossible: whether the paragraph is said to hold no answer (SQuAD 2.0).
    """

    id: str
    text: str
    context: int
    answers: tuple[str, ...]
    start: int
    impossible: bool


@dataclasses.dataclass(frozen=True)
class Squad:
    """One file; `name` is for messages."""

    name: str
    contexts: list[str]
    questions: list[Question]


def read_squad(path: Path) -> Squad:
    """Reads a file in the layout of SQuAD.

    Raises:
        DataError: it cannot be read, has another layout, holds no question or an empty one, or two
            with the same id.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON file: {error}") from error
    squad = Squad(str(path), [], [])
    try:
        for paragraph in _paragraphs(content):
            squad.contexts.append(paragraph["context"])
            for found in paragraph["qas"]:
                _text(paragraph, "context", path)
                squad.questions.append(_question(found, len(squad.contexts) - 1, path))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path} is not in the layout of SQuAD (data, paragraphs, context, qas, id, question, "
            f"answers, text, answer_start): {type(error).__name__}: {error}"
        ) from error
    if not squad.questions:
        raise DataError(f"{path} holds no questions")
    ids = {question.id for question in squad.questions}
    if len(ids) != len(squad.questions):
        raise DataError(f"{path}: two questions have the same id; predictions are written by id")
    return squad


def _paragraphs(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for article in content["data"]:
        yield from article["paragraphs"]


def _text(holder: dict[str, Any], key: str, path: Path) -> str:
    text: str = holder[key]
    if not text.strip():
        raise DataError(f"{path}: an empty {key}{_of(holder)}; remove it or fill it in")
    return text


def _of(holder: dict[str, Any]) -> str:
    return f" (question {holder['id']})" if "id" in holder else ""


def _question(found: dict[str, Any], context: int, path: Path) -> Question:
    answers = found.get("answers", [])
    return Question(
        id=str(found["id"]),
        text=_text(found, "question", path),
        context=context,
        answers=tuple(answer["text"] for answer in answers),
        start=int(answers[0]["answer_start"]) if answers else -1,
        impossible=bool(found.get("is_impossible", False)),
    )


def find_answer(context: str, start: int, answer: str) -> tuple[int, int] | None:
    """Characters of an answer in its paragraph, or None if it is not there.

    Where the annotation is a little off, as the original allows: the answer may stand anywhere in
    the words that it names, with other white space.
    """
    end = start + len(answer)
    if not answer.strip() or not 0 <= start < len(context):
        return None
    if context[start:end] == answer:
        return start, end
    while start > 0 and not context[start - 1].isspace():
        start -= 1
    while end < len(context) and not (context[end - 1].isspace() or context[end].isspace()):
        end += 1
    match = re.search(r"\s+".join(map(re.escape, answer.split())), context[start:end])
    return (start + match.start(), start + match.end()) if match else None


class AnswerFinder:
    """Finds the pieces of answers in one paragraph.

    The original projects an answer onto whole words and then looks for the answer's own pieces in
    them. Here its characters say which pieces it touches; where these are not the pieces that the
    answer would have alone, as in the original the whole words are taken.
    """

    def __init__(self, context: str, pieces: AlignedPieces, tokenizer: Tokenizer) -> None:
        self._context = context
        self._pieces = pieces
        self._words = word_numbers(context, pieces.starts)
        self._tokenizer = tokenizer

    def __call__(self, start: int, answer: str) -> tuple[int, int] | None:
        """First and last piece of an answer, or None if it is not in the paragraph."""
        found = find_answer(self._context, start, answer)
        if found is None:
            return None
        _, starts, ends = self._pieces
        touched = [n for n in range(len(starts)) if ends[n] > found[0] and starts[n] < found[1]]
        if not touched:
            return None
        first, last = touched[0], touched[-1]
        (alone,) = self._tokenizer.encode_batch([answer])
        if self._surface(self._pieces.ids[first : last + 1]) != self._surface(alone):
            first_word, last_word = self._words[first], self._words[last]
            first = self._words.index(first_word)
            last = len(self._words) - 1 - self._words[::-1].index(last_word)
        return first, last

    def _surface(self, ids: list[int]) -> str:
        # Whether a blank comes first is no part of an answer, but it is of a SentencePiece.
        return " ".join(self._tokenizer.tokens[n] for n in ids).replace(WORD_START, "").strip()


def complain(squad: Squad, missing: list[Question]) -> str:
    """What to tell the user about questions whose answers are not in their paragraphs."""
    example = missing[0]
    return (
        f"{squad.name}: {len(missing):,} of {len(squad.questions):,} questions are left out of "
        f"training, because their answer is not in the context: the first is {example.id}, "
        f"{shorten(example.answers[0])} at character {example.start}"
    )
