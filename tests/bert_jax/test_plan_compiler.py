# SPDX-License-Identifier: Apache-2.0
"""The cache of compiled steps, what is too large, and the compiler that is not there."""

import dataclasses
import gzip
import importlib.util
import itertools
import json

import jax
import pytest

from bert_jax import partitioning
from bert_jax.plan import compiler, planning
from bert_jax.plan.compiler import Compiled, NoCompilerError, OutOfMemoryError
from bert_jax.slices import find_slice

V4 = find_slice("v4-32")
GIB = 2**30


def test_what_was_compiled_once_is_kept(make_recipe, monkeypatch, tmp_path):
    small = make_recipe()
    small = dataclasses.replace(small, model=dataclasses.replace(small.model, vocab_size=256))
    calls = []

    def compile_(lowered, state):
        calls.append(lowered)
        return dataclasses.asdict(Compiled("text", 1, 2, 3, 4, 5))

    monkeypatch.setattr(compiler, "devices", lambda where: tuple(jax.devices()))
    monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.42")
    monkeypatch.setattr(compiler, "_compile", compile_)
    said = []

    def compile_step(config, where=V4):
        return compiler.compile_step(config, config.spans()[0], where, tmp_path, said.append)

    first = compile_step(small)
    assert first == Compiled("text", 1, 2, 3, 4, 5)
    assert compile_step(small) == first
    assert len(calls) == len(said) == 1 and said[0].startswith("compiling 2 layers, 16 x 32")
    compile_step(small, find_slice("v5e-16"))
    compile_step(dataclasses.replace(small, seed=small.seed + 1))
    assert len(calls) == 3
    monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.51")
    compile_step(small)
    assert len(calls) == 4
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    compile_step(small)
    assert len(calls) == 4
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=65536")
    compile_step(small)
    assert len(calls) == 5


class Lowered:
    """A program that the compiler takes, or that it refuses with a message."""

    def __init__(self, message=None):
        self.message, self.compiled = message, 0

    def as_text(self):
        return "program"

    def compile(self):
        self.compiled += 1
        raise jax.errors.JaxRuntimeError(self.message)


def compile_lowered(lowered, cache, say, where=V4):
    whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = {"params": jax.ShapeDtypeStruct((2**20,), "float32", sharding=whole)}
    return compiler.compile_lowered(lowered, state, where, cache, say, "what", {})


@pytest.fixture
def one_result(monkeypatch):
    """Each compilation gives the next number as the text of the program."""
    monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.42")
    texts = map(str, itertools.count(1))
    monkeypatch.setattr(
        compiler,
        "_compile",
        lambda lowered, state: dataclasses.asdict(Compiled(next(texts), 1, 2, 3, 4, 5)),
    )


# As an earlier commit kept what does not fit: with a figure that counted the state twice.
OUTDATED = gzip.compress(json.dumps({"used": 1, "available": 2}).encode())


@pytest.mark.parametrize("damage", ["empty", "half", "no JSON", "no object", "outdated"])
def test_a_damaged_or_outdated_entry_is_made_anew(one_result, tmp_path, damage):
    assert compile_lowered(Lowered(), tmp_path, print).text == "1"
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(
        {
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "no JSON": gzip.compress(b"{"),
            "no object": gzip.compress(b"[]"),
            "outdated": OUTDATED,
        }[damage]
    )
    assert compile_lowered(Lowered(), tmp_path, print).text == "2"
    assert compile_lowered(Lowered(), tmp_path, print).text == "2"
    assert list(tmp_path.iterdir()) == [entry]


def test_where_nothing_can_be_kept_the_result_is_there_all_the_same(one_result, tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    cache = tmp_path / "file" / "cache"
    assert compile_lowered(Lowered(), cache, said.append).text == "1"
    assert said[1:] == [f"the result is not kept in {cache}: Not a directory"]


def test_options_are_tried_apart_from_the_cache_of_jax(make_recipe, monkeypatch, tmp_path):
    seen = []

    def options(mesh):
        seen.append(jax.config.jax_compilation_cache_dir)
        return {}

    monkeypatch.setattr(compiler, "devices", lambda where: tuple(jax.devices()))
    monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.42")
    monkeypatch.setattr(compiler, "compiler_options", options)
    monkeypatch.setattr(compiler, "compile_lowered", lambda *arguments: arguments[-1])
    config, before = make_recipe(), jax.config.jax_compilation_cache_dir
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=256))
    assert compiler.compile_step(config, config.spans()[0], V4, tmp_path, print) == {}
    # Programs for absent devices would be written there, and be an error to read.
    assert seen == [None]
    assert before is not None and jax.config.jax_compilation_cache_dir == before


def test_too_little_memory_is_remembered_too(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.42")

    def needed(lowered, where):
        with pytest.raises(OutOfMemoryError) as caught:
            compile_lowered(lowered, tmp_path, print, where)
        return caught.value.used, caught.value.available

    late = Lowered("RESOURCE_EXHAUSTED: Ran out of memory in hbm. Used 20.50G of 15.75G hbm.")
    for _ in range(2):
        assert needed(late, V4) == (int(20.5 * GIB), int(15.75 * GIB))
    assert late.compiled == 1
    early = Lowered(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (20.59G) exceeds available HBM (15.48G)."
    )
    # The state is in that figure.
    assert needed(early, find_slice("v3-32")) == (int(20.59 * GIB), int(15.48 * GIB))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        compile_lowered(Lowered("INTERNAL: something else"), tmp_path, print, find_slice("v4-64"))


def test_bytes_on_a_device_follow_the_shardings():
    mesh = partitioning.make_mesh(dataclasses.replace(planning.RunConfig.mesh, fsdp=8, data=1))
    shapes = {"mlm": {"dense": {"kernel": jax.ShapeDtypeStruct((64, 32), "float32")}}}
    spread = partitioning.with_shardings(mesh, shapes)
    assert compiler._bytes_on_a_device(spread) == 64 * 32 * 4 // 8


def test_without_the_compiler_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoCompilerError, match="libtpu is not installed.*pip install") as caught:
        compiler.libtpu_version()
    assert caught.value.exit_code == 69
