# SPDX-License-Identifier: Apache-2.0
"""Recipes: `--config=configs/NAME.py:VARIANT`."""
