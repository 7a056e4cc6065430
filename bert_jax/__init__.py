# SPDX-License-Identifier: Apache-2.0
"""Pre-training of BERT encoders in JAX."""

__version__ = "0.1.0"
