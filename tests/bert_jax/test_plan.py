# SPDX-License-Identifier: Apache-2.0
"""A run's plan, with the compiler replaced: figures, search, cache, errors, the three forms."""

import dataclasses
import json

import pytest

from bert_jax.config import BertConfig, RunConfig
from bert_jax.flops import step_flops
from bert_jax.plan import estimate, planning, report
from bert_jax.plan.compiler import Compiled, OutOfMemoryError
from bert_jax.plan.estimate import Estimate, Memory, extrapolate
from bert_jax.plan.program import parse
from bert_jax.plan.recipe import load
from bert_jax.plan.timeline import Exchange, Figures, Timeline, timeline
from bert_jax.slices import find_slice
from configs import pretrain
from tests.bert_jax.scheduled_program import PROGRAM

V4 = find_slice("v4-32")
GIB = 2**30
ESTIMATE = Estimate(Memory(GIB, 2 * GIB, 1000, 3 * GIB, 4000), timeline(parse(PROGRAM), V4), (12,))


@pytest.fixture
def config():
    mapping = pretrain.get_config("base").to_dict()
    mapping["data"]["store"] = "none"
    mapping["model"]["vocab_size"] = 30522
    return RunConfig.from_mapping(mapping)


@pytest.fixture
def planned(config, monkeypatch):
    monkeypatch.setattr(planning, "estimate_step", lambda *arguments: ESTIMATE)
    monkeypatch.setattr(planning, "libtpu_version", lambda: "0.0.42")
    return planning.make_plan(config, V4, 3.0, None, print)


def test_hours_cost_and_mfu_by_hand(planned):
    seconds = ESTIMATE.time.total
    assert planned.fits
    assert planned.hours == pytest.approx(1_000_000 * seconds / 3600)
    assert planned.cost == pytest.approx(planned.hours * 16 * 3.0)
    short, long = planned.phases
    assert (short.span.last_step, long.span.first_step) == (900_000, 900_000)
    assert planned.mfu(long) == pytest.approx(
        step_flops(planned.config.model, 256, 512) / (seconds * 16 * 275e12)
    )
    floors = planned.floors(short)
    assert floors["matrix units"] == pytest.approx(4.07e-3, rel=0.01)
    assert floors["memory"] == pytest.approx(2 * 3 * GIB / 1200e9)
    exchanges = ESTIMATE.time.exchanges.values()
    assert floors["links"] == pytest.approx(sum(each.seconds for each in exchanges)) != 0
    assert "network" not in floors


def test_links_and_network_have_a_floor_each(planned):
    exchanges = {
        "all-gather bf16 over 16": Exchange(1, 0, 2.0, 0),
        "reduce-scatter bf16 over 16": Exchange(1, 0, 1.0, 0),
        "all-reduce f32 between 2 slices": Exchange(1, 0, 4.0, 0),
    }
    time = Timeline(Figures({"matmul": 5.0}), exchanges)
    short = dataclasses.replace(
        planned.phases[0], estimate=dataclasses.replace(ESTIMATE, time=time)
    )
    two = dataclasses.replace(planned, where=find_slice("v4-32", 2), phases=(short,))
    floors = two.floors(short)
    assert (floors["links"], floors["network"]) == (3.0, 4.0)
    assert max(floors.values()) < time.total
    lines = [line.split() for line in report.as_text(two).split("\n")]
    assert ["floor", "of", "network,", "ms", "4000.00"] in lines


def test_the_table_says_what_it_is_and_adds_up(planned):
    text = report.as_text(planned)
    assert text.startswith("bert-base on v4-32: 16 chips (2x2x4), 4 hosts, 16 devices of 32 GiB")
    assert "nothing was measured" in text
    assert "256 x 128" in text and "256 x 512" in text
    assert "6.00 of 30.75" in text
    step = next(line for line in text.split("\n") if line.startswith("step, ms"))
    parts = [
        float(line.split()[-1])
        for line in text.split("\n")
        if any(line.strip().startswith(f"{kind} ") for kind in report.KINDS)
    ]
    assert float(step.split()[-1]) == pytest.approx(sum(parts), abs=0.05)
    assert "$" in text and "calibration: large, 448 x 512, on v3-32" in text
    assert any(line.split()[:2] == ["optimizer,", "GiB"] for line in text.split("\n"))


def test_a_recipe_without_pod_is_told_what_that_sets(planned):
    def said(**changes):
        text = report.as_text(dataclasses.replace(planned, **changes))
        return [line for line in text.split("\n") if line.startswith("likely faster")]

    unrolled, sharded = "--config.model.unroll=12", "--config.mesh.shard_optimizer=True"
    assert said() == [
        f"likely faster: {unrolled} {sharded} (as `,pod` after the recipe's size sets)"
    ]
    pod = load(pretrain.get_config("base,pod").to_dict(), 30522)
    assert not said(config=pod)
    whole = dataclasses.replace(pod.mesh, shard_optimizer=False)
    (line,) = said(config=dataclasses.replace(pod, mesh=whole))
    assert sharded in line and "unroll" not in line
    remat = dataclasses.replace(planned.config.model, remat=True)
    assert not said(config=dataclasses.replace(planned.config, model=remat))
    phase = dataclasses.replace(planned.phases[0], change="model.remat=True")
    assert not said(phases=(phase, *planned.phases[1:]))


def test_json_and_picture(planned, tmp_path):
    content = json.loads(json.dumps(report.as_json(planned)))
    assert content["fits"] and content["slice"]["chips"] == 16
    short = content["phases"][0]
    assert short["step_seconds"] == pytest.approx(sum(short["seconds"].values()))
    assert short["collectives"]["all-gather f32 over 16"]["bytes"] == 4 * 1024 * 128
    assert short["memory"]["optimizer"] == 2 * GIB
    report.draw(planned, tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").read_text().count("<svg") == 1


def test_plans_of_one_slice_and_of_two_do_not_share_their_files(planned, tmp_path):
    two = dataclasses.replace(planned, where=find_slice("v4-32", 2))
    assert report.file_name(planned) == "bert-base-v4-32"
    assert report.file_name(two) == "bert-base-2xv4-32"
    assert report.as_text(two).startswith("bert-base on 2 x v4-32: 32 chips")
    report.draw(two, tmp_path / "plan.svg")
    assert "bert-base on 2 x v4-32" in (tmp_path / "plan.svg").read_text()


def state_bytes(config, where):
    return GIB if config.mesh.shard_optimizer else 10 * GIB


def fitting_with(*wanted):
    """An estimate that fits only if all of the settings are made."""

    def estimate_step(config, span, where, cache, say):
        made = {
            "sharded": config.mesh.shard_optimizer,
            "remat": config.model.remat,
            "accumulation": config.accumulation > 1,
            "fsdp": config.mesh.fsdp == -1,
            "smaller": span.batch_size < 256,
        }
        if not all(made[name] for name in wanted):
            raise OutOfMemoryError(40 * GIB, 31 * GIB)
        return ESTIMATE

    return estimate_step


@pytest.mark.parametrize(
    ("wanted", "change"),
    [
        ((), ""),
        (("sharded",), "mesh.shard_optimizer=True"),
        (("accumulation",), "mesh.shard_optimizer=True accumulation=2"),
        (("remat",), "mesh.shard_optimizer=True model.remat=True"),
        (("fsdp",), "mesh.data=1 mesh.fsdp=-1 model.remat=True"),
        (("smaller",), "mesh.shard_optimizer=True batch_size=128 (another run)"),
    ],
)
def test_the_smallest_change_that_fits_is_found(config, monkeypatch, wanted, change):
    monkeypatch.setattr(planning, "estimate_step", fitting_with(*wanted))
    monkeypatch.setattr(planning, "state_bytes", state_bytes)
    monkeypatch.setattr(planning, "libtpu_version", lambda: "0.0.42")
    plan = planning.make_plan(config, V4, 0.0, None, lambda message: None)
    assert [phase.change for phase in plan.phases] == [change, change]
    assert plan.fits == (change == "")
    if change:
        assert plan.phases[0].needed == 40 * GIB
        assert f"128: {change}" in report.as_text(plan)


def test_every_change_names_all_that_it_changes(config):
    said = [change for change, *_ in planning.changes(config, config.spans()[0], V4)]
    assert all("mesh." in change for change in said)
    mesh = dataclasses.replace(config.mesh, shard_optimizer=True)
    config = dataclasses.replace(config, mesh=mesh)
    changes = list(planning.changes(config, config.spans()[0], V4))
    assert changes[-1][0] == "batch_size=16 (another run)"
    assert changes[-1][1].mesh == mesh and changes[-1][2].batch_size == 16


def test_what_fits_in_no_way_is_said_so(config, monkeypatch):
    def never(*arguments):
        raise OutOfMemoryError(99 * GIB, 31 * GIB)

    monkeypatch.setattr(planning, "estimate_step", never)
    monkeypatch.setattr(planning, "state_bytes", state_bytes)
    monkeypatch.setattr(planning, "libtpu_version", lambda: "0.0.42")
    said = []
    plan = planning.make_plan(config, V4, 0.0, None, said.append)
    assert [phase.change for phase in plan.phases] == [None, None]
    text = report.as_text(plan)
    assert "99.00 of 30.75" in text
    assert "whole run: no total: nothing that was tried fits for 256 x 128 and 256 x 512" in text
    content = json.loads(json.dumps(report.as_json(plan)))
    assert content["hours"] is content["cost"] is None
    assert any("looking for the smallest change" in message for message in said)


def test_a_run_of_which_one_phase_fits_in_no_way_has_no_total(planned):
    short, long = planned.phases
    plan = dataclasses.replace(
        planned, phases=(short, dataclasses.replace(long, change=None, estimate=None))
    )
    text = report.as_text(plan)
    assert "whole run: no total: nothing that was tried fits for 256 x 512" in text
    assert "$" not in text
    content = json.loads(json.dumps(report.as_json(plan)))
    assert content["hours"] is content["cost"] is None
    assert content["phases"][0]["hours"] > 0 and "hours" not in content["phases"][1]


def test_what_cannot_fit_is_not_compiled(config, monkeypatch):
    tried = []

    def estimate_step(config, span, where, cache, say):
        tried.append((config.mesh.shard_optimizer, config.accumulation, config.model.remat))
        if config.accumulation < 4:
            raise OutOfMemoryError(100 * GIB, 31 * GIB)
        return ESTIMATE

    monkeypatch.setattr(planning, "estimate_step", estimate_step)
    monkeypatch.setattr(planning, "state_bytes", state_bytes)
    monkeypatch.setattr(planning, "libtpu_version", lambda: "0.0.42")
    said = []
    config = dataclasses.replace(
        config, phases={"long": dataclasses.replace(config.phases["long"], share=1.0)}
    )
    plan = planning.make_plan(config, V4, 0.0, None, said.append)
    assert plan.phases[0].change == "mesh.shard_optimizer=True accumulation=4"
    # 90 GiB of activations: whole or halved they are too much; kept from remat, they may not be.
    assert tried == [(False, 1, False), (True, 1, True), (True, 4, False)]
    assert "  mesh.shard_optimizer=True: would need 91.0 GiB or more" in said


def test_layers_are_a_straight_line_that_is_not_optimistic_about_memory():
    def at(layers, temporary):
        return Estimate(
            Memory(10 * layers, 20 * layers, 5, temporary, 100),
            Timeline(
                Figures({"matmul": 1.0 * layers, "optimizer": 0.5}),
                {"all-reduce f32 over 16": Exchange(2, 100 + 10 * layers, 1 + layers, layers)},
                Figures({"gather": 3}),
            ),
            (layers,),
        )

    found, expected = extrapolate(at(12, 30), at(24, 66), 48, 0), at(48, 138)
    assert found.memory == expected.memory
    assert found.time.seconds == pytest.approx(expected.time.seconds)
    assert found.time.exchanges == expected.time.exchanges
    assert found.time.uncosted == expected.time.uncosted
    assert found.layers == (12, 24)
    # The longer model kept more in fast memory than the line supposes; or filled it.
    assert extrapolate(at(12, 50), at(24, 66), 48, 0).memory.temporary == 2 * 66
    assert extrapolate(at(12, 50), at(24, 66), 48, 5).memory.temporary == 2 * 66 + 5


def test_only_deep_unrolled_models_are_compiled_short_and_must_fit_whole(config, monkeypatch):
    compiled = []

    def compile_step(config, span, where, cache, say):
        layers = config.model.num_layers
        compiled.append((layers, config.model.unroll))
        return Compiled(PROGRAM, GIB, 0, 0, layers * GIB // 2, 0)

    def estimated(layers, unroll):
        model = dataclasses.replace(config.model, num_layers=layers, unroll=unroll)
        compiled.clear()
        span = config.spans()[0]
        whole = dataclasses.replace(config, model=model)
        return estimate.estimate_step(whole, span, V4, None, print)

    monkeypatch.setattr(estimate, "compile_step", compile_step)
    for layers, unroll in [(12, 1), (12, 12), (24, 24), (48, 1), (48, 2)]:
        assert estimated(layers, unroll).layers == (layers,)
        assert compiled == [(layers, unroll)]
    found = estimated(48, 48)
    assert compiled == [(number, number) for number in estimate.FEW_LAYERS]
    assert found.memory.temporary == 24 * GIB + V4.fast_bytes_per_device
    with pytest.raises(OutOfMemoryError, match=str(33 * GIB + 160 * 2**20)):
        estimated(64, 64)


def test_presets_name_no_store():
    from bert_jax.plan.recipe import load

    config = load(pretrain.get_config("tiny").to_dict(), 12345)
    assert config.model == dataclasses.replace(
        BertConfig.preset("tiny"), vocab_size=12345, compute_dtype="bfloat16"
    )
