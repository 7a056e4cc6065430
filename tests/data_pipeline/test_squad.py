# SPDX-License-Identifier: Apache-2.0
"""Questions, windows and answer positions against the original's code, and files as users have."""

import json
import logging
import random

import numpy as np
import pytest

from data_pipeline.errors import ConfigError, DataError
from data_pipeline.labelled.squad import find_answer, read_squad
from data_pipeline.labelled.squad_windows import WindowOptions, make_windows, max_context, spans
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline import original_squad

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SIGNS = "().,-'"
WORDS = ["the", "ship", "japan", "##ese", "18", "##95", "cafe", "##s"]
VOCABULARY = [*SPECIAL_NAMES, *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS), *SIGNS]
PARTS = ["the", "ship", "Japanese", "(1895-1895).", "Café's", "a b", "\u202f", "x,y", "\n", "18"]


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lower_case=True)


def paragraph(context, *questions):
    """Questions are (id, question, answer, start); without an answer they are impossible."""
    return {
        "context": context,
        "qas": [
            {
                "id": number,
                "question": question,
                "answers": [{"text": answer, "answer_start": start}] if answer else [],
                "is_impossible": not answer,
            }
            for number, question, answer, start in questions
        ],
    }


def write(tmp_path, *paragraphs):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": list(paragraphs)}]}), "utf-8")
    return path


def random_paragraphs(seed):
    """Answers cut at random characters, many in the middle of words and pieces."""
    draw = random.Random(seed)
    for number in range(40):
        context = " ".join(draw.choices(PARTS, k=draw.randint(3, 60)))
        questions = []
        for place in range(draw.randint(1, 3)):
            start = draw.randrange(len(context))
            answer = context[start : start + draw.randint(1, 25)]
            answer = answer.strip() if draw.random() < 0.9 else "zz"
            start = context.find(answer, start) if answer in context else 0
            if draw.random() < 0.1:
                answer = ""
            question = "what " * draw.randint(1, 6)
            questions.append((f"{number}-{place}", question, answer, start))
        yield paragraph(context, *questions)


def tokens_of(tokenizer, text):
    return [tokenizer.tokens[number] for number in tokenizer.encode_batch([text])[0]]


def test_windows_are_those_of_the_original(tmp_path, tokenizer) -> None:
    paragraphs = list(random_paragraphs(0))
    squad = read_squad(write(tmp_path, *paragraphs))
    options = WindowOptions(40, stride=16, query=12)
    windows = make_windows(squad, tokenizer, options, training=True, impossible=True)
    data = [{"paragraphs": paragraphs}]
    examples = original_squad.read_squad_examples(data, True, True)

    def tokenize(text):
        return tokens_of(tokenizer, text)

    features = original_squad.convert_examples_to_features(examples, tokenize, 40, 16, 12, True)
    assert 60 < len(examples) < len(squad.questions)  # some answers are not there
    assert len(features) == len(windows.windows) > 2 * len(examples)
    batch = windows.examples.batch(np.arange(len(features)), 40)
    ranges = windows.of_questions()
    answered = 0
    for number, (feature, window) in enumerate(zip(features, windows.windows, strict=True)):
        length = int(batch["input_mask"][number].sum())
        ids = batch["input_ids"][number, :length]
        assert [tokenizer.tokens[n] for n in ids] == feature["tokens"]
        assert batch["segment_ids"][number, :length].tolist() == feature["segment_ids"]
        assert squad.questions[window.question].id == examples[feature["example_index"]]["qas_id"]
        expected = slice(feature["start_position"], feature["end_position"] + 1)
        found = slice(batch["start_position"][number], batch["end_position"][number] + 1)
        # Where an answer stands twice in its words, the original takes the first place.
        assert feature["tokens"][found] == feature["tokens"][expected]
        answered += expected.start > 0
        best = dict(
            zip(feature["token_is_max_context"], _best(windows, ranges, number), strict=True)
        )
        assert best == feature["token_is_max_context"]
    assert answered > 50


def _best(windows, ranges, number):
    own = ranges[windows.windows[number].question]
    return max_context([windows.windows[n] for n in own])[number - own.start].tolist()


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        ("He was born (1895-1943).", "1895", "18 ##95"),
        ("Japanese electronics", "Japan", "japan"),
        ("the Japanese", "apan", "japan ##ese"),
        ("a Café's", "Café", "cafe"),
        ("the x\n\n ship", "x ship", "x ship"),
    ],
)
def test_answers_are_the_closest_pieces(tmp_path, tokenizer, context, answer, expected) -> None:
    start = max(context.find(answer), 4 if " ship" in answer else 0)
    squad = read_squad(write(tmp_path, paragraph(context, ("a", "which", answer, start))))
    options = WindowOptions(64, query=8)
    windows = make_windows(squad, tokenizer, options, training=True, impossible=False)
    batch = windows.examples.batch(np.array([0]), 64)
    found = batch["input_ids"][0, batch["start_position"][0] : batch["end_position"][0] + 1]
    assert [tokenizer.tokens[n] for n in found] == expected.split()


def test_answers_that_are_not_there_are_counted_and_left_out(tmp_path, tokenizer, caplog) -> None:
    context = "the ship (1895) is \u00ad here"
    squad = read_squad(
        write(
            tmp_path,
            paragraph(context, ("good", "which", "ship", 4), ("off", "which", "ship", 0)),
            paragraph(context, ("far", "x", "ship", 400), ("soft", "x", "\u00ad", 19)),
        )
    )
    with caplog.at_level(logging.WARNING, logger="absl"):
        windows = make_windows(
            squad, tokenizer, WindowOptions(64, query=8), training=True, impossible=False
        )
    assert [squad.questions[w.question].id for w in windows.windows] == ["good"]
    assert "3 of 4 questions are left out" in caplog.text
    assert "the first is off, 'ship' at character 0" in caplog.text
    seen = make_windows(
        squad, tokenizer, WindowOptions(64, query=8), training=False, impossible=False
    )
    assert len(seen.windows) == 4
    assert seen.examples.targets == {}


def test_an_answer_may_be_a_little_off_as_in_the_original() -> None:
    assert find_answer("the (ship).", 4, "ship") == (5, 9)
    assert find_answer("the  ship", 0, "the ship") == (0, 9)
    assert find_answer("the ship", 0, "ship") is None
    assert find_answer("the ship", -1, "e") is None
    assert find_answer("the ship", 3, " ") is None


def test_spans_reach_the_end_with_the_stride() -> None:
    assert spans(10, 10, 4) == [(0, 10)]
    assert spans(11, 10, 4) == [(0, 10), (4, 7)]
    assert spans(11, 10, 20) == [(0, 10), (10, 1)]
    assert spans(0, 10, 4) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON file"),
        ('{"rows": []}', "not in the layout of SQuAD .*KeyError: 'data'"),
        ("[]", "not in the layout of SQuAD"),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}', "'question'"),
        ('{"data": []}', "holds no questions"),
    ],
)
def test_files_of_another_layout_are_refused(tmp_path, content, message) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_squad(path)


def test_what_cannot_be_learnt_from_is_refused(tmp_path, tokenizer) -> None:
    with pytest.raises(DataError, match="nowhere.json cannot be read: No such file"):
        read_squad(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match=r"an empty question \(question a\)"):
        read_squad(write(tmp_path, paragraph("the ship", ("a", " ", "ship", 4))))
    with pytest.raises(DataError, match="an empty context"):
        read_squad(write(tmp_path, paragraph(" ", ("a", "x", "ship", 4))))
    twice = paragraph("the ship", ("a", "x", "ship", 4), ("a", "y", "ship", 4))
    with pytest.raises(DataError, match="two questions have the same id"):
        read_squad(write(tmp_path, twice))
    squad = read_squad(write(tmp_path, paragraph("the ship", ("a", "x", "", -1))))
    options = WindowOptions(64, query=8)
    with pytest.raises(DataError, match="question a has no answer .*impossible=True"):
        make_windows(squad, tokenizer, options, training=True, impossible=False)
    windows = make_windows(squad, tokenizer, options, training=True, impossible=True)
    assert windows.examples.targets["end_position"].tolist() == [0]
    with pytest.raises(ConfigError, match="length 11 leaves no room for a paragraph"):
        WindowOptions(11, query=8)
