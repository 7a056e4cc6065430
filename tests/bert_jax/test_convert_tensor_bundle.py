# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's checkpoint files: TensorFlow reads ours, we read TensorFlow's, damage is noticed."""

import ml_dtypes
import numpy as np
import pytest

from bert_jax.convert.sstable import build_table, parse_table, read_varint, varint
from bert_jax.convert.tensor_bundle import read_bundle, read_index, write_bundle
from data_pipeline.errors import DataError

tensorflow = pytest.importorskip("tensorflow")
tf = tensorflow.compat.v1

DTYPES = (
    *(np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.bool_),
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
)


def everything(name):
    return True


@pytest.fixture
def tensors():
    """Names that share beginnings, more of them than restart points, and every type and rank."""
    random = np.random.default_rng(0)
    made = {f"layer_{n}/kernel": random.normal(size=(n % 5, 3)) for n in range(50)}
    made |= {
        f"type_{np.dtype(dtype).name}": random.integers(0, 2, 7).astype(dtype) for dtype in DTYPES
    }
    made |= {"global_step": np.array(7), "é": np.zeros((2, 1, 300, 2)), "layer": np.ones((4, 4)).T}
    return made


def save_with_tensorflow(prefix, tensors):
    names = sorted(tensors)
    arrays = [tf.constant(tensors[name]) for name in names]
    tensorflow.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=arrays
    )


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def test_tensorflow_reads_what_we_write(tensors, tmp_path):
    write_bundle(tmp_path / "model.ckpt", tensors)
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "model.ckpt"))
    assert_same({name: np.asarray(reader.get_tensor(name)) for name in tensors}, tensors)
    assert reader.get_variable_to_shape_map().keys() == tensors.keys()


def test_we_read_what_tensorflow_writes(tensors, tmp_path):
    save_with_tensorflow(tmp_path / "model.ckpt", tensors)
    assert_same(read_bundle(tmp_path / "model.ckpt", everything), tensors)


def test_our_files_are_those_of_tensorflow_byte_for_byte(tensors, tmp_path):
    write_bundle(tmp_path / "ours", tensors)
    save_with_tensorflow(tmp_path / "theirs", tensors)
    for end in (".index", ".data-00000-of-00001"):
        ours, theirs = (tmp_path / f"{name}{end}" for name in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes(), end


def test_only_what_is_wanted_is_read(tensors, tmp_path):
    write_bundle(tmp_path / "model", tensors)
    found = read_bundle(tmp_path / "model", lambda name: name.startswith("layer_1"))
    assert sorted(found) == sorted(name for name in tensors if name.startswith("layer_1"))


def test_several_data_files(tensors, tmp_path):
    names = sorted(tensors)
    for number, some in enumerate((names[::2], names[1::2])):
        save_with_tensorflow(tmp_path / f"part{number}", {name: tensors[name] for name in some})
    parts = [str(tmp_path / f"part{number}") for number in range(2)]
    tensorflow.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "whole")
    )
    assert (tmp_path / "whole.data-00001-of-00002").exists()
    assert_same(read_bundle(tmp_path / "whole", everything), tensors)
    assert read_index(tmp_path / "whole")[1] == 2
    (tmp_path / "whole.data-00001-of-00002").unlink()
    with pytest.raises(DataError, match=r"whole\.data-00001-of-00002 is missing, but the"):
        read_bundle(tmp_path / "whole", everything)


def test_an_index_of_many_blocks(tmp_path):
    """TensorFlow starts a new block after 256 KiB."""
    names = [f"{n:05d}/{'long name ' * 30}" for n in range(2000)]
    tensors = {name: np.float32(n) for n, name in enumerate(names)}
    save_with_tensorflow(tmp_path / "model", tensors)
    found = read_bundle(tmp_path / "model", everything)
    assert [found[name] for name in names] == list(range(2000))
    write_bundle(tmp_path / "ours", {name: np.asarray(value) for name, value in tensors.items()})
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "ours"))
    assert [reader.get_tensor(name) for name in names[::100]] == list(range(0, 2000, 100))


def test_a_partitioned_variable_is_refused(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("table", [8, 3], partitioner=tf.fixed_size_partitioner(2))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model"), write_meta_graph=False)
    with pytest.raises(DataError, match="table is a partitioned variable in 2 slices; save it"):
        read_bundle(tmp_path / "model", everything)


def test_text_is_refused_only_where_it_is_wanted(tmp_path):
    save_with_tensorflow(tmp_path / "model", {"words": np.array(["a"]), "x": np.ones(2)})
    assert list(read_bundle(tmp_path / "model", lambda name: name == "x")) == ["x"]
    with pytest.raises(DataError, match=r"words holds no numbers \(TensorFlow's type 7\)"):
        read_bundle(tmp_path / "model", everything)


@pytest.mark.parametrize("end", [".index", ".data-00000-of-00001"])
def test_every_flipped_bit_is_noticed(end, tensors, tmp_path):
    write_bundle(tmp_path / "model", tensors)
    path = tmp_path / f"model{end}"
    good = path.read_bytes()
    random = np.random.default_rng(1)
    # The footer of the index is zero between its two places and its last eight bytes: not read.
    places = random.choice(len(good) - (48 if end == ".index" else 0), 60, replace=False)
    for place in [*places, *([len(good) - 1, len(good) - 48] if end == ".index" else [])]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        with pytest.raises(DataError, match="model"):
            read_bundle(tmp_path / "model", everything)


@pytest.mark.parametrize("end", [".index", ".data-00000-of-00001"])
def test_every_truncation_is_noticed(end, tensors, tmp_path):
    write_bundle(tmp_path / "model", tensors)
    path = tmp_path / f"model{end}"
    good = path.read_bytes()
    for kept in (0, 1, 47, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:kept])
        with pytest.raises(DataError, match="truncated|damaged"):
            read_bundle(tmp_path / "model", everything)


@pytest.mark.parametrize("change", [{"offset": 1 << 62}, {"shard": 999_999}, {"size": 1 << 62}])
def test_an_index_that_asks_for_the_impossible(change, tmp_path):
    """Its checksum is right: it was made so, not damaged."""
    write_bundle(tmp_path / "model", {"a": np.ones(3, np.float32)})
    path = tmp_path / "model.index"
    table = parse_table(path.read_bytes())
    fields = {"shard": 0, "offset": 0, "size": 12} | change
    numbers = {"shard": 3, "offset": 4, "size": 5}
    entry = bytes([1 << 3, 1, 2 << 3 | 2, 4, 2 << 3 | 2, 2, 1 << 3, 3])
    entry += b"".join(bytes([numbers[n] << 3]) + varint(value) for n, value in fields.items())
    path.write_bytes(build_table(table | {b"a": entry}))
    with pytest.raises(DataError, match="missing|truncated|damaged"):
        read_bundle(tmp_path / "model", everything)


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"model\.index is missing: no TensorFlow checkpoint"):
        read_index(tmp_path / "model")


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**63])
def test_varints(number):
    assert read_varint(b"x" + varint(number) + b"y", 1) == (number, 1 + len(varint(number)))


def test_a_compressed_block_is_refused():
    table = build_table({b"key": b"value"})
    content = table[: table.index(b"value") + 5 + 8] + b"\x01"
    import google_crc32c

    checksum = google_crc32c.value(content)
    masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    changed = content + masked.to_bytes(4, "little") + table[len(content) + 4 :]
    assert parse_table(table) == {b"key": b"value"}
    with pytest.raises(DataError, match="it is compressed, which TensorFlow's checkpoints are not"):
        parse_table(changed)
