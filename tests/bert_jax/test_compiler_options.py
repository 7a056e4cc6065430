# SPDX-License-Identifier: Apache-2.0
"""Options reach a compiler only if it knows them; what they bring is in `test_plan_on_tpu`."""

import jax

from bert_jax import compiler_options
from bert_jax.config import MeshConfig
from bert_jax.partitioning import make_mesh


def test_an_option_that_the_compiler_does_not_know_is_left_out(caplog):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert compiler_options._known(mesh, "xla_cpu_enable_fast_math", False)
    assert not compiler_options._known(mesh, "xla_cpu_enable_telepathy", True)
    assert "the compiler does without xla_cpu_enable_telepathy" in caplog.text


def test_only_tpus_have_options():
    assert compiler_options.compiler_options(make_mesh(MeshConfig(), jax.devices()[:2])) == {}
