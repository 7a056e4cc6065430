# SPDX-License-Identifier: Apache-2.0
"""Weights into and out of the formats that other BERT implementations read."""
