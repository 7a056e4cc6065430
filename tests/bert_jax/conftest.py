# SPDX-License-Identifier: Apache-2.0
"""JAX settings of the tests: eight simulated devices, and no silent broadcasting of ranks.

The devices are set here, not in the environment, so that commands which tests start see one device
as users do. XLA's optimisations are off, for these commands too: the programs of the tests are tiny
and nearly all of their time is compilation, three times longer with optimisations. What is compiled
is kept, because many tests compile the same program again.
"""

import copy
import os
import pathlib

import jax
import pytest

from bert_jax.config import RunConfig
from configs import pretrain
from tests.bert_jax.topics import write_topics_store

CACHE = pathlib.Path(__file__).parents[2] / ".pytest_cache" / "jax"

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def topics_store(tmp_path_factory):
    return write_topics_store(tmp_path_factory.mktemp("topics") / "texts")


@pytest.fixture
def make_recipe(topics_store):
    """Makes the recipe of a run of seconds: 12 steps, of them 8 at 32 tokens and 4 at 64."""

    def make(**changes):
        config = copy.deepcopy(pretrain.get_config("tiny"))
        config.steps = 12
        config.phases.short.update(length=32, batch_size=16, share=2 / 3)
        config.phases.long.update(length=64, batch_size=8, share=1 / 3)
        config.model.update(num_layers=2, hidden_size=32, num_heads=2, mlp_size=64)
        config.model.update(max_positions=64, compute_dtype="float32")
        config.optimizer.update(learning_rate=3e-3, warmup_steps=3)
        config.data.store = str(topics_store)
        config.evaluation.update(every=6, examples=20, batch_size=8)
        config.checkpoint.every = 5
        config.log_every = 1
        config.update_from_flattened_dict(changes)
        return RunConfig.from_mapping(config.to_dict())

    return make
