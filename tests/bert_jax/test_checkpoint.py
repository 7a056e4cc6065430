# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what is saved comes back, and what is damaged does not."""

import json
import logging
import os
import pathlib
import random
import resource
import shutil
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bert_jax import agreement, checkpoint_directory, manifest
from bert_jax.checkpoint import Checkpoints, load_params
from bert_jax.manifest import DamageError
from data_pipeline.errors import DataError, DiskError

META = {"format_version": 1, "config": {"steps": 100}, "progress": {"step": 3}}


def make_state(step: int, rows: int = 64) -> dict[str, Any]:
    """A state of the shape that training saves: parameters, optax's state, the step."""
    key = jax.random.key(step)
    params = {
        "embeddings": {"word": jax.random.normal(key, (rows, 16))},
        "mlm": {"bias": jnp.full((rows,), step, jnp.float32)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {"params": params, "optimizer": optimizer.init(params), "step": jnp.int32(step)}


def abstract(tree: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def save_steps(directory: pathlib.Path, *steps: int, **options: Any) -> None:
    checkpoints = Checkpoints(directory, **({"keep_last": 9} | options))
    for step in steps:
        checkpoints.save(step, make_state(step), META | {"progress": {"step": step}})
    checkpoints.close()


def restore(directory: pathlib.Path, keep_last: int = 9) -> Any:
    checkpoints = Checkpoints(directory, keep_last)
    try:
        return checkpoints.restore(abstract(make_state(0)))
    finally:
        checkpoints.close()


def names(directory: pathlib.Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def data_files(step_directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in step_directory.rglob("*") if path.is_file())


def largest_file(step_directory: pathlib.Path) -> pathlib.Path:
    return max(data_files(step_directory), key=lambda path: path.stat().st_size)


def flip_bit(path: pathlib.Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "checkpoints"


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Steps 10 and 20, to be copied, not changed."""
    path = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_steps(path, 10, 20)
    return path


@pytest.fixture
def saved(two_steps: pathlib.Path, directory: pathlib.Path) -> pathlib.Path:
    shutil.copytree(two_steps, directory)
    return directory


class TestSaveAndRestore:
    def test_state_and_meta_come_back(self, saved: pathlib.Path) -> None:
        step, state, meta = restore(saved)
        assert step == 20
        assert_same(state, make_state(20))
        assert meta == META | {"progress": {"step": 20}}

    def test_nothing_saved_yet(self, directory: pathlib.Path) -> None:
        assert restore(directory) is None

    def test_state_may_be_donated_at_once(self, directory: pathlib.Path) -> None:
        state = make_state(7, rows=4096)
        expected = jax.tree.map(np.array, state)
        checkpoints = Checkpoints(directory, keep_last=1)
        checkpoints.save(7, state, META)
        overwrite = jax.jit(
            lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0
        )
        jax.block_until_ready(overwrite(state))
        restored = checkpoints.restore(abstract(expected))
        checkpoints.close()
        assert restored is not None
        assert_same(restored[1], expected)

    def test_eight_devices_to_one_and_back(self, directory: pathlib.Path) -> None:
        assert jax.device_count() == 8
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
        whole = NamedSharding(rows.mesh, PartitionSpec())
        state = {"params": make_state(5)["params"]}
        for step, (source, target) in enumerate([(rows, one), (one, rows), (rows, whole)]):
            checkpoints = Checkpoints(directory, keep_last=9)
            checkpoints.save(step, jax.device_put(state, source), META)
            restored = checkpoints.restore(abstract(state, target))
            checkpoints.close()
            assert restored is not None
            assert_same(restored[1], state)
            for leaf in jax.tree.leaves(restored[1]):
                assert leaf.sharding.is_equivalent_to(target, leaf.ndim)

    def test_stock_orbax_reads_a_step(self, saved: pathlib.Path) -> None:
        state = make_state(20)
        with ocp.CheckpointManager(saved, item_names=("state", "meta")) as manager:
            restored = manager.restore(
                20,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract(state)), meta=ocp.args.JsonRestore()
                ),
            )
        assert_same(restored.state, state)

    def test_poll_reports_a_step_once_it_is_safe(self, directory: pathlib.Path) -> None:
        checkpoints = Checkpoints(directory, keep_last=9)
        checkpoints.save(3, make_state(3), META)
        deadline = time.monotonic() + 30
        while (step := checkpoints.poll()) is None:
            assert time.monotonic() < deadline
        assert step == 3
        checkpoint_directory.verify(directory / "3", 3, manifest.describe(make_state(3)))
        assert checkpoints.poll() is None
        checkpoints.save(4, make_state(4), META)
        assert checkpoints.close() == 4

    def test_poll_does_not_wait(
        self, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = manifest.write

        def slow(*arguments: Any) -> manifest.Manifest:
            time.sleep(0.5)
            return original(*arguments)

        monkeypatch.setattr(manifest, "write", slow)
        checkpoints = Checkpoints(directory, keep_last=9)
        checkpoints.save(3, make_state(3), META)
        started = time.monotonic()
        assert checkpoints.poll() is None
        assert time.monotonic() - started < 0.1
        assert checkpoints.close() == 3

    def test_a_step_is_saved_once(self, saved: pathlib.Path) -> None:
        before = (saved / "20" / manifest.NAME).read_bytes()
        save_steps(saved, 20, 30)
        assert (saved / "20" / manifest.NAME).read_bytes() == before
        assert names(saved) == {"10", "20", "30"}


class TestRetention:
    def save(self, directory: pathlib.Path, losses: dict[int, float | None]) -> None:
        checkpoints = Checkpoints(directory, keep_last=2, keep_best_metric="mlm_loss")
        for step, loss in losses.items():
            metrics = None if loss is None else {"mlm_loss": loss, "examples": 8}
            checkpoints.save(step, {"x": jnp.zeros(3)}, META, metrics)
        checkpoints.close()

    def test_newest_and_best_stay(self, directory: pathlib.Path) -> None:
        self.save(directory, {1: 5.0, 2: 3.0, 3: 4.0, 4: None, 5: float("nan"), 6: 3.5})
        assert names(directory) == {"2", "5", "6"}

    def test_best_is_remembered_by_the_next_process(self, directory: pathlib.Path) -> None:
        self.save(directory, {1: 2.0, 2: 3.0})
        self.save(directory, {3: 4.0, 4: 2.5})
        assert names(directory) == {"1", "3", "4"}
        self.save(directory, {5: 1.0, 6: 4.0, 7: 4.0})
        assert names(directory) == {"5", "6", "7"}

    def test_old_step_stays_until_the_new_one_is_safe(
        self, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_steps(directory, 1, keep_last=1)
        monkeypatch.setattr(manifest, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(DiskError):
            save_steps(directory, 2, keep_last=1)
        assert {"1", "2"} <= names(directory)
        restored = restore(directory)
        assert restored is not None
        assert restored[0] == 1


class TestDamage:
    def test_every_flipped_bit_is_noticed(self, saved: pathlib.Path) -> None:
        """50 flips, drawn over all bytes of the step; stock Orbax loads nearly all of them."""
        step = saved / "20"
        expected = manifest.describe(make_state(20))
        files = data_files(step)
        sizes = [path.stat().st_size for path in files]
        generator = random.Random(0)
        targets = generator.choices(files, sizes, k=44) + [step / manifest.NAME] * 6
        for path in targets:
            bit = generator.randrange(8 * path.stat().st_size)
            flip_bit(path, bit)
            with pytest.raises(DamageError, match=f"{path.relative_to(step)}|{manifest.NAME}"):
                checkpoint_directory.verify(step, 20, expected)
            flip_bit(path, bit)
            checkpoint_directory.verify(step, 20, expected)

    def test_every_truncated_or_missing_file_is_noticed(self, saved: pathlib.Path) -> None:
        step = saved / "20"
        expected = manifest.describe(make_state(20))
        for path in data_files(step):
            content = path.read_bytes()
            for shorter in (content[:-1], b""):
                path.write_bytes(shorter)
                with pytest.raises(DamageError, match=path.name):
                    checkpoint_directory.verify(step, 20, expected)
            path.unlink()
            with pytest.raises(DamageError, match=path.name):
                checkpoint_directory.verify(step, 20, expected)
            path.write_bytes(content)
        checkpoint_directory.verify(step, 20, expected)

    def test_falls_back_and_names_the_file(
        self, saved: pathlib.Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        victim = largest_file(saved / "20")
        flip_bit(victim, 8 * 1000)
        with caplog.at_level(logging.WARNING):
            step, state, _ = restore(saved)
        assert step == 10
        assert_same(state, make_state(10))
        assert names(saved) == {"10", "corrupt-20"}
        assert victim.name in caplog.text
        assert "corrupt-20" in caplog.text

    def test_training_goes_on_after_a_fall_back(self, saved: pathlib.Path) -> None:
        flip_bit(largest_file(saved / "20"), 8 * 1000)
        checkpoints = Checkpoints(saved, keep_last=2)
        assert checkpoints.restore(abstract(make_state(0))) is not None
        checkpoints.save(20, make_state(20), META)
        assert checkpoints.close() == 20
        assert names(saved) == {"10", "20", "corrupt-20"}

    def test_a_copy_under_another_number_is_refused(self, saved: pathlib.Path) -> None:
        shutil.copytree(saved / "10", saved / "30")
        restored = restore(saved)
        assert restored is not None
        assert restored[0] == 20
        assert "corrupt-30" in names(saved)

    def test_all_damaged_never_starts_from_zero(self, saved: pathlib.Path) -> None:
        for step in ("10", "20"):
            flip_bit(largest_file(saved / step), 8 * 1000)
        with pytest.raises(DataError) as first:
            restore(saved)
        for step in ("10", "20"):
            assert f"{step}: file state/" in str(first.value)
        assert first.value.exit_code == 65
        with pytest.raises(DataError, match="corrupt-10"):
            restore(saved)

    def test_lost_manifests_never_start_from_zero(self, saved: pathlib.Path) -> None:
        for step in ("10", "20"):
            (saved / step / manifest.NAME).unlink()
        with pytest.raises(DataError, match="10: manifest.json is missing"):
            restore(saved)
        assert names(saved) == {"10", "20"}

    def test_unreadable_manifest_of_an_old_step_does_no_harm(self, saved: pathlib.Path) -> None:
        (saved / "10" / manifest.NAME).write_text("{")
        restored = restore(saved)
        assert restored is not None
        assert restored[0] == 20


class TestOtherArrays:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda tree: tree["params"]["mlm"].update(bias=jnp.zeros(64, jnp.bfloat16)),
                r"params/mlm/bias: saved float32\[64\], expected bfloat16\[64\]",
            ),
            (
                lambda tree: tree["params"]["mlm"].update(bias=jnp.zeros(128)),
                r"params/mlm/bias: saved float32\[64\], expected float32\[128\]",
            ),
            (
                lambda tree: tree["params"]["mlm"].update(scale=jnp.zeros(64)),
                r"params/mlm/scale: saved nothing, expected float32\[64\]",
            ),
            (
                lambda tree: tree["params"].pop("mlm"),
                r"params/mlm/bias: saved float32\[64\], expected nothing",
            ),
            (
                lambda tree: tree.update(optimizer=optax.sgd(1.0).init(tree["params"])),
                r"optimizer/1/0/count: saved int32\[\], expected nothing",
            ),
        ],
        ids=["dtype", "shape", "missing", "extra", "optimizer"],
    )
    def test_refused_and_kept(self, saved: pathlib.Path, change: Any, message: str) -> None:
        state = make_state(0)
        change(state)
        checkpoints = Checkpoints(saved, keep_last=9)
        advice = "Use the configuration, and the version of bert_jax, that it was saved with."
        with pytest.raises(DataError, match=rf"{message}\n(.*\n)*{advice}$"):
            checkpoints.restore(abstract(state))
        checkpoints.close()
        assert names(saved) == {"10", "20"}


class TestOtherEntries:
    """Things in the directory that are no steps must neither be used nor be in the way."""

    @pytest.fixture
    def junk(self, saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
        (saved / "9999999").mkdir()
        (saved / "30").mkdir()
        (saved / "30" / "notes").write_text("mine")
        (saved / "40").write_text("a file")
        (saved / "50").symlink_to(saved / "10")
        (saved / "60").symlink_to(tmp_path / "nowhere")
        (saved / "-5").mkdir()
        (saved / "007").mkdir()
        (saved / "notes.txt").write_text("mine")
        (saved / "70.orbax-checkpoint-tmp").write_text("a file")
        (saved / "backup.orbax-checkpoint-tmp").mkdir()
        (saved / "80.orbax-checkpoint-tmp").mkdir()
        (saved / "deleted-5").mkdir()
        return saved

    def test_folders_that_vanish_with_their_last_file_as_in_a_bucket(
        self, saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rmdir = os.rmdir

        def vanish(path: Any, *, dir_fd: int | None = None) -> None:
            rmdir(path, dir_fd=dir_fd)
            raise FileNotFoundError(2, "No such file or directory")

        (saved / "30.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
        (saved / "30.orbax-checkpoint-tmp" / "meta").mkdir()
        (saved / "30.orbax-checkpoint-tmp" / "state" / "part").write_text("x")
        monkeypatch.setattr(os, "rmdir", vanish)
        save_steps(saved, 40, keep_last=1)
        assert names(saved) == {"40"}

    def test_named_set_aside_and_never_used(
        self, junk: pathlib.Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            step, state, _ = restore(junk)
        assert step == 20
        assert_same(state, make_state(20))
        moved = {"9999999", "30", "40", "50", "60", "70.orbax-checkpoint-tmp"}
        ignored = {"-5", "007", "notes.txt", "backup.orbax-checkpoint-tmp"}
        assert names(junk) == {"10", "20"} | {f"ignored-{name}" for name in moved} | ignored
        for name in moved | ignored:
            assert f"{junk / name} is no" in caplog.text
        assert (junk / "ignored-30" / "notes").read_text() == "mine"

    def test_named_once(self, junk: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
        restore(junk)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            restore(junk)
        assert "notes.txt" in caplog.text
        assert "9999999" not in caplog.text

    def test_not_in_the_way_of_saves(self, junk: pathlib.Path) -> None:
        save_steps(junk, 30, 40, 50, 60, 70, 80)
        restored = restore(junk)
        assert restored is not None
        assert restored[0] == 80
        assert_same(restored[1], make_state(80))

    def test_set_aside_twice(self, saved: pathlib.Path) -> None:
        for _ in range(2):
            (saved / "30").mkdir()
            restore(saved)
        assert {"ignored-30", "ignored-30.2"} <= names(saved)

    def test_a_save_killed_before_its_manifest_is_not_used(self, saved: pathlib.Path) -> None:
        shutil.copytree(saved / "20", saved / "30")
        (saved / "30" / manifest.NAME).rename(saved / "30" / f"{manifest.NAME}.tmp")
        restored = restore(saved)
        assert restored is not None
        assert restored[0] == 20
        assert "ignored-30" in names(saved)


class TestFailingDisk:
    def test_full_disk(self, saved: pathlib.Path) -> None:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        checkpoints = Checkpoints(saved, keep_last=1)
        state = {"x": jax.random.normal(jax.random.key(0), (100_000,))}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        try:
            checkpoints.save(30, state, META)
            deadline = time.monotonic() + 30
            with pytest.raises(DiskError) as raised:
                while time.monotonic() < deadline:
                    checkpoints.poll()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, handler)
        assert str(saved / "30") in str(raised.value)
        assert "File too large" in str(raised.value)
        assert raised.value.exit_code == 74
        assert names(saved) == {"10", "20"}
        checkpoints.save(30, state, META)  # there is room again
        assert checkpoints.close() == 30

    def test_read_only_directory(self, saved: pathlib.Path) -> None:
        checkpoints = Checkpoints(saved, keep_last=1)
        saved.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            for parent in [saved, *saved.parents][:4]:
                parent.chmod(parent.stat().st_mode | 0o055)
            os.seteuid(65534)
        try:
            started = time.monotonic()
            with pytest.raises(DiskError, match="30 failed: .*Permission denied"):
                checkpoints.save(30, make_state(30), META)
            assert time.monotonic() - started < 5
        finally:
            os.seteuid(user)
            saved.chmod(0o755)
        checkpoints.close()
        assert names(saved) == {"10", "20"}

    def test_file_in_the_way(self, directory: pathlib.Path) -> None:
        directory.write_text("a file")
        with pytest.raises(DiskError, match="cannot keep checkpoints in .*checkpoints: .*exists"):
            Checkpoints(directory, keep_last=1)


class TestLoadParams:
    def test_from_run_checkpoints_or_step(self, saved: pathlib.Path) -> None:
        expected = {saved.parent: 20, saved: 20, saved / "10": 10}
        for path, step in expected.items():
            params, meta = load_params(path, abstract(make_state(0)["params"]))
            assert_same(params, make_state(step)["params"])
            assert meta["progress"] == {"step": step}

    def test_passes_over_damage_and_changes_nothing(
        self, saved: pathlib.Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        victim = largest_file(saved / "20")
        flip_bit(victim, 8 * 1000)
        (saved / "9999999").mkdir()
        with caplog.at_level(logging.WARNING):
            params, _ = load_params(saved.parent, abstract(make_state(0)["params"]))
        assert_same(params, make_state(10)["params"])
        assert victim.name in caplog.text
        assert names(saved) == {"10", "20", "9999999"}
        with pytest.raises(DataError, match=victim.name):
            load_params(saved / "20", abstract(make_state(0)["params"]))

    def test_all_hosts_take_the_step_that_the_first_chose(
        self, saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the run that is read has saved a newer step between two hosts' looks."""
        monkeypatch.setattr(agreement, "from_primary", lambda action: str(saved / "10"))
        params, meta = load_params(saved.parent, abstract(make_state(0)["params"]))
        assert meta["progress"] == {"step": 10}
        assert_same(params, make_state(10)["params"])
        monkeypatch.setattr(agreement, "from_primary", lambda action: str(saved / "15"))
        with pytest.raises(DataError, match="15, which process 0 has read, is not there"):
            load_params(saved.parent, abstract(make_state(0)["params"]))

    def test_other_parameters(self, saved: pathlib.Path) -> None:
        with pytest.raises(DataError, match=r"word: saved float32\[64,16\], expected float32\[32"):
            load_params(saved, abstract(make_state(0, rows=32)["params"]))

    def test_nothing_there(self, tmp_path: pathlib.Path) -> None:
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(DataError, match="holds no checkpoint"):
                load_params(path, abstract(make_state(0)["params"]))


def test_manifest_lists_every_file(saved: pathlib.Path) -> None:
    content = json.loads((saved / "20" / manifest.NAME).read_text())
    listed = {saved / "20" / name for name in content["files"]}
    assert listed | {saved / "20" / manifest.NAME} == set(data_files(saved / "20"))
    assert content["arrays"]["params/embeddings/word"] == "float32[64,16]"
    assert content["arrays"]["optimizer/1/0/mu/embeddings/word"] == "float32[64,16]"
