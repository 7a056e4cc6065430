# SPDX-License-Identifier: Apache-2.0
"""`pytorch_model.bin` without PyTorch: what `torch.save` wrote, and pickles that would run code.

`tests/goldens/pytorch_file.bin` was made by PyTorch (`make_pytorch_file.py` beside it).
"""

import collections
import io
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bert_jax.convert.pytorch_file import read_pytorch_file
from data_pipeline.errors import DataError

GOLDENS = Path(__file__).parents[1] / "goldens"


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_zip(path, pickled, members=()):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in dict(members).items():
            file.writestr(f"archive/{name}", content)
    return path


def test_every_tensor_is_what_pytorch_saved():
    found = read_pytorch_file(GOLDENS / "pytorch_file.bin")
    expected = np.load(GOLDENS / "pytorch_file.npz")
    assert list(found) == list(expected)
    assert str(found["bfloat16"].dtype) == "bfloat16"
    found["bfloat16"] = found["bfloat16"].astype(np.float32)
    for name in expected:
        assert (found[name].dtype, found[name].shape) == (
            expected[name].dtype,
            expected[name].shape,
        )
        assert found[name].tobytes() == expected[name].tobytes(), name


def run(path):
    Path(path).write_text("was here")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, protocol):
    victim = tmp_path / "victim"
    pickled = pickle.dumps({"weight": Call(shutil.rmtree, str(tmp_path))}, protocol)
    path = write_zip(tmp_path / "pytorch_model.bin", pickled)
    with pytest.raises(DataError, match=r"asks for shutil\.rmtree, which is no part of a tensor"):
        read_pytorch_file(path)
    assert path.exists() and not victim.exists()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (Call(eval, "1"), "builtins.eval"),
        (Call(getattr, "a", "b"), "builtins.getattr"),
        (Call(print), "builtins.print"),
        (io.BytesIO, "_io.BytesIO"),
        (np.float32(1), "numpy"),
        (collections.Counter(), "collections.Counter"),
    ],
)
def test_whatever_is_no_tensor_is_refused_by_name(tmp_path, content, asked):
    path = write_zip(tmp_path / "pytorch_model.bin", pickle.dumps({"a": content}, 2))
    with pytest.raises(DataError) as raised:
        read_pytorch_file(path)
    name = asked.replace("builtins", "__builtin__")
    assert asked in str(raised.value) or name in str(raised.value)


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """BUILD sets attributes of what a pickle names; that must be nothing that outlives it."""
    attack = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b0}."
    read_pytorch_file(write_zip(tmp_path / "pytorch_model.bin", attack))
    test_every_tensor_is_what_pytorch_saved()


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (pickle.dumps([1, 2], 2), "holds no dictionary of tensors"),
        (pickle.dumps({"epoch": 3}, 2), "'epoch' is no tensor"),
        (pickle.dumps({3: 3}, 2), "3 is no tensor"),
        (b"\x80\x02}q", "is damaged"),
        (b"", "is damaged"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "is damaged"),
    ],
)
def test_what_holds_no_tensors(tmp_path, pickled, message):
    with pytest.raises(DataError, match=message):
        read_pytorch_file(write_zip(tmp_path / "pytorch_model.bin", pickled))


def members():
    with zipfile.ZipFile(GOLDENS / "pytorch_file.bin") as file:
        return {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}


def test_storages_that_are_short_or_missing_are_noticed(tmp_path):
    good = members()
    pickled = good.pop("data.pkl")
    path = write_zip(tmp_path / "a.bin", pickled, good | {"data/0": good["data/0"][:-4]})
    with pytest.raises(DataError, match=r"a\.bin is damaged"):
        read_pytorch_file(path)
    del good["data/0"]
    with pytest.raises(DataError, match=r"b\.bin is damaged: .*data/0"):
        read_pytorch_file(write_zip(tmp_path / "b.bin", pickled, good))


def test_numbers_of_a_big_endian_machine_are_refused(tmp_path):
    good = members()
    path = write_zip(tmp_path / "a.bin", good.pop("data.pkl"), good | {"byteorder": b"big"})
    with pytest.raises(DataError, match="big-endian"):
        read_pytorch_file(path)


def test_a_compressed_file_that_grows_without_end_is_refused(tmp_path):
    path = tmp_path / "a.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(1 << 24))
    with pytest.raises(DataError, match="it is compressed, which PyTorch's files are not"):
        read_pytorch_file(path)


@pytest.mark.parametrize("kept", [-1, 600, 0])
def test_a_truncated_file_is_noticed(tmp_path, kept):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes((GOLDENS / "pytorch_file.bin").read_bytes()[:kept])
    with pytest.raises(DataError, match="is truncated, or was written before PyTorch 1.6"):
        read_pytorch_file(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    good = (GOLDENS / "pytorch_file.bin").read_bytes()
    place = good.index(members()["data/0"]) + 5
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    with pytest.raises(DataError, match="is damaged: Bad CRC-32"):
        read_pytorch_file(path)


def test_the_format_before_pytorch_1_6_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    with pytest.raises(DataError, match="save it again as model.safetensors"):
        read_pytorch_file(path)
