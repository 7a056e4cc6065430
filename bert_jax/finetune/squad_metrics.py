# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 of answers, in percent, as the official scripts of SQuAD count them.

Source: `evaluate-v1.1.py` and `evaluate-v2.0.py` of SQuAD (tests/goldens/squad_figures.json holds
what these two say). No maintained library has them without PyTorch or a download.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

Answers = Mapping[str, Sequence[str]]  # id of a question -> the answers that count as right


def normalize(text: str) -> str:
    """Lower case, without punctuation and articles, one blank between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact(prediction: str, answer: str) -> float:
    """1 if both are normalised to the same, else 0."""
    return float(normalize(prediction) == normalize(answer))


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the words; 0 if they share none."""
    predicted, wanted = normalize(prediction).split(), normalize(answer).split()
    shared = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def squad1_figures(answers: Answers, predictions: Mapping[str, str]) -> dict[str, float]:
    """`exact_match` and `f1` of `evaluate-v1.1.py`."""
    pairs = [(predictions[number], right) for number, right in answers.items()]
    return {
        "exact_match": _percent([max(exact(said, one) for one in right) for said, right in pairs]),
        "f1": _percent([max(f1(said, one) for one in right) for said, right in pairs]),
    }


def squad2_figures(
    answers: Answers, predictions: Mapping[str, str], null_odds: Mapping[str, float]
) -> dict[str, float]:
    """The figures of `evaluate-v2.0.py` with the file of odds as `--na-prob-file`.

    Args:
        answers: of every question; none where there is no answer.
        predictions: "" where there is said to be no answer.
        null_odds: by how much the model prefers no answer.

    Returns:
        exact, f1, each also for questions with (HasAns_) and without answer (NoAns_), and the best
        that a threshold on the odds could reach (best_, best_..._thresh).
    """
    scores: dict[str, dict[str, float]] = {"exact": {}, "f1": {}}
    for number, right in answers.items():
        wanted = [answer for answer in right if normalize(answer)] or [""]
        said = predictions[number]
        scores["exact"][number] = max(exact(said, one) for one in wanted)
        scores["f1"][number] = max(_f1_or_agree(said, one) for one in wanted)
    groups = {
        "": list(answers),
        "HasAns_": [number for number, right in answers.items() if right],
        "NoAns_": [number for number, right in answers.items() if not right],
    }
    figures = {
        f"{group}{name}": _percent([values[number] for number in members])
        for group, members in groups.items()
        if members
        for name, values in scores.items()
    }
    for name, values in scores.items():
        best, threshold = _best_threshold(answers, predictions, values, null_odds)
        figures |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return figures


def _f1_or_agree(prediction: str, answer: str) -> float:
    # In SQuAD 2.0 nothing agrees with nothing, also when only articles are left out of both.
    if not normalize(prediction) or not normalize(answer):
        return exact(prediction, answer)
    return f1(prediction, answer)


def _best_threshold(
    answers: Answers,
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    null_odds: Mapping[str, float],
) -> tuple[float, float]:
    """Answers are given in the order of rising odds until the sum of scores is highest."""
    score = best = float(sum(not right for right in answers.values()))
    threshold = 0.0
    for number in sorted(null_odds, key=null_odds.__getitem__):
        if answers[number]:
            score += scores[number]
        elif predictions[number]:
            score -= 1
        if score > best:
            best, threshold = score, null_odds[number]
    return 100 * best / len(answers), threshold


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
