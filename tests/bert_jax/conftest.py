# SPDX-License-Identifier: Apache-2.0
"""JAX settings of the tests: eight simulated devices, and no silent broadcasting of ranks.

The devices are set here, not in the environment, so that commands which tests start see one device
as users do. XLA's optimisations are off, for these commands too: the programs of the tests are tiny
and nearly all of their time is compilation, three times longer with optimisations. What is compiled
is kept, because many tests compile the same program again.
"""

import os
import pathlib

import jax

CACHE = pathlib.Path(__file__).parents[2] / ".pytest_cache" / "jax"

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
