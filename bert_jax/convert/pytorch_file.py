# SPDX-License-Identifier: Apache-2.0
"""The tensors of a `pytorch_model.bin`, without PyTorch and without running what is in it.

Such a file is a zip of raw numbers and of one pickle that says which numbers make up which tensor.
A pickle is a program: loading a stranger's with `torch.load` or `pickle.load` may do anything. The
one here can name the few things that a dictionary of tensors consists of, all of them replaced by
harmless records, and nothing else.

Source: `torch/serialization.py`; `torch._utils._rebuild_tensor_v2`.
"""

import collections
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from data_pipeline.errors import DataError

_STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Storage(NamedTuple):
    kind: str
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # elements, as are the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pytorch_file(path: Path) -> dict[str, np.ndarray]:
    """Name -> array of a dictionary of tensors that `torch.save` wrote.

    Raises:
        DataError: the file is missing or damaged, was written before PyTorch 1.6, or holds
            anything but tensors.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} is truncated, or was written before PyTorch 1.6 in a format that cannot be "
            "read without running code; load it with transformers where you trust it, and save it "
            "again as model.safetensors"
        )
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    # What a pickle that was put together by hand can make of harmless records.
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    except (AttributeError, IndexError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _read(file: zipfile.ZipFile) -> dict[str, np.ndarray]:
    (pickled,) = [name for name in file.namelist() if name.rsplit("/", 1)[-1] == "data.pkl"]
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in file.namelist() and file.read(f"{folder}byteorder") != b"little":
        raise DataError("it was written on a big-endian machine, whose numbers are not read")
    if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
        raise DataError("it is compressed, which PyTorch's files are not")
    with file.open(pickled) as stream:
        content = _Unpickler(stream).load()
    if not isinstance(content, dict):
        raise DataError("it holds no dictionary of tensors; is it a whole model or a checkpoint?")
    tensors: dict[str, np.ndarray] = {}
    storages: dict[_Storage, bytes] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, _Tensor) or not isinstance(name, str):
            raise DataError(f"{name!r} is no tensor; a dictionary of tensors alone can be read")
        if tensor.storage not in storages:
            storages[tensor.storage] = file.read(f"{folder}data/{tensor.storage.key}")
        tensors[name] = _array(tensor, storages[tensor.storage])
    return tensors


def _array(tensor: _Tensor, data: bytes) -> np.ndarray:
    """The tensor's numbers; NumPy refuses places outside of the data."""
    dtype = _STORAGES[tensor.storage.kind]
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    offset = tensor.offset * dtype.itemsize
    return np.array(np.ndarray(tensor.shape, dtype, data, offset, strides), order="C")


def _rebuild_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> _Tensor:
    return _Tensor(_Storage(*storage), offset, shape, strides)


def _rebuild_parameter(tensor: _Tensor, requires_grad: bool, hooks: Any) -> _Tensor:
    return tensor


class _Unpickler(pickle.Unpickler):
    """Knows tensors, dictionaries and plain values; every other name is refused."""

    _KNOWN: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    }

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle; called for every one, before it is used."""
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) not in self._KNOWN:
            raise DataError(
                f"it asks for {module}.{name}, which is no part of a tensor and could be code; "
                "nothing of it was run"
            )
        known = self._KNOWN[module, name]
        # A pickle can set attributes of what it names: here, of something made for it alone.
        return lambda *arguments: known(*arguments)

    def persistent_load(self, reference: Any) -> _Storage:
        """The storage that the pickle refers to as ("storage", type, key, device, size)."""
        label, kind, key, _device, _size = reference
        if label != "storage" or kind not in _STORAGES:
            raise DataError(f"it refers to a {label!r} of {kind!r}, which is no tensor's storage")
        return _Storage(kind, str(key))
