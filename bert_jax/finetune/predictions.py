# SPDX-License-Identifier: Apache-2.0
"""Prediction files of the test splits, in their benchmarks' formats, never overwritten."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipeline.errors import ConfigError, DiskError, OutputError


def file_names(splits: Sequence[str], names: Sequence[str], suffix: str) -> dict[str, str]:
    """The file, or folder of files, of each test split; without names called after the split.

    Raises:
        ConfigError: there are not as many names as splits, or two splits share a name.
    """
    names = names or [f"{Path(split).stem}{suffix}" for split in splits]
    if len(names) != len(splits) or len(set(names)) != len(names):
        raise ConfigError(
            f"predictions.files: {len(splits)} different names are needed, one for each test "
            f"split, not {', '.join(names)}"
        )
    return dict(zip(splits, names, strict=True))


def refuse_existing(paths: Sequence[Path]) -> None:
    """Stops before any work is done for a file that could not be written.

    Raises:
        OutputError: one of the files, or folders of files, is there.
    """
    for path in paths:
        if path.exists():
            raise _exists(path)


def write_all(folder: Path, contents: Mapping[str, str], overwrite: bool) -> None:
    """Writes every file under a temporary name, then gives all of them theirs.

    Args:
        folder: made if absent.
        contents: of each file, by its path in the folder.
        overwrite: whether files of other content may be replaced; equal ones are left alone.

    Raises:
        OutputError: a file with other content is there.
        DiskError: writing failed.
    """
    try:
        for name, text in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.tmp").write_text(text, "utf-8")
        for name in contents:
            new, path = folder / f"{name}.tmp", folder / name
            if path.exists() and not overwrite and path.read_bytes() != new.read_bytes():
                raise _exists(path)
            new.replace(path)
    except OSError as error:
        raise DiskError(f"writing predictions into {folder} failed: {error.strerror}") from error
    finally:
        for name in contents:
            (folder / f"{name}.tmp").unlink(missing_ok=True)


def table(ids: Sequence[str], values: Sequence[str]) -> str:
    """GLUE's format: a header, then the row's id, a tab, and what is predicted for it."""
    lines = [f"{number}\t{value}\n" for number, value in zip(ids, values, strict=True)]
    return "index\tprediction\n" + "".join(lines)


def _exists(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists and is not overwritten: move it away, or say --overwrite to replace it"
    )
