# SPDX-License-Identifier: Apache-2.0
"""JAX settings of the tests: eight simulated devices, and no silent broadcasting of ranks.

Set here, not in the environment, so that commands which tests start see one device as users do.
"""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
