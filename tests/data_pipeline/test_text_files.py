# SPDX-License-Identifier: Apache-2.0
"""Text files: the same lines from every encoding of them, and the place of every damage."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import text_files
from data_pipeline.errors import DataError, UserError
from data_pipeline.text_files import TextFile, find_gap, find_line

LINES = ["Grüße an alle.", "", "  日本語 ", "end\u2028not a line end\x0bnor this"]
TEXT = "\n".join(LINES).encode()


def lines_of(path: Path) -> list[str]:
    with TextFile(path) as file:
        return list(file.lines())


def write(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    "content",
    [TEXT, TEXT + b"\n", b"\xef\xbb\xbf" + TEXT, TEXT.replace(b"\n", b"\r\n") + b"\r\n"],
    ids=["bare", "newline", "byte order mark", "CR LF"],
)
def test_lines(tmp_path: Path, suffix: str, content: bytes) -> None:
    assert lines_of(write(tmp_path / f"text.txt{suffix}", content)) == LINES


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_an_empty_file_has_no_lines(tmp_path: Path, suffix: str) -> None:
    assert lines_of(write(tmp_path / f"text.txt{suffix}", b"")) == []


def test_several_archives_in_one_file(tmp_path: Path) -> None:
    for suffix, compress in ((".gz", gzip.compress), (".zst", zstandard.compress)):
        path = tmp_path / f"text.txt{suffix}"
        path.write_bytes(compress(b"one\ntw") + compress(b"o\n") + compress(b"three"))
        assert lines_of(path) == ["one", "two", "three"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bytes_that_are_not_utf8_are_located(tmp_path: Path, suffix: str, mark: bytes) -> None:
    content = mark + "first\nsecönd\nthi".encode() + b"\xe9rd\n"
    path = write(tmp_path / f"text.txt{suffix}", content)
    with pytest.raises(DataError) as raised:
        lines_of(path)
    offset = content.index(b"\xe9rd")
    assert f"{path}, line 3: byte {offset} (0xe9) is not UTF-8" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (gzip.compress(b"x"), "looks like gzip; name it .gz"),
        (zstandard.compress(b"x" * 200), "looks like zstd; name it .zst"),
        ("text".encode("utf-16"), "looks like UTF-16"),
        (b"caf\xe9", "convert the file to UTF-8"),
    ],
)
def test_files_of_other_kinds_are_recognised(tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(DataError, match=hint):
        lines_of(tmp_path / "text.txt")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damaged_archives_are_noticed(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere, or with a flipped bit: either an error, or (in a header) the same lines."""
    random = np.random.default_rng(0)
    lines = [random.bytes(20).hex() for _ in range(2000)]
    path = tmp_path / f"text.txt{suffix}"
    content = "\n".join(lines).encode()
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    good = gzip.compress(content) if suffix == ".gz" else compressor.compress(content)
    damaged = [good[: random.integers(1, len(good))] for _ in range(20)]
    for _ in range(40):
        flipped = bytearray(good)
        flipped[random.integers(len(good))] ^= 1 << random.integers(8)
        damaged.append(bytes(flipped))
    noticed = 0
    for bad in [*damaged, b"not an archive"]:
        path.write_bytes(bad)
        try:
            assert lines_of(path) == lines
        except DataError as error:
            assert str(path) in str(error)
            noticed += 1
    assert noticed >= 60


def test_long_lines_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a sentence if there is one, else at a blank, else between two characters."""
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 40)
    for long in ("It is so. He said it. " * 9, "他来了。" * 30, "no end of it " * 9, "né" * 99):
        path = write(tmp_path / "text.txt.gz", f"ok\n{'x' * 39}\n{long}\nend".encode())
        lines = lines_of(path)
        assert lines[:2] == ["ok", "x" * 39] and lines[-1] == "end"
        assert "".join(lines[2:-1]) == long
        assert max(len(line.encode()) for line in lines) <= 40
        mark = next((mark for mark in (". ", "。", " ") if mark in long), "")
        assert all(line.endswith(mark) for line in lines[2:-2])


def test_a_line_that_has_to_be_whole_may_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_WHOLE_LINE_BYTES", 1000)
    path = write(tmp_path / "text.txt.gz", b"ok\n" + b"x" * 999 + b"\n" + b"x" * 1_000_000)
    with TextFile(path) as file:
        lines = file.lines(whole=True)
        assert [next(lines), len(next(lines))] == ["ok", 999]
        with pytest.raises(DataError, match="line 3 is longer than 1,000 bytes"):
            next(lines)


def test_line_ends_may_be_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "text.txt", b"one\r\ntwo\rthree\n\r\nfour\r\rfive")
    assert lines_of(path) == ["one", "two", "three", "", "four", "", "five"]
    with TextFile(path) as file:
        assert list(file.lines(whole=True)) == ["one", "two\rthree", "", "four\r\rfive"]


def test_a_stretch_of_a_file_knows_its_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "text.txt", b"one\n\ntwo\nthree\nf\xf6ur\n")
    with TextFile(path, start=5, stop=9) as file:
        assert list(file.lines()) == ["two"]
        assert file.line() == f"{path}, line 3"
    with TextFile(path, start=9) as file:
        lines = file.lines()
        assert next(lines) == "three"
        with pytest.raises(DataError, match=r"line 5: byte 16 \(0xf6\) is not UTF-8"):
            next(lines)


# Few kinds of bytes, so that empty lines and long runs without one are both common.
CONTENTS = st.lists(
    st.sampled_from([b"a", b" ", b"\n", b"\n\n", b"\r\n", "é".encode(), b"word " * 5, b"x" * 30]),
    max_size=60,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(content=CONTENTS, step=st.integers(1, 50))
def test_stretches_are_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, step: int
) -> None:
    """Cut anywhere: places never go back, the end is reached, and no character is cut."""
    path = tmp_path_factory.getbasetemp() / "content.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(text_files, "MAX_GAP_BYTES", 20)
        found = [find_gap(path, offset) for offset in range(0, len(content) + 1, step)]
    places = [place for place, _ in found]
    assert places == sorted(places) and all(0 <= place <= len(content) for place in places)
    for offset, (place, within) in zip(range(0, len(content) + 1, step), found, strict=True):
        content[:place].decode()
        assert place >= min(offset, len(content))
        if not within and 0 < place < len(content):
            assert content[:place].endswith(b"\n")
            assert not content[:place].split(b"\n")[-2].strip()
    starts = [find_line(path, offset) for offset in range(len(content) + 1)]
    begins = [0] + [n + 1 for n, byte in enumerate(content) if byte == ord("\n")]
    for offset, start in enumerate(starts):
        assert start == next((begin for begin in begins if begin >= offset), len(content))


def test_what_cannot_be_opened_or_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened: No such file"):
        TextFile(tmp_path / "missing.txt")
    with pytest.raises(UserError):
        lines_of(tmp_path)
