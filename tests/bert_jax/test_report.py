# SPDX-License-Identifier: Apache-2.0
"""The page about a run: complete, standing alone, and true about where the run stands."""

import dataclasses
import html.parser
import json
import math
import pathlib
import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import pytest

from bert_jax.config import RunConfig
from bert_jax.report import standing, write_report
from configs import demo
from data_pipeline.errors import DataError, OutputError

STEPS = 100
HEADINGS = ["Curves", "Fill in the blank", "Held-out documents", "Run"]
PICTURES = [
    *("MLM loss", "MLM accuracy", "NSP accuracy", "Learning rate"),
    *("Gradient norm", "Tokens a second", "Waiting for input"),
]
HOSTILE = "<script>alert('x')</script> & \"y\""


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page; checks that elements are closed in order."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.text.setdefault(self._open[-1], []).append(data)

    @property
    def everything(self) -> str:
        return " ".join(" ".join(parts) for parts in self.text.values())


def rows(last: int) -> list[dict[str, Any]]:
    """Rows as `bert_jax.monitoring` writes them, up to step `last` of 100; 512 tokens from 90."""
    result: list[dict[str, Any]] = []
    for step in range(1, last + 1):
        row = {"step": step, "kind": "train", "time": 0.0, "mlm_loss": 8.3 - step / 40}
        row |= {"mlm_accuracy": step / 400, "nsp_accuracy": 0.5, "learning_rate": 1e-3}
        row |= {"gradient_norm": 1.0}
        if step > 1:
            row |= {"tokens_per_second": 1000.0 + step, "input_wait_share": 0.01}
        result.append(row)
        if step % 45 == 0 or step == STEPS:
            row = {"step": step, "kind": "validation", "time": 0.0, "mlm_loss": 8.4 - step / 40}
            row |= {"mlm_accuracy": 0.2, "nsp_loss": 0.7, "nsp_accuracy": 0.55, "examples": 64}
            row |= {"nsp_standard_error": 0.06, "unigram_entropy": 6.5, "random_share": 0.47}
            result.append(row | {"length": 128 if step <= 90 else 512})
    return result


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run that has just been started."""
    recipe = demo.get_config()
    recipe.update(dict(steps=STEPS, name="tiny run"))
    recipe.optimizer.warmup_steps = 10
    recipe.model.vocab_size = 4096
    recipe.data.store = "some/store"
    config = RunConfig.from_mapping(recipe.to_dict())
    described = {"config": dataclasses.asdict(config), "store_fingerprint": "0123456789abcdef" * 4}
    write(tmp_path / "config.json", described | {"versions": {"jax": "1.2.3"}})
    return tmp_path


@pytest.fixture
def finished(workdir: pathlib.Path) -> pathlib.Path:
    write_rows(workdir, rows(STEPS))
    summary = {"parameters": 1_234_567, "steps": STEPS, "tokens_seen": 7_654_321}
    write(workdir / "summary.json", summary | {"wall_seconds": 3725.0})
    predictions = [{"token": "sea", "probability": 0.125}, {"token": "<b>", "probability": 0.01}]
    sample = {"text": "The ship sailed across the [MASK].", "mask": 0, "predictions": predictions}
    write(workdir / "fill_mask.json", [sample])
    return workdir


def write(path: pathlib.Path, content: Any) -> None:
    path.write_text(json.dumps(content), "utf-8")


def write_rows(workdir: pathlib.Path, content: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row) + "\n" for row in content]
    (workdir / "metrics.jsonl").write_text("".join(lines), "utf-8")


def test_finished_run(finished: pathlib.Path) -> None:
    page = Page(write_report(finished))
    assert page.text["title"] == ["tiny run: pre-training report"]
    assert page.text["h1"] == ["tiny run"]
    assert page.text["h2"] == HEADINGS
    assert page.text["b"] == PICTURES
    text = page.everything
    for figure in ("finished", "1,234,567", "7,654,321", "1h 02m", "5.900", "0.600 below", "1.2.3"):
        assert figure in text
    assert "chance 53.0%" in text
    assert "The ship sailed across the [MASK]." in text
    assert "12.5%" in text
    assert "optimizer.warmup_steps" in text


def test_a_run_without_pairs_shows_no_next_sentence_figures(finished: pathlib.Path) -> None:
    names = ("nsp_loss", "nsp_accuracy", "nsp_standard_error", "random_share")
    content = [{n: v for n, v in row.items() if n not in names} for row in rows(STEPS)]
    write_rows(finished, content)
    page = Page(write_report(finished))
    assert page.text["b"] == [picture for picture in PICTURES if "NSP" not in picture]
    assert "NSP" not in page.everything and "nan" not in page.everything


def test_stands_alone(finished: pathlib.Path) -> None:
    page = Page(write_report(finished))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.elements)
    assert "@import" not in page.source
    for name, value in page.attributes:
        if name.startswith("xmlns"):
            continue
        assert not name.startswith("on")
        assert name not in ("src", "href")
        assert "//" not in (value or "")
        for target in re.findall(r"url\((.*?)\)", value or ""):
            assert target.startswith("#")


def test_pictures_are_drawn_apart(finished: pathlib.Path) -> None:
    """Every id is there once, and every reference finds its id inside its own picture."""
    source = write_report(finished).read_text("utf-8")
    pictures = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
    assert len(pictures) == len(PICTURES)
    ids: list[str] = []
    for picture in pictures:
        own = [
            found
            for element in ElementTree.fromstring(picture).iter()
            if (found := element.get("id"))
        ]
        used = re.findall(r'(?:href="|url\()#(\w+)', picture)
        assert used
        assert set(used) == set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_curves_show_levels_and_phase(finished: pathlib.Path) -> None:
    source = write_report(finished).read_text("utf-8")
    loss = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)[0]
    for text in ("training", "held out", "unigram entropy, the plateau", "512 tokens →"):
        assert f">{text}</text>" in loss
    assert "#010203" not in source  # all of it has become the colour of the page
    assert "currentColor" in loss


def test_curve_passes_through_the_values(workdir: pathlib.Path) -> None:
    """The held-out points lie on the picture in the order and proportion of their values."""
    write_rows(workdir, rows(STEPS))
    source = write_report(workdir).read_text("utf-8")
    loss = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)[0]
    markers = re.findall(
        r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill: #e0682a', loss
    )
    points = [(float(x), float(y)) for x, y in markers][:3]  # those after are in the legend
    (x1, y1), (x2, y2), (x3, y3) = points
    assert (x2 - x1) / (x3 - x1) == pytest.approx(45 / 55, rel=1e-3)
    assert (y2 - y1) / (y3 - y1) == pytest.approx(45 / 55, rel=1e-3)
    assert y3 > y1  # downwards in the picture


def test_unfinished_run(workdir: pathlib.Path) -> None:
    write_rows(workdir, rows(50))
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 51, "kind": "tr')
    page = Page(write_report(workdir))
    assert "at step 50 of 100" in page.everything
    assert page.text["b"] == PICTURES
    assert page.text["h2"] == ["Curves", "Held-out documents", "Run"]


@pytest.mark.parametrize("first", [0, 1])
def test_run_that_has_hardly_begun(workdir: pathlib.Path, first: int) -> None:
    write_rows(workdir, rows(first))
    page = Page(write_report(workdir))
    assert f"at step {first} of 100" in page.everything
    assert "There are no held-out figures yet." in page.everything
    assert ("Nothing has been measured yet." in page.everything) == (first == 0)


def test_run_that_diverged(workdir: pathlib.Path) -> None:
    broken = {"mlm_loss": None, "gradient_norm": None}
    write_rows(workdir, [row | broken if row["step"] > 40 else row for row in rows(STEPS)])
    assert "nan" in Page(write_report(workdir)).everything


def test_same_run_same_page(finished: pathlib.Path) -> None:
    first = write_report(finished).read_bytes()
    assert write_report(finished).read_bytes() == first


def test_text_is_escaped(finished: pathlib.Path) -> None:
    described = json.loads((finished / "config.json").read_text())
    described["config"]["name"] = HOSTILE
    described["versions"] = {HOSTILE: HOSTILE}
    write(finished / "config.json", described)
    sample = {"text": HOSTILE, "mask": 0, "predictions": [{"token": HOSTILE, "probability": 1.0}]}
    write(finished / "fill_mask.json", [sample])
    page = Page(write_report(finished))
    assert "script" not in page.elements
    for element in ("title", "h1", "th", "td", "p", "span"):
        assert "alert('x')" in " ".join(page.text[element])


class TestStanding:
    """ln(4096) = 8.32."""

    @pytest.mark.parametrize(
        ("loss", "sentence"),
        [
            (5.63, "0.68 below the plateau, so it predicts from context. Its perplexity is 279, "),
            (6.25, "it is on the plateau"),
            (6.39, "it is on the plateau"),
            (7.5, "not come down to the plateau yet"),
            (8.33, "it has learnt nothing yet"),
        ],
    )
    def test_sentences(self, loss: float, sentence: str) -> None:
        text = standing(loss, 6.31, 4096)
        assert sentence in text
        assert "8.32 nats" in text
        assert "cost 6.31" in text
        assert f"this model {loss:.2f}" in text

    def test_plateau_names_causes(self) -> None:
        text = standing(6.3, 6.31, 4096)
        for cause in ("repeated lines", "data_pipeline.doctor", "batch", "learning rate"):
            assert cause in text

    def test_not_a_number(self) -> None:
        assert "learnt nothing" in standing(math.nan, 6.31, 4096)


class TestBadInput:
    def test_no_run(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(DataError, match="holds no run"):
            write_report(tmp_path)

    @pytest.mark.parametrize("name", ["summary.json", "fill_mask.json"])
    def test_damaged_file(self, finished: pathlib.Path, name: str) -> None:
        (finished / name).write_text("{")
        with pytest.raises(DataError, match=f"{name} is damaged"):
            write_report(finished)

    def test_page_cannot_be_written(self, finished: pathlib.Path) -> None:
        (finished / "report.html").mkdir()
        with pytest.raises(OutputError, match="cannot write .*report.html: Is a directory"):
            write_report(finished)


def command(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = f"{code}\nimport runpy; runpy.run_module('bert_jax.report', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command(finished: pathlib.Path) -> None:
    result = command(f"--workdir={finished}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{finished}/report.html\n"


def test_command_without_a_run() -> None:
    result = command()
    assert result.returncode == 64
    assert result.stderr == "error: --workdir=RUN is needed, and nothing else\n"


def test_command_without_matplotlib(finished: pathlib.Path) -> None:
    result = command(f"--workdir={finished}", code="import sys; sys.modules['matplotlib'] = None")
    assert result.returncode == 64
    assert "need matplotlib: pip install 'bert-jax[report]'" in result.stderr
    assert "Traceback" not in result.stderr


def finetuning_run(folder: pathlib.Path, seed: int, ended: bool = True) -> None:
    """As `bert_jax.finetune` leaves it, with one cut line."""
    folder.mkdir(parents=True)
    recipe: dict[str, Any] = {"name": HOSTILE, "task": "classification", "seed": seed}
    recipe |= {"init_from": "runs/tiny", "random_weights": False}
    recipe |= {"evaluation": {"metrics": "accuracy,f1"}}
    write(folder / "config.json", {"finetune": recipe, "versions": {"jax": "1.2.3"}})
    made: list[dict[str, Any]] = [
        {"step": step, "kind": "train", "loss": 1 / step, "learning_rate": 1e-3}
        | {"gradient_norm": 1.0}
        for step in range(1, 11)
    ]
    figures = {"loss": 0.5, "accuracy": 0.625 + 0.125 * seed, "f1": 0.5, "examples": 8}
    made += [{"step": step, "kind": "validation"} | figures for step in (5, 10)]
    write_rows(folder, made)
    if ended:
        summary = {"seed": seed, "best_step": 5, "steps": 10, "training_examples": 40}
        summary |= {"wall_seconds": 30.0, "validation": {"data/dev.tsv": figures}}
        write(folder / "summary.json", summary)


def test_a_fine_tuning_run_has_a_page_of_its_own(tmp_path: pathlib.Path) -> None:
    finetuning_run(tmp_path / "run", 0)
    page = Page(write_report(tmp_path / "run"))
    assert page.text["b"] == ["Loss", "accuracy", "f1", "Learning rate", "Gradient norm"]
    assert "Fine-tuning for classification from runs/tiny, seed 0; finished." in page.everything
    assert "0.6250" in page.everything and "on dev.tsv" in page.everything
    assert "script" not in page.elements


def test_seeds_are_drawn_together(tmp_path: pathlib.Path) -> None:
    for seed in (0, 1, 2):
        finetuning_run(tmp_path / f"seed-{seed}", seed, ended=seed < 2)
    page = Page(write_report(tmp_path))
    assert "seed 0, 1, 2; 2 of 3 ended." in page.everything
    assert "0.6875" in page.everything  # the median of 0.625 and 0.75
    assert "median of 2 seeds, 0.6250 to 0.7500" in page.everything
    assert page.elements.count("svg") == 5


def test_imported_weights_have_nothing_to_report(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "config.json", {"config": {"model": {}}, "imported_from": "bert-base"})
    with pytest.raises(DataError, match="made of imported weights .bert-base.: nothing was"):
        write_report(tmp_path)
