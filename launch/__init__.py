# SPDX-License-Identifier: Apache-2.0
"""Runs of bert_jax on Cloud TPU slices: rent, install, start, watch, resume, give back.

`tpu_vm` drives slices of the Cloud TPU API, `gke` renders and applies a JobSet; both share the
names of slices, the checks of what a user types, and `on_host`, the part that runs on each host.
"""
