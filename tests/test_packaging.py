# SPDX-License-Identifier: Apache-2.0
"""Ranges, pins and docs/dependencies.md agree, and every Python file carries its licence."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (\S+) \| ([^|]+) \| (\S+) \| \d{4}-\d\d \| \S.*\|$", re.M)
PIN = re.compile(r"^([\w.-]+)==(\S+)$", re.M)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    groups = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    found = [Requirement(line) for group in groups for line in group.split("\n") if line]
    return {canonical(requirement.name): requirement for requirement in found}


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text() + (ROOT / "constraints-parity.txt").read_text()
    found = [(canonical(name), version) for name, version in PIN.findall(text)]
    assert len(dict(found)) == len(found), "a package is pinned twice"
    return dict(found)


def test_the_page_on_dependencies_says_what_is_installed() -> None:
    rows = ROW.findall((ROOT / "docs" / "dependencies.md").read_text())
    written = {
        canonical(name): (Requirement(name + span).specifier, pin) for name, span, pin in rows
    }
    pinned = pins()
    assert written == {
        name: (requirement.specifier, pinned[name]) for name, requirement in declared().items()
    }


def test_make_setup_installs_what_make_test_needs() -> None:
    """Every extra but those with targets of their own."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    found = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert found is not None
    wanted = set(parser["options.extras_require"]) - {"parity", "plan"}
    assert set(found[1].split(",")) == wanted


@pytest.mark.parametrize("name", sorted(declared()))
def test_pins_are_within_their_ranges(name: str) -> None:
    assert pins()[name] in declared()[name].specifier


def test_every_python_file_starts_with_its_licence() -> None:
    folders = ("bert_jax", "benchmarks", "configs", "data_pipeline", "demo", "launch", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert ROOT / "demo" / "run.py" in files
    for path in files:
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        assert first == "# SPDX-License-Identifier: Apache-2.0", path
