# SPDX-License-Identifier: Apache-2.0
"""Marks every test in this folder `parity`; without PyTorch none is even collected."""

import importlib.util
import pathlib

import pytest

HERE = pathlib.Path(__file__).parent

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("parity")
