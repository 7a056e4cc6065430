# SPDX-License-Identifier: Apache-2.0
"""The page that `bert_jax.report` writes: HTML from what is known of a run.

Every piece of text that comes from a file goes through `text`, which escapes it.
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bert_jax.config import RunConfig
from bert_jax.curves import History, Picture

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #656d76; --line: #d8dee4;
  --page: #ffffff; --card: #f6f8fa; --accent: #e0682a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa2ab; --line: #32383f;
  --page: #15181c; --card: #1d2126; } }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -0.02em; }
h2 { margin: 3rem 0 1rem; font-size: 1.25rem; }
p { max-width: 46rem; }
.soft, figcaption span, th, dt { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem;
  margin: 2rem 0 0; }
.tiles div, figure { background: var(--card); border: 1px solid var(--line);
  border-radius: 0.6rem; }
.tiles div { padding: 0.9rem 1.1rem; }
.tiles dt { font-size: 0.85rem; }
.tiles dd { margin: 0; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: 0.85rem; font-weight: 400; color: var(--soft); }
.standing { margin: 1.5rem 0 0; padding-left: 1rem; border-left: 4px solid var(--accent); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
  gap: 1rem; }
figure { margin: 0; padding: 1rem; }
figcaption { line-height: 1.35; margin-bottom: 0.5rem; }
figcaption b { display: block; }
figcaption span { font-size: 0.85rem; }
figure svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.wide { grid-column: 1 / -1; overflow-x: auto; }
.wide svg { min-width: 38rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { padding: 0.3rem 1.5rem 0.3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 400; }
td.number { text-align: right; }
.guesses { margin: 0 0 1.2rem; }
.guesses p { margin: 0 0 0.3rem; }
.guess { display: inline-block; margin: 0 0.4rem 0.4rem 0; padding: 0.1rem 0.7rem;
  border: 1px solid var(--line); border-radius: 1rem; background: var(--card); }
details { margin: 1rem 0; }
summary { cursor: pointer; }
code { font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""


def render(
    *,
    config: RunConfig,
    described: Mapping[str, Any],
    history: History,
    standing: str,
    pictures: Sequence[Picture],
    summary: Mapping[str, Any] | None,
    samples: Sequence[Mapping[str, Any]],
) -> str:
    """The whole page.

    Args:
        config: of the run.
        described: content of config.json.
        history: what the run has measured.
        standing: a sentence on the held-out loss.
        pictures: curves.
        summary: content of summary.json; None while the run is not finished.
        samples: blanks and what the model fills them with.
    """
    parts = [
        _head(config, history, summary),
        _tiles(history, summary),
        f'<p class="standing">{text(standing)}</p>\n',
        curves(pictures),
        _samples(samples),
        _held_out(history),
        _facts(config, described, summary),
        configuration(described["config"]),
    ]
    return document(f"{config.name}: pre-training report", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A page of pieces of HTML that stands alone."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n{''.join(parts)}</body>\n</html>\n"
    )


def _head(config: RunConfig, history: History, summary: Mapping[str, Any] | None) -> str:
    model = config.model
    step = max((row["step"] for row in history.training), default=0)
    done = "finished" if summary else f"at step {step:,} of {config.steps:,}"
    shape = (
        f"{model.num_layers} layers of width {model.hidden_size}, {model.num_heads} heads, "
        f"{model.vocab_size:,} tokens of vocabulary"
    )
    return (
        f"<h1>{text(config.name)}</h1>\n"
        f'<p class="soft">BERT pre-training, {text(done)}. {text(shape)}.</p>\n'
    )


def _tiles(history: History, summary: Mapping[str, Any] | None) -> str:
    """The figures to read first."""
    shown = []
    if history.held_out:
        last = history.held_out[-1]
        shown += [
            ("Held-out MLM loss", f"{last['mlm_loss']:.3f}", _gain(last)),
            ("Held-out MLM accuracy", f"{last['mlm_accuracy']:.1%}", "of masked tokens exact"),
        ]
        if "nsp_accuracy" in last:
            note = f"± {last['nsp_standard_error']:.1%}; chance {last['nsp_chance']:.1%}"
            shown.append(("Held-out NSP accuracy", f"{last['nsp_accuracy']:.1%}", note))
    rates = [row["tokens_per_second"] for row in history.training if "tokens_per_second" in row]
    if rates:
        middle = sorted(rates)[len(rates) // 2]
        shown.append(("Tokens a second", f"{middle:,.0f}", "median over the run, with padding"))
    if summary:
        tokens = f"{summary['tokens_seen'] / 1e6:,.1f} million tokens"
        shown.append(("Time", duration(summary["wall_seconds"]), tokens))
    return tiles(shown)


def tiles(shown: Sequence[tuple[str, str, str]]) -> str:
    """Name, value and a note of each figure to read first."""
    cells = [
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>\n"
        for name, value, note in shown
    ]
    return f'<dl class="tiles">\n{"".join(cells)}</dl>\n' if cells else ""


def curves(pictures: Sequence[Picture]) -> str:
    """The section with the pictures."""
    figures = [
        f"<figure{' class=wide' if number == 0 else ''}><figcaption><b>{text(picture.title)}</b>"
        f"<span>{text(picture.caption)}</span></figcaption>\n{picture.svg}</figure>\n"
        for number, picture in enumerate(pictures)
    ]
    content = "".join(figures) or "<p>Nothing has been measured yet.</p>\n"
    return f'<h2>Curves</h2>\n<div class="pictures">\n{content}</div>\n'


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    """What the model writes into blanks."""
    parts = []
    for sample in samples:
        guesses = [
            f'<span class="guess">{text(guess["token"])} '
            f'<span class="soft">{text(format(guess["probability"], ".1%"))}</span></span>'
            for guess in sample["predictions"]
        ]
        parts.append(
            f'<div class="guesses"><p>{text(sample["text"])}</p>{"".join(guesses)}</div>\n'
        )
    return f"<h2>Fill in the blank</h2>\n{''.join(parts)}" if parts else ""


def _held_out(history: History) -> str:
    """The newest held-out figures of every sequence length."""
    newest = {row.get("length", 0): row for row in history.held_out}
    if not newest:
        return ""
    rows = [
        ("sequence length", [f"{length:,}" for length in newest]),
        ("step", [f"{row['step']:,}" for row in newest.values()]),
        ("examples", [f"{row['examples']:,}" for row in newest.values()]),
        ("MLM loss (nats)", [f"{row['mlm_loss']:.3f}" for row in newest.values()]),
        ("unigram entropy (nats)", [f"{row['unigram_entropy']:.3f}" for row in newest.values()]),
        ("MLM accuracy", [f"{row['mlm_accuracy']:.1%}" for row in newest.values()]),
    ]
    if all("nsp_accuracy" in row for row in newest.values()):
        rows += [
            ("NSP loss (nats)", [f"{row['nsp_loss']:.3f}" for row in newest.values()]),
            (
                "NSP accuracy",
                [
                    f"{row['nsp_accuracy']:.1%} ± {row['nsp_standard_error']:.1%}"
                    for row in newest.values()
                ],
            ),
            ("NSP chance", [f"{row['nsp_chance']:.1%}" for row in newest.values()]),
        ]
    return "<h2>Held-out documents</h2>\n" + table(rows)


def _facts(
    config: RunConfig, described: Mapping[str, Any], summary: Mapping[str, Any] | None
) -> str:
    rows = [
        (
            f"phase of {span.length} tokens",
            [f"steps {span.first_step + 1:,} to {span.last_step:,}, {span.batch_size} a batch"],
        )
        for span in config.spans()
    ]
    if summary:
        rows += [
            ("parameters", [f"{summary['parameters']:,}"]),
            ("steps", [f"{summary['steps']:,}"]),
            ("tokens seen", [f"{summary['tokens_seen']:,}"]),
            ("wall time", [duration(summary["wall_seconds"])]),
        ]
    rows.append(("store", [described["store_fingerprint"][:16]]))
    rows += [(name, [version]) for name, version in described["versions"].items()]
    return "<h2>Run</h2>\n" + table(rows, numbers=False)


def configuration(recipe: Mapping[str, Any]) -> str:
    """The whole recipe, folded away."""
    rows = [(key, [value]) for key, value in _flat(recipe)]
    return (
        "<details><summary>The whole configuration</summary>\n"
        + table(rows, numbers=False)
        + "</details>\n"
    )


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested keys joined by dots, with their values as JSON."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


def table(rows: Iterable[tuple[str, Sequence[str]]], numbers: bool = True) -> str:
    """A table of names and one or more columns."""
    tag = '<td class="number">' if numbers else "<td>"
    lines = [
        f"<tr><th>{text(name)}</th>{''.join(f'{tag}{text(cell)}</td>' for cell in cells)}</tr>\n"
        for name, cells in rows
    ]
    return f'<div class="scroll"><table>\n{"".join(lines)}</table></div>\n'


def _gain(row: Mapping[str, Any]) -> str:
    gain = row["unigram_entropy"] - row["mlm_loss"]
    return f"nats; {abs(gain):.3f} {'below' if gain >= 0 else 'above'} the plateau"


def duration(seconds: float) -> str:
    """The two largest units of a time."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"


def text(value: str) -> str:
    """A text as HTML."""
    return html.escape(value, quote=True)
