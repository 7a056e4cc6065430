# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole test suite; JAX has its own in tests/bert_jax/conftest.py."""

import os

# TensorFlow prints about its CPU kernels at import, and there is nothing to learn from it here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
