# SPDX-License-Identifier: Apache-2.0
"""Runs on simulated pods: any number of hosts computes the same, and survives what hosts suffer."""

import re
import socket

import pytest

from bert_jax import run_lock
from tests.bert_jax.pods import KILL, STOP, TERMINATE, run_pod, start, training_flags
from tests.bert_jax.runs import rows_of


def assert_same_curves(workdir, other):
    for kind in ("train", "validation"):
        assert rows_of(workdir, kind) == rows_of(other, kind)


def damage(step):
    """Flips one bit in the largest file of a saved step."""
    path = max((path for path in step.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_hosts_that_are_stopped_and_killed_end_with_the_bits_of_one_host(tmp_path, topics_store):
    """Four devices as two hosts, then as one; the loss curve is that of one undisturbed host."""
    flags = training_flags(tmp_path / "pod", topics_store)
    code, printed = run_pod(2, 2, flags, signal_at=(2, TERMINATE, 1))
    assert code == 75, printed
    stopped = re.findall(r"asked to stop: step (\d+) is saved; the same command resumes", printed)
    assert len(stopped) == 2
    assert len(set(stopped)) == 1

    damage(tmp_path / "pod" / "checkpoints" / stopped[0])
    # Step 10 has another length and is compiled first, so the save of step 9 has ended.
    code, printed = run_pod(2, 2, flags, signal_at=(10, KILL, 1))
    assert code == 76, printed
    assert "[host 0] error: lost process 1 on " in printed
    assert "resuming after step 3 of 12" in printed
    assert (tmp_path / "pod" / "checkpoints" / f"corrupt-{stopped[0]}").is_dir()

    code, printed = run_pod(1, 4, flags)
    assert code == 0, printed
    assert "resuming after step 9 of 12" in printed
    assert "[host 1]" not in printed

    whole = training_flags(tmp_path / "whole", topics_store)
    code, printed = run_pod(1, 4, whole)
    assert code == 0, printed
    assert_same_curves(tmp_path / "pod", tmp_path / "whole")
    assert not list((tmp_path / "pod").glob("preflight-*"))


@pytest.mark.soak
def test_the_host_of_the_coordinator_is_missed_too(tmp_path, topics_store):
    flags = training_flags(tmp_path / "pod", topics_store)
    code, printed = run_pod(2, 1, flags, signal_at=(2, KILL, 0))
    assert code == 76, printed
    assert (
        "[host 1] error: JAX has ended this process: process 0, the coordinator, is gone" in printed
    )
    assert "the hosts left with -9, 76" in printed


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_host(number, port, flags, hosts=2, **environment):
    """One host started by hand."""
    joined = [f"--coordinator=127.0.0.1:{port}", f"--processes={hosts}", f"--process={number}"]
    return start(["-m", "bert_jax.pretrain", *flags, *joined], **environment)


def test_hosts_with_different_recipes_are_named(tmp_path, topics_store):
    port, flags = free_port(), training_flags(tmp_path / "run", topics_store)
    hosts = [
        start_host(0, port, flags),
        start_host(1, port, [*flags, "--config.seed=7", "--config.optimizer.beta1=0.8"]),
    ]
    for host in hosts:
        printed, _ = host.communicate()
        assert host.returncode == 78, printed
        name = f"process 1 on {socket.gethostname()}: config: "
        assert f"{name}optimizer.beta1: 0.9 -> 0.8" in printed
        assert f"{name}seed: 0 -> 7" in printed
        assert printed.count("error:") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--platform=gpu", 78, "process 1 has stopped: --platform=gpu was asked for"),
        pytest.param(
            "--config.data.store=absent",
            65,
            f"process 1 on {socket.gethostname()} has stopped: no store at absent",
            marks=pytest.mark.soak,
        ),
    ],
    ids=["before they know each other", "after"],
)
def test_an_error_of_one_host_is_told_by_all(tmp_path, topics_store, flag, code, message):
    port, flags = free_port(), training_flags(tmp_path / "run", topics_store)
    first, second = start_host(0, port, flags), start_host(1, port, [*flags, flag])
    printed, _ = first.communicate()
    assert first.returncode == code, printed
    assert f"error: {message}" in printed
    printed, _ = second.communicate()
    assert second.returncode == code, printed


@pytest.mark.soak
def test_a_host_that_is_started_again_alone_is_missed(tmp_path, topics_store):
    """JAX lets it join, and the others would wait for it for ever."""
    port = free_port()
    flags = training_flags(tmp_path / "run", topics_store, steps=100_000, **{"checkpoint.every": 5})
    first, second = start_host(0, port, flags), start_host(1, port, flags)
    for line in first.stdout:
        if "5/100000" in line:
            break
    second.kill()
    second.communicate()
    again = start_host(1, port, flags)
    printed, _ = first.communicate()
    assert first.returncode == 76, printed
    assert "it was started again, and the others were not" in printed
    printed, _ = again.communicate()
    assert again.returncode == 76, printed


@pytest.mark.soak
def test_a_loss_that_is_not_finite_waits_for_the_save_before_it(tmp_path, topics_store):
    changes = {"checkpoint.every": 1, "optimizer.learning_rate": 1e30}
    code, printed = run_pod(2, 1, training_flags(tmp_path / "run", topics_store, **changes))
    assert code == 65, printed
    steps = re.findall(r"\[host .\] error: .* not finite at step (\d+);", printed)
    assert len(steps) == 2
    assert (tmp_path / "run" / "checkpoints" / f"{int(steps[0]) - 1}" / "manifest.json").is_file()


@pytest.mark.soak
def test_a_stuck_run_says_where_and_ends(tmp_path, topics_store):
    """The first step, with its compilation, takes longer than the second that is allowed here."""
    flags = [*training_flags(tmp_path / "run", topics_store), "--stall_seconds=1"]
    code, printed = run_pod(2, 1, flags)
    assert code == 76, printed
    assert "no step was made for 1 s (stacks above)" in printed
    assert "most recent call first" in printed


@pytest.mark.soak
def test_hosts_that_do_not_share_the_directory_are_named(tmp_path, topics_store):
    port = free_port()
    (tmp_path / "other").mkdir()
    hosts = [
        start_host(0, port, training_flags(tmp_path / "run", topics_store)),
        start_host(1, port, training_flags(tmp_path / "other", topics_store)),
    ]
    for host in hosts:
        printed, _ = host.communicate()
        assert host.returncode == 73, printed
        name = f"process 1 on {socket.gethostname()}"
        assert f"{tmp_path / 'run'} of {name} is not the directory of process 0" in printed


@pytest.mark.soak
def test_two_pods_cannot_share_a_directory(tmp_path, topics_store):
    with run_lock.exclusive(tmp_path / "run"):
        code, printed = run_pod(2, 1, training_flags(tmp_path / "run", topics_store))
    assert code == 73, printed
    assert "another run is at work in" in printed


@pytest.mark.parametrize(
    ("number", "hosts", "message"),
    [
        (1, 2, "process 1 of 2 did not find the others within 5 s through 127.0.0.1"),
        pytest.param(
            0,
            3,
            "process 0 of 3 did not find the others within 5 s through 127.0.0.1",
            marks=pytest.mark.soak,
        ),
    ],
    ids=["no coordinator", "too few processes"],
)
def test_hosts_that_do_not_come_are_not_waited_for(tmp_path, topics_store, number, hosts, message):
    flags = [*training_flags(tmp_path / "run", topics_store), "--start_seconds=5"]
    host = start_host(number, free_port(), flags, hosts)
    printed, _ = host.communicate()
    assert host.returncode == 76, printed
    assert message in printed
    assert "is --processes the same" in printed
    assert not (tmp_path / "run").exists()


MESHES = {
    "optimiser sharded": {"mesh.shard_optimizer": True},
    "fully sharded": {"mesh.data": 1, "mesh.fsdp": -1},
    "tensor over two hosts": {"mesh.tensor": 4},
    "slices": {"mesh.slices": 2, "mesh.fsdp": 2, "mesh.shard_optimizer": True},
}


@pytest.mark.soak
@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())
def test_every_mesh_is_the_same_on_one_two_and_four_hosts(tmp_path, topics_store, mesh):
    for hosts in (1, 2, 4):
        flags = training_flags(tmp_path / str(hosts), topics_store, **mesh)
        code, printed = run_pod(hosts, 8 // hosts, flags)
        assert code == 0, printed
    assert_same_curves(tmp_path / "2", tmp_path / "1")
    assert_same_curves(tmp_path / "4", tmp_path / "1")


@pytest.mark.soak
def test_a_pod_of_sixteen(tmp_path, topics_store):
    """Four hosts of four; one is killed, one hangs, two hosts and one carry on, curves agree."""
    flags = training_flags(tmp_path / "pod", topics_store, steps=24)
    assert run_pod(4, 4, flags, signal_at=(5, KILL, 2))[0] == 76
    assert run_pod(4, 4, flags, signal_at=(9, STOP, 3))[0] == 76
    assert run_pod(2, 8, flags, signal_at=(14, TERMINATE, 1))[0] == 75
    code, printed = run_pod(1, 16, flags)
    assert code == 0, printed
    whole = training_flags(tmp_path / "whole", topics_store, steps=24)
    code, printed = run_pod(4, 4, whole)
    assert code == 0, printed
    assert_same_curves(tmp_path / "pod", tmp_path / "whole")
