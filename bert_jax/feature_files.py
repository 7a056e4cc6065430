# SPDX-License-Identifier: Apache-2.0
"""Files of features: written as they come, whole or absent.

`.jsonl` has a line for each line of text. Of tokens and words it is that of the original's
`extract_features.py`, numbers rounded to six places:

    {"linex_index": 0, "features": [{"token": "[CLS]", "layers": [{"index": -1, "values": [...]},
                                                                  {"index": -2, "values": [...]}]},
                                    ...]}

and of pooled and mean vectors {"linex_index": 0, "vector": [...]}.

`.npz` has the vectors of all lines one below the other, the layers one after another in the order
asked for, float32 [tokens or lines, layers * hidden]: `vectors`. Those of line n are
`vectors[line_offsets[n]:line_offsets[n + 1]]`; `token_ids` are their tokens and `words` the places
of their words in the line, -1 for [CLS] and [SEP]. Of pooled and mean vectors there is one a line.

`.parquet` has a row for each line: `line`, and `tokens`, `words` and `vectors`, or `vector`.
"""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.errors import OutputError, UsageError
from data_pipeline.output import NpyWriter, disk_errors

KINDS = ("tokens", "words", "pooled", "mean")
_SENTENCE_KINDS = ("pooled", "mean")
_ROW_GROUP_BYTES = 64 << 20


class Features(NamedTuple):
    """What a model makes of one line.

    Attributes:
        line: its number, from 0.
        names: its tokens or words; none if it has one vector.
        ids: their token ids, of a word that of its first piece.
        words: the places of their words in the line, -1 for [CLS] and [SEP].
        vectors: float32 [names, layers, hidden], or [layers, hidden] if it has one.
        lost: tokens that the model had no room for.
    """

    line: int
    names: list[str]
    ids: list[int]
    words: list[int]
    vectors: np.ndarray
    lost: int


Write = Callable[[Features], None]


def check_output(path: Path, overwrite: bool) -> None:
    """Refuses a file that cannot or must not be written.

    Raises:
        UsageError: its name says no known format.
        OutputError: it exists, or its folder does not.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(f"--output={path}: its name must end in {', '.join(_WRITERS)}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"{path} exists; name another --output, or add --overwrite")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.parent} does not exist; make it or name another --output")


@contextlib.contextmanager
def open_writer(path: Path, kind: str, layers: Sequence[int], hidden: int) -> Iterator[Write]:
    """A function that adds the features of a line; the file appears when the block ends well.

    Args:
        path: the file; what is there is replaced.
        kind: one of `KINDS`.
        layers: those in the vectors, in their order.
        hidden: width of one layer's vector.

    Raises:
        DiskError: writing failed.
    """
    layers = (-1,) if kind == "pooled" else layers
    scratch = path.with_name(path.name + ".tmp")
    with disk_errors(path):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            made = scratch / path.name
            with _WRITERS[path.suffix](made, kind, layers, hidden) as write:
                yield write
            os.replace(made, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _open_jsonl(path: Path, kind: str, layers: Sequence[int], hidden: int) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(features: Features) -> None:
            values = features.vectors.astype(np.float64).round(6)
            line: dict[str, Any] = {"linex_index": features.line}
            if kind in _SENTENCE_KINDS:
                line["vector"] = values.ravel().tolist()
            else:
                line["features"] = [
                    {
                        "token": name,
                        "layers": [
                            {"index": layer, "values": part}
                            for layer, part in zip(layers, rows, strict=True)
                        ],
                    }
                    for name, rows in zip(features.names, values.tolist(), strict=True)
                ]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

        yield write


@contextlib.contextmanager
def _open_npz(path: Path, kind: str, layers: Sequence[int], hidden: int) -> Iterator[Write]:
    folder = path.parent
    width = len(layers) * hidden
    columns = {"vectors": NpyWriter(folder / "vectors.npy", np.float32, (width,))}
    if kind not in _SENTENCE_KINDS:
        for name in ("token_ids", "words"):
            columns[name] = NpyWriter(folder / f"{name}.npy", np.int32)
        columns["line_offsets"] = NpyWriter(folder / "line_offsets.npy", np.int64)
        columns["line_offsets"].append(np.zeros(1))
    columns["layers"] = NpyWriter(folder / "layers.npy", np.int32)
    columns["layers"].append(np.array(layers))

    def write(features: Features) -> None:
        columns["vectors"].append(features.vectors.reshape(-1, width))
        if kind not in _SENTENCE_KINDS:
            columns["token_ids"].append(np.array(features.ids))
            columns["words"].append(np.array(features.words))
            columns["line_offsets"].append(np.array([columns["vectors"].length]))

    try:
        yield write
    except BaseException:
        for column in columns.values():
            column.abandon()
        raise
    with zipfile.ZipFile(path, "w") as archive:
        for name, column in columns.items():
            column.close()
            archive.write(folder / f"{name}.npy", f"{name}.npy")
            (folder / f"{name}.npy").unlink()


@contextlib.contextmanager
def _open_parquet(path: Path, kind: str, layers: Sequence[int], hidden: int) -> Iterator[Write]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise UsageError("Parquet needs `pip install pyarrow`; .npz needs nothing") from error

    vector = pa.list_(pa.float32(), len(layers) * hidden)
    fields = [("line", pa.int64())]
    if kind in _SENTENCE_KINDS:
        fields.append(("vector", vector))
    else:
        fields += [("tokens", pa.list_(pa.string())), ("words", pa.list_(pa.int32()))]
        fields.append(("vectors", pa.list_(vector)))
    schema = pa.schema(fields, metadata={"layers": json.dumps(list(layers)), "kind": kind})
    rows: list[Features] = []
    size = 0

    def column(name: str, kind: Any) -> Any:
        values = {
            "line": [row.line for row in rows],
            "tokens": [row.names for row in rows],
            "words": [row.words for row in rows],
        }
        if name in values:
            return pa.array(values[name], kind)
        flat = np.concatenate([row.vectors.reshape(-1, vector.list_size) for row in rows])
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=vector)
        if name == "vector":
            return vectors
        offsets = np.cumsum([0, *(len(row.names) for row in rows)], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), vectors)

    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            nonlocal size
            if rows:
                arrays = [column(field.name, field.type) for field in schema]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                rows.clear()
                size = 0

        def write(features: Features) -> None:
            rows.append(features)
            nonlocal size
            size += features.vectors.nbytes
            if size >= _ROW_GROUP_BYTES:
                flush()

        yield write
        flush()


_WRITERS = {".jsonl": _open_jsonl, ".npz": _open_npz, ".parquet": _open_parquet}
