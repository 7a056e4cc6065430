# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole test suite; JAX has its own in tests/bert_jax/conftest.py."""

import os
import signal

# TensorFlow prints about its CPU kernels at import, and there is nothing to learn from it here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# A shell starts background jobs with SIGINT ignored, and what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
