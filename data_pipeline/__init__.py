# SPDX-License-Identifier: Apache-2.0
"""From raw text to batches of BERT examples, with NumPy and tf.data and without JAX."""
