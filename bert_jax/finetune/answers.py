# SPDX-License-Identifier: Apache-2.0
"""From logits of starts and ends to answers: the n best spans over all windows of a paragraph.

Source: `write_predictions` in `run_squad.py` of google-research/bert. Where the original guesses
back from its tokens to the text (`get_final_text`) and falls back to whole words, the characters
behind each piece are known here.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.finetune.config import QuestionAnswering
from data_pipeline.labelled.squad_windows import Window, max_context
from data_pipeline.tokenizers import AlignedPieces


class Answer(NamedTuple):
    """The answer to a question.

    Attributes:
        text: as it stands in the paragraph; "" if there is said to be none.
        best: the n best, each with text, probability, start_logit and end_logit.
        null_odds: score of no answer minus that of the best one.
    """

    text: str
    best: list[dict[str, Any]]
    null_odds: float


class _Span(NamedTuple):
    text: str
    start: float
    end: float


def find_best(
    context: str,
    pieces: AlignedPieces,
    windows: Sequence[Window],
    outputs: Sequence[np.ndarray],
    options: QuestionAnswering,
) -> Answer:
    """The best answer to one question.

    Args:
        context: the paragraph.
        pieces: of it.
        windows: over it, from left to right.
        outputs: logits of start and end for each window, [length, 2].
        options: how many, how long, and whether "no answer" is one.
    """
    logits = [window_logits.astype(np.float64) for window_logits in outputs]
    scores = [float(found[0, 0] + found[0, 1]) for found in logits]
    nothing = logits[int(np.argmin(scores))][0]  # [CLS], where no answer is learnt to point
    null = _Span("", float(nothing[0]), float(nothing[1]))
    spans = _candidates(windows, logits, options)
    order = np.argsort(-(spans["start_logit"] + spans["end_logit"]), kind="stable")
    found: dict[str, _Span] = {}
    for number in order:
        row = spans[number]
        span = _Span(
            context[pieces.starts[row["first"]] : pieces.ends[row["last"]]],
            float(row["start_logit"]),
            float(row["end_logit"]),
        )
        if options.impossible and null.start + null.end > span.start + span.end:
            found.setdefault("", null)
        if len(found) >= options.n_best:
            break
        found.setdefault(span.text, span)
    if options.impossible:
        found.setdefault("", null)
    best = list(found.values()) or [_Span("empty", 0.0, 0.0)]
    answer = next((span for span in best if span.text), null)
    null_odds = null.start + null.end - answer.start - answer.end
    none = options.impossible and null_odds > options.null_threshold
    return Answer("" if none else answer.text, _as_json(best), null_odds)


def _candidates(
    windows: Sequence[Window], logits: Sequence[np.ndarray], options: QuestionAnswering
) -> np.ndarray:
    """Spans between the likeliest starts and ends of each window, in the original's order."""
    columns = [("first", int), ("last", int), ("start_logit", float), ("end_logit", float)]
    found = []
    for window, scores, kept in zip(windows, logits, max_context(list(windows)), strict=True):
        tokens = window.offset + window.count + 1  # the last is [SEP]; the rest is padding
        starts, ends = (
            np.argsort(-scores[:tokens, side], kind="stable")[: options.n_best] for side in (0, 1)
        )
        first, last = starts - window.offset, ends - window.offset
        inside = (first >= 0) & (first < window.count)
        inside &= kept[np.clip(first, 0, window.count - 1)]
        within = (last >= 0) & (last < window.count)
        length = last[None] - first[:, None] + 1
        rows, others = np.nonzero(
            inside[:, None] & within & (length > 0) & (length <= options.max_answer_length)
        )
        spans = np.empty(len(rows), columns)
        spans["first"], spans["last"] = window.first + first[rows], window.first + last[others]
        spans["start_logit"] = scores[starts[rows], 0]
        spans["end_logit"] = scores[ends[others], 1]
        found.append(spans)
    return np.concatenate(found)


def _as_json(spans: Sequence[_Span]) -> list[dict[str, Any]]:
    """With the softmax of the sums of logits as probabilities."""
    sums = [span.start + span.end for span in spans]
    exponents = [math.exp(value - max(sums)) for value in sums]
    return [
        {
            "text": span.text,
            "probability": exponent / sum(exponents),
            "start_logit": span.start,
            "end_logit": span.end,
        }
        for span, exponent in zip(spans, exponents, strict=True)
    ]
