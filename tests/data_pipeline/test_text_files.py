# SPDX-License-Identifier: Apache-2.0
"""Text files: the same lines from every encoding of them, and the place of every damage."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import zstandard

from data_pipeline import text_files
from data_pipeline.errors import DataError, UserError
from data_pipeline.text_files import TextFile

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
def test_the_position_goes_to_the_size_of_the_file(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    content = b"\n".join(random.bytes(30).hex().encode() for _ in range(60_000))
    path = write(tmp_path / f"text.txt{suffix}", content)
    with TextFile(path) as file:
        positions = [file.position for _ in file.lines()]
    assert positions == sorted(positions)
    assert positions[0] < positions[-1]
    assert positions[-1] == path.stat().st_size


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


def test_a_file_without_line_ends_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1000)
    path = write(tmp_path / "text.txt.gz", b"ok\n" + b"x" * 999 + b"\n" + b"x" * 1_000_000)
    with TextFile(path) as file:
        lines = file.lines()
        assert [next(lines), len(next(lines))] == ["ok", 999]
        with pytest.raises(DataError, match="line 3 is longer than"):
            next(lines)


def test_what_cannot_be_opened_or_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened: No such file"):
        TextFile(tmp_path / "missing.txt")
    with pytest.raises(UserError):
        lines_of(tmp_path)
