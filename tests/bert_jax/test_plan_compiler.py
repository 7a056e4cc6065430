# SPDX-License-Identifier: Apache-2.0
"""The cache of compiled steps, what is too large, and the compiler that is not there."""

import dataclasses
import importlib.util

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


def test_too_little_memory_is_remembered_too(make_recipe, monkeypatch, tmp_path):
    small = make_recipe()
    small = dataclasses.replace(small, model=dataclasses.replace(small.model, vocab_size=256))
    whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm."
    )

    class Lowered:
        def as_text(self):
            return "program"

        def compile(self):
            raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(compiler, "devices", lambda where: tuple(jax.devices()))
    monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.42")
    monkeypatch.setattr(compiler, "lower_step", lambda *arguments: (Lowered(), None))
    for _ in range(2):
        with pytest.raises(OutOfMemoryError) as caught:
            compiler.compile_step(small, small.spans()[0], V4, tmp_path, print)
        assert caught.value.used == int(20.5 * GIB)
        assert caught.value.available == int(15.75 * GIB)
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (20.59G) exceeds available HBM (15.48G)."
    )
    state = {"params": jax.ShapeDtypeStruct((256,), "float32", sharding=whole)}
    monkeypatch.setattr(compiler, "lower_step", lambda *arguments: (Lowered(), state))
    with pytest.raises(OutOfMemoryError) as caught:
        compiler.compile_step(small, small.spans()[0], find_slice("v3-32"), tmp_path, print)
    assert caught.value.used == int(20.59 * GIB) + 1024
    message = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        compiler.compile_step(small, small.spans()[0], find_slice("v4-64"), tmp_path, print)


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
