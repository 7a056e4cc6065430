# SPDX-License-Identifier: Apache-2.0
"""Which host is named where they disagree (the whole way: test_multihost)."""

import copy

import pytest

from bert_jax import preflight

OWN = {
    "code": "aaa",
    "versions": {"jax": "0.10.2", "numpy": "2.4"},
    "config": {
        "seed": 0,
        "data": {"store": "/a", "whole_word": False},
        "optimizer": {"beta1": 0.9},
    },
    "store": "f00",
    "tokenizer": "b00",
    "devices": "4 x TPU v4",
}


def hosts(number, changed, **changes):
    found = [copy.deepcopy(OWN) for _ in range(number)]
    found[changed] |= changes
    return found


def test_hosts_that_agree_are_let_pass():
    assert preflight.disagreements(hosts(4, 0)) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"code": "bbb"}, "code: aaa -> bbb"),
        ({"store": "f01"}, "store: f00 -> f01"),
        ({"tokenizer": "b01"}, "tokenizer: b00 -> b01"),
        ({"devices": "3 x TPU v4"}, "devices: 4 x TPU v4 -> 3 x TPU v4"),
        ({"versions": {"jax": "0.11", "numpy": "2.4"}}, "versions: jax: '0.10.2' -> '0.11'"),
        ({"versions": {"jax": "0.10.2"}}, "versions: numpy: '2.4' -> absent"),
        ({"config": OWN["config"] | {"seed": 1}}, "config: seed: 0 -> 1"),
    ],
)
@pytest.mark.parametrize("odd", [0, 2])
def test_the_odd_host_is_named_even_if_it_is_the_first(changes, line, odd):
    assert preflight.disagreements(hosts(4, odd, **changes)) == [f"process {odd}: {line}"]


def test_of_two_the_second_is_named():
    assert preflight.disagreements(hosts(2, 0, code="bbb")) == ["process 1: code: bbb -> aaa"]


def test_a_store_may_lie_elsewhere_on_each_host():
    data = {"store": "/b", "whole_word": False}
    assert preflight.disagreements(hosts(2, 1, config=OWN["config"] | {"data": data})) == []


def test_the_fingerprint_is_that_of_the_code(tmp_path, monkeypatch):
    for package in ("bert_jax", "data_pipeline"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(preflight, "_PACKAGE", tmp_path / "bert_jax")
    monkeypatch.setattr(preflight, "_CODE", (tmp_path / "bert_jax", tmp_path / "data_pipeline"))
    before = preflight.code_fingerprint()
    (tmp_path / "bert_jax" / "a.pyc").write_text("compiled")
    assert preflight.code_fingerprint() == before
    (tmp_path / "data_pipeline" / "a.py").write_text("x = 2\n")
    assert preflight.code_fingerprint() != before
