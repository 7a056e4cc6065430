# SPDX-License-Identifier: Apache-2.0
"""Labelled data for fine-tuning: tables of rows, rows to examples, examples to batches."""
