# SPDX-License-Identifier: Apache-2.0
"""Parquet files as pyarrow writes them, whole and damaged."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.corpora import CorpusOptions, Piece, cut_units, find_sources
from data_pipeline.documents import read_piece
from data_pipeline.errors import DataError
from tests.data_pipeline.corpus import read_corpus

TEXTS = [f"This is document {number}. It has two sentences." for number in range(1000)]


def write(path: Path, texts=TEXTS, rows: int = 100, **options) -> Path:
    table = pyarrow.table({"number": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=rows, **options)
    return path


def sentences(path: Path, **options) -> list[list[str]]:
    corpus = CorpusOptions(str(path), **options)
    return read_corpus(corpus)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_a_document_is_a_row(tmp_path: Path, compression: str) -> None:
    found = sentences(write(tmp_path / "texts.parquet", compression=compression))
    assert [" ".join(document) for document in found] == TEXTS
    assert found[7] == ["This is document 7.", "It has two sentences."]


def test_files_are_known_by_their_beginning(tmp_path: Path) -> None:
    (source,) = find_sources(CorpusOptions(str(write(tmp_path / "train-00000-of-00001"))))
    assert source.format == "parquet"


@pytest.mark.parametrize(
    "kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]
)
def test_texts_of_other_arrow_types(tmp_path: Path, kind: pyarrow.DataType) -> None:
    path = tmp_path / "texts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(TEXTS).cast(kind)}), path)
    assert len(sentences(path)) == len(TEXTS)


def test_pieces_in_order_are_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "texts.parquet")
    corpus = CorpusOptions(str(path))
    sources = find_sources(corpus)
    monkeypatch.setattr("data_pipeline.corpora._UNIT_BYTES", (path.stat().st_size // 4, 1 << 20))
    pieces = [piece for unit in cut_units(sources) for piece in unit.pieces]
    assert len(pieces) > 2
    found = [d.sentences for piece in pieces for d in read_piece(piece, corpus)]
    assert found == [d.sentences for d in read_piece(Piece(sources[0]), corpus)]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.parquet")
    for column in ("body", "number"):
        with pytest.raises(DataError, match=rf"column '{column}' .*number \(int64\), text"):
            sentences(path, text_field=column)


def test_a_row_without_text_is_located(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.parquet", [*TEXTS[:150], None, *TEXTS[151:]])
    with pytest.raises(DataError, match=r"texts.parquet, row 151: column 'text' is null"):
        sentences(path)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    broken = pyarrow.array([b"fine", b"\xff\xfe"]).cast(pyarrow.string(), safe=False)
    path = tmp_path / "texts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), path)
    with pytest.raises(DataError, match="not UTF-8"):
        sentences(path)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="texts.parquet is damaged"):
        sentences(path)


def test_a_foreign_file_under_the_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("plain text\n")
    with pytest.raises(DataError, match="is damaged or no Parquet file"):
        sentences(path, format="parquet")


def test_flipped_bits_never_give_other_text_silently(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.parquet", compression="zstd", write_page_checksum=True)
    content = path.read_bytes()
    column = pyarrow.parquet.read_metadata(path).row_group(5).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    whole = sentences(path)
    refused = 0
    for place in range(start, start + column.total_compressed_size, 23):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            assert sentences(path) == whole
        except DataError:
            refused += 1
    assert refused > 5
