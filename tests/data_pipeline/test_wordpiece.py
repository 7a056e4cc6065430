# SPDX-License-Identifier: Apache-2.0
"""WordPiece against the original: stored tokens of hard strings, and the rules one by one."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import wordpiece
from data_pipeline.errors import DataError
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.wordpiece import BasicTokenizer, WordPieceTokenizer, read_vocabulary

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "wordpiece.json").read_text())


def tokens_of(tokenizer: WordPieceTokenizer, text: str) -> list[str]:
    (ids,) = tokenizer.encode_batch([text])
    return [tokenizer.tokens[number] for number in ids]


@pytest.mark.parametrize("name", GOLDENS)
def test_hard_strings_become_the_tokens_of_the_original(name: str) -> None:
    golden = GOLDENS[name]
    tokenizer = WordPieceTokenizer(golden["vocabulary"], lower_case=golden["lower_case"])
    assert len(golden["cases"]) > 50
    for case in golden["cases"]:
        assert tokens_of(tokenizer, case["text"]) == case["tokens"], ascii(case["text"])


def test_the_goldens_hold_what_the_ready_made_rust_normaliser_gets_wrong() -> None:
    """Should this fail one day, the Rust normaliser has been put right; nothing of ours breaks."""
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    words = BasicTokenizer(lower_case=True, strip_accents=True, chinese_characters=True)
    texts = [case["text"] for case in GOLDENS["uncased"]["cases"] if "\ud800" not in case["text"]]
    different = []
    for text in texts:
        split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))
        if [word for word, _ in split] != words(text):
            different.append(text)
    reasons = {"final sigma": "\u03a3", "private use": "\ue000", "newer signs": "\u2e43"}
    reasons["newer marks"] = "\u1dfa"
    for character in reasons.values():
        assert any(character in text for text in different)
    assert len(different) == len(reasons)


@pytest.mark.parametrize(
    ("lower_case", "strip_accents", "words"),
    [
        (True, None, "cafe noel"),
        (True, True, "cafe noel"),
        (True, False, "café noël"),
        (False, None, "Café NOËL"),
        (False, False, "Café NOËL"),
        (False, True, "Cafe NOEL"),
    ],
)
def test_accents_are_a_switch_of_their_own(
    lower_case: bool, strip_accents: bool | None, words: str
) -> None:
    vocabulary = [*SPECIAL_NAMES, *words.split()]
    tokenizer = WordPieceTokenizer(vocabulary, lower_case=lower_case, strip_accents=strip_accents)
    assert tokens_of(tokenizer, "Café NOËL") == words.split()


def test_chinese_characters_can_be_left_in_their_words() -> None:
    vocabulary = [*SPECIAL_NAMES, "中", "文", "中文"]
    apart = WordPieceTokenizer(vocabulary, lower_case=True)
    together = WordPieceTokenizer(vocabulary, lower_case=True, chinese_characters=False)
    assert tokens_of(apart, "中文") == ["中", "文"]
    assert tokens_of(together, "中文") == ["中文"]
    assert apart.fingerprint != together.fingerprint


def literal_wordpiece(word: str, vocabulary: set[str]) -> list[str]:
    """Greedy longest match first, written down plainly."""
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = "##" * (start > 0) + word[start:end]
            if piece in vocabulary:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.sets(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=12),
    word=st.text("abcd", min_size=1, max_size=20),
)
def test_pieces_are_the_longest_matches(pieces: set[str], word: str) -> None:
    vocabulary = sorted(pieces) + sorted("##" + piece for piece in pieces if len(piece) != 2)
    tokenizer = WordPieceTokenizer([*SPECIAL_NAMES, *vocabulary], lower_case=True)
    assert tokens_of(tokenizer, word) == literal_wordpiece(word, set(vocabulary))


def test_a_full_word_table_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, vocabulary: list[str]
) -> None:
    texts = [f"the cat{a}{b} sat{b} on{a}" for a in "abcdef" for b in "uvwxyz"]
    expected = WordPieceTokenizer(vocabulary, lower_case=True).encode_batch(texts * 2)
    monkeypatch.setattr(wordpiece, "_REMEMBERED_WORDS", 3)
    assert WordPieceTokenizer(vocabulary, lower_case=True).encode_batch(texts * 2) == expected


def test_mask_is_text_in_a_corpus_and_a_token_in_a_question(tokenizer: WordPieceTokenizer) -> None:
    text = "the [MASK] sat[MASK]"
    (plain,) = tokenizer.encode_batch([text])
    assert tokenizer.special.mask not in plain
    masked = tokenizer.encode_with_mask(text)
    assert tokenizer.decode(masked) == "the [MASK] sat [MASK]"
    assert masked.count(tokenizer.special.mask) == 2
    assert tokenizer.encode_with_mask("the cat") == tokenizer.encode_batch(["the cat"])[0]


def test_decode_joins_the_pieces_of_a_word(tokenizer: WordPieceTokenizer) -> None:
    (ids,) = tokenizer.encode_batch(["The cats, sat!"])
    assert len(ids) > 5
    assert tokenizer.decode(ids) == "the cats , sat !"


def test_continuation_marks_exactly_the_pieces_inside_words(tokenizer: WordPieceTokenizer) -> None:
    marked = tokenizer.continuation()
    assert marked.dtype == bool and marked.shape == (tokenizer.vocab_size,)
    assert [t for t, m in zip(tokenizer.tokens, marked, strict=True) if m] == [
        "##" + chr(code) for code in range(ord("a"), ord("z") + 1)
    ]


def write_vocabulary(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


GOOD = "\n".join([*SPECIAL_NAMES, "a", "##b", "ç"]).encode()


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD + b"\n",
        GOOD + b"\n\n\n",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n") + b"\r\n",
    ],
    ids=["bare", "newline", "blank lines at the end", "byte order mark", "CR LF"],
)
def test_vocabulary_files_of_all_editors_are_the_same(tmp_path: Path, content: bytes) -> None:
    tokens = read_vocabulary(write_vocabulary(tmp_path / "vocab.txt", content))
    assert tokens == [*SPECIAL_NAMES, "a", "##b", "ç"]


def test_the_empty_line_of_the_chinese_vocabulary_keeps_its_id(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "vocab.txt", GOOD + b"\n\xe2\x80\xa8\nz\n")
    tokens = read_vocabulary(path)
    assert tokens[-2:] == ["", "z"]
    tokenizer = WordPieceTokenizer(tokens, lower_case=True)
    tokenizer.save(tmp_path / "saved")
    assert read_vocabulary(tmp_path / "saved" / "vocab.txt") == tokens


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (GOOD + b"\nx\na\n", "token 'a' stands on line 6 and again on line 10"),
        (GOOD + b"\nx\n\n\ny", "token '' stands on line 10 and again on line 11"),
        (b"[PAD]\n[UNK]\nx", "lacks [CLS], [SEP], [MASK]"),
        (GOOD + b"\nx\n\xff\xfe", "line 10: not UTF-8"),
        (GOOD + b"\na\0b", "line 9: the token holds a NUL"),
    ],
)
def test_broken_vocabularies_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write_vocabulary(tmp_path / "vocab.txt", content)
    with pytest.raises(DataError) as raised:
        read_vocabulary(path)
    assert message in str(raised.value) and str(path) in str(raised.value)


def test_what_is_no_vocabulary_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="is not a regular file"):
        read_vocabulary(tmp_path)
    with pytest.raises(DataError, match="is not a regular file"):
        read_vocabulary(Path("/dev/zero"))
    monkeypatch.setattr(wordpiece, "MAX_TOKENIZER_BYTES", 10)
    with pytest.raises(DataError, match="too large for a vocabulary"):
        read_vocabulary(write_vocabulary(tmp_path / "vocab.txt", GOOD))
