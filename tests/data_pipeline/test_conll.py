# SPDX-License-Identifier: Apache-2.0
"""Words and tags in columns: what is read, cut, kept together and refused."""

import numpy as np
import pytest

from data_pipeline.errors import ConfigError, DataError
from data_pipeline.labelled.conll import NO_TAG, find_tags, make_tagged, read_conll, with_tags
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.wordpiece import WordPieceTokenizer

TEXT = """-DOCSTART- -X- O O

U.N. NNP I-NP I-ORG
ships NNS B-NP O
BLANKS
sail VBP B-VP O


\u200b SYM O O
the DT B-NP I-ORG
""".replace("BLANKS", "  ")
VOCABULARY = [*SPECIAL_NAMES, *"unships.ael", "##s", *(f"##{c}" for c in "hipaelnt"), "the"]
LABELS = ("I-ORG", "O")


@pytest.fixture
def conll(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    return read_conll(tmp_path / "a.txt")


@pytest.fixture
def tokenizer():
    return WordPieceTokenizer(list(dict.fromkeys(VOCABULARY)), lower_case=True)


def rows(tagged, tokenizer, length):
    """(tokens, tags) of every sequence."""
    batch = tagged.examples.batch(np.arange(len(tagged.examples)), length)
    found = []
    for ids, mask, tags in zip(batch["input_ids"], batch["input_mask"], batch["tag"], strict=True):
        tokens = [tokenizer.tokens[n] for n, real in zip(ids, mask, strict=True) if real]
        assert (tags[len(tokens) :] == NO_TAG).all()
        found.append((" ".join(tokens), tags[: len(tokens)].tolist()))
    return found


def test_columns_of_every_sentence(conll) -> None:
    words = [["U.N.", "ships"], ["sail"], ["\u200b", "the"]]
    assert conll.column("first") == conll.column("1") == words
    assert conll.column("last") == conll.column("4") == [["I-ORG", "O"], ["O"], ["O", "I-ORG"]]
    assert find_tags(conll, "last") == LABELS


def test_tabs_keep_blanks_within_words(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("New York\tB-LOC\nis\tO\n")
    assert read_conll(tmp_path / "a.txt").column("first") == [["New York", "is"]]


def test_the_tag_stands_on_the_first_piece(conll, tokenizer) -> None:
    tagged = make_tagged(conll, tokenizer, length=12, words="first", tags="last", labels=LABELS)
    none = NO_TAG
    assert rows(tagged, tokenizer, 12) == [
        ("[CLS] u . n . s ##h ##i ##p ##s [SEP]", [none, 0, *[none] * 3, 1, *[none] * 5]),
        ("[CLS] s ##a ##i ##l [SEP]", [none, 1, *[none] * 4]),
        ("[CLS] [UNK] the [SEP]", [none, 1, 0, none]),
    ]


def test_long_sentences_are_split_between_words_and_nothing_is_lost(conll, tokenizer) -> None:
    tagged = make_tagged(conll, tokenizer, length=6, words="first", tags="last", labels=LABELS)
    none = NO_TAG
    assert rows(tagged, tokenizer, 6)[:2] == [
        ("[CLS] u . n . [SEP]", [none, 0, *[none] * 4]),
        ("[CLS] s ##h ##i ##p [SEP]", [none, 1, *[none] * 4]),  # longer than a sequence
    ]
    tags = tagged.examples.targets["tag"]
    assert [[LABELS[tags[s, p]] for s, p in where] for where in tagged.places] == conll.column("4")


def test_tags_become_the_last_column(conll) -> None:
    lines = with_tags(conll, [["A", "B"], ["C"], ["D", "E"]]).split("\n")
    assert lines[:6] == [
        "-DOCSTART- -X- O O",
        "",
        "U.N. NNP I-NP I-ORG A",
        "ships NNS B-NP O B",
        "  ",
        "sail VBP B-VP O C",
    ]
    assert len(lines) == len(TEXT.split("\n"))


def test_what_cannot_be_used_is_refused_with_its_line(conll, tokenizer, tmp_path) -> None:
    with pytest.raises(DataError, match=r"a.txt, line 3: the tag 'I-ORG' is not in the label set"):
        make_tagged(conll, tokenizer, length=8, words="first", tags="last", labels=("B-ORG", "O"))
    with pytest.raises(DataError, match="line 3 has nothing in column 5"):
        conll.column("5")
    for column in ("0", "word"):
        with pytest.raises(ConfigError, match="say first, last or a number from 1"):
            conll.column(column)
    (tmp_path / "empty.txt").write_text("-DOCSTART- O\n\n")
    with pytest.raises(DataError, match="empty.txt holds no words"):
        read_conll(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="nowhere.txt cannot be opened"):
        read_conll(tmp_path / "nowhere.txt")
    (tmp_path / "one.txt").write_text("a O\nb O\n")
    with pytest.raises(DataError, match="all words have the tag 'O'"):
        find_tags(read_conll(tmp_path / "one.txt"), "last")
    (tmp_path / "short.txt").write_text("a NN O\nb\n")
    with pytest.raises(DataError, match="line 2 has nothing in column 2: 'b'"):
        read_conll(tmp_path / "short.txt").column("2")
