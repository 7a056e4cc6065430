# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: one loop for every task; a task is a head, a loss, figures and a file format."""
