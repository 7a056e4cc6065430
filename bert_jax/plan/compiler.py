# SPDX-License-Identifier: Apache-2.0
"""Compiles the real training step for a slice of TPUs on a machine that has none.

libtpu brings the whole compiler and describes any slice it knows (`jax.experimental.topologies`).
What it makes of a step is kept in a cache directory, by a hash of the program before compilation,
the slice and libtpu's version, because a compilation takes minutes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from bert_jax import partitioning
from bert_jax.compiler_options import compiler_options
from bert_jax.config import PhaseSpan, RunConfig
from bert_jax.optimizer import make_optimizer
from bert_jax.plan.cache import read_entry, write_entry
from bert_jax.slices import CHIPS_PER_HOST, Slice
from bert_jax.train_step import init_state, jit_train_step
from data_pipeline.batch import BatchSpec
from data_pipeline.errors import UserError

DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "bert_jax" / "plan"
Say = Callable[[str], None]
# The two ways in which the compiler says so. Both figures are of all that a program needs, its
# arguments included, although the second speaks of temporaries.
_OUT_OF_MEMORY = re.compile(
    r"Used ([\d.]+\w) of ([\d.]+\w) hbm"
    r"|temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)"
)


class NoCompilerError(UserError):
    """libtpu is not installed, or not usable here."""

    exit_code = 69


class OutOfMemoryError(Exception):
    """The compiler found no way to run the program in the memory of a device."""

    def __init__(self, used: int, available: int) -> None:
        super().__init__(f"{used} bytes of {available}")
        self.used, self.available = used, available


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step as a device would run it: scheduled HLO text, and bytes of memory a device.

    The state is updated in place.
    """

    text: str
    parameters: int
    optimizer: int
    batch: int
    temporary: int  # activations, gradients and whatever else lives within a step
    program: int


# What the cache holds of a program: either, or. Earlier commits kept what does not fit as "used",
# too large on v2 and v3: those entries are of neither form, and compiled again.
_FITS = frozenset(field.name for field in dataclasses.fields(Compiled))
_DOES_NOT_FIT = frozenset({"needed", "available"})


def libtpu_version() -> str:
    """Version of the TPU compiler.

    Raises:
        NoCompilerError: it is not installed; says how to get it.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise NoCompilerError(
            "the TPU compiler libtpu is not installed; it runs on any x86-64 Linux machine: "
            "pip install 'bert-jax[plan]', or in this repository: make plan"
        )
    return importlib.metadata.version("libtpu")


@functools.cache
def devices(where: Slice) -> tuple[jax.Device, ...]:
    """The devices of a slice that is not here, to compile for and for nothing else.

    Raises:
        NoCompilerError: libtpu is missing or does not know the slice.
    """
    version = libtpu_version()
    # libtpu looks for a machine of Google Cloud around it unless it is told where it is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", where.name)
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    host = (2, 2, 1) if where.chips >= CHIPS_PER_HOST else (1, 1, 1)
    try:
        topology = topologies.get_topology_desc(
            platform="tpu",
            topology_name=where.topology_name,
            chip_config_name="megacore" if where.chip.megacore else "default",
            chips_per_host_bounds=host,
            num_slices=where.count,
            wrap=(where.wrapped,) * 3,
        )
    except (RuntimeError, ValueError) as error:
        raise NoCompilerError(
            f"libtpu {version} cannot describe {where.name} ({where.topology_name}): {error}"
        ) from error
    return tuple(topology.devices)


def lower_step(config: RunConfig, span: PhaseSpan, mesh: Mesh) -> tuple[jax.stages.Lowered, Any]:
    """The training step of a run, and the shapes of its state."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = _state(config, mesh)
    rows = partitioning.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
        for name, (shape, dtype) in BatchSpec(span.batch_size, span.length).features().items()
    }
    return jit_train_step(config, mesh, optimizer, state).lower(state, batch), state


def compile_step(
    config: RunConfig, span: PhaseSpan, where: Slice, cache: Path | None, say: Say
) -> Compiled:
    """Compiles one phase's step, or finds it in the cache.

    Args:
        config: with the vocabulary's size filled in.
        span: the phase: batch size and length.
        where: the slice.
        cache: directory of earlier results; None for none.
        say: told before something takes long.

    Raises:
        OutOfMemoryError: the step does not fit.
        ConfigError: the configuration does not divide over the slice.
    """
    mesh = partitioning.make_mesh(config.mesh, devices(where))
    partitioning.check_divisible(config, mesh)
    with _without_cache_of_jax():  # each option is tried by compiling
        options = compiler_options(mesh)  # remembered for `lower_step`
    lowered, state = lower_step(config, span, mesh)
    what = f"{config.model.num_layers} layers, {span.batch_size} x {span.length}"
    return compile_lowered(lowered, state, where, cache, say, what, options)


def compile_lowered(
    lowered: jax.stages.Lowered,
    state: Any,
    where: Slice,
    cache: Path | None,
    say: Say,
    what: str,
    options: Mapping[str, bool],
) -> Compiled:
    """Compiles any program, or finds it in the cache.

    Args:
        lowered: the program, for devices of the slice.
        state: shapes with shardings of its "params" and its "optimizer".
        where: the slice.
        cache: directory of earlier results; None for none.
        say: told before something takes long.
        what: the program's name in that message.
        options: of the compiler, with which the program was jitted; its text does not name them.

    Raises:
        OutOfMemoryError: the program does not fit.
    """
    key = hashlib.sha256(lowered.as_text().encode())
    key.update(f"{where} libtpu {libtpu_version()} {sorted(options.items())}".encode())
    key.update(os.environ.get("LIBTPU_INIT_ARGS", "").encode())  # more options of the compiler
    path = cache / f"{key.hexdigest()[:32]}.json.gz" if cache else None
    found = read_entry(path, (_FITS, _DOES_NOT_FIT)) if path else None
    if found is None:
        say(f"compiling {what}, for {where.name} (minutes)")
        found = _compile(lowered, state)
        if path:
            write_entry(path, found, say)
    if "needed" in found:
        raise OutOfMemoryError(found["needed"], found["available"])
    return Compiled(**found)


@contextlib.contextmanager
def _without_cache_of_jax() -> Iterator[None]:
    """JAX's own cache writes programs for absent devices, but cannot read them."""
    kept = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
        compilation_cache.reset_cache()


def _compile(lowered: jax.stages.Lowered, state: Any) -> dict[str, Any]:
    try:
        with _without_cache_of_jax():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if found is None:
            raise
        needed, available = (_size(group) for group in found.groups() if group)
        return {"needed": needed, "available": available}
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None  # only some other back ends have neither
    parameters = _bytes_on_a_device(state["params"])
    optimizer = _bytes_on_a_device(state["optimizer"])
    return dataclasses.asdict(
        Compiled(
            text=text,
            parameters=parameters,
            optimizer=optimizer,
            batch=memory.argument_size_in_bytes - parameters - optimizer,
            temporary=memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes,
            program=memory.generated_code_size_in_bytes,
        )
    )


def state_bytes(config: RunConfig, where: Slice) -> int:
    """Bytes of parameters and optimiser on a device, without compiling anything.

    Raises:
        ConfigError: the configuration does not divide over the slice.
    """
    mesh = partitioning.make_mesh(config.mesh, devices(where))
    partitioning.check_divisible(config, mesh)
    state = _state(config, mesh)
    return _bytes_on_a_device(state["params"]) + _bytes_on_a_device(state["optimizer"])


def _state(config: RunConfig, mesh: Mesh) -> Any:
    optimizer = make_optimizer(config.optimizer, config.steps)
    init = functools.partial(init_state, config.model, optimizer, config.seed)
    return partitioning.with_shardings(
        mesh, jax.eval_shape(init), shard_optimizer=config.mesh.shard_optimizer
    )


def _bytes_on_a_device(tree: Any) -> int:
    def size(leaf: jax.ShapeDtypeStruct) -> int:
        elements = 1
        for length in leaf.sharding.shard_shape(leaf.shape):
            elements *= length
        return elements * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def _size(text: str) -> int:
    """Bytes of a size as XLA prints it: 40.50G, 512.00M."""
    units = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return int(float(text.rstrip("BKMGT")) * units[text[-1]])
