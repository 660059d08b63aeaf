"""The README's model tables, from cards and measured rows: `python -m benchmarks.table` writes them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genloom import core

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results.json")
BEGIN, END = "<!-- models: written by benchmarks/table.py -->", "<!-- /models -->"
HEADS = {
    "README.md": (
        "Model",
        "Paper",
        "Licence",
        "Time",
        "fd-digits ↓",
        "confident",
        "entropy",
        "recall",
        "Paper's own figure",
    ),
    "README.zh-CN.md": ("模型", "论文", "许可", "时间", "fd-digits ↓", "置信", "熵", "召回", "论文中的结果"),
}


def read_results() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def table(heads: tuple[str, ...], minutes: str) -> str:
    """A row for each measured fit, best first; models without one come last, unmeasured."""
    ours = {name: cls for name, cls in core.models().items() if cls.__module__.startswith("genloom.models.")}
    models, results = ours, read_results()
    rows = sorted((r for r in results if r["model"] in models), key=lambda r: r["metrics"]["fd-digits"][0])
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += [_row(models[r["model"]], r, minutes) for r in rows]
    lines += [_row(cls, None, minutes) for name, cls in models.items() if name not in {r["model"] for r in rows}]
    return "\n".join(lines)


def _row(cls: type[core.Model], r: dict[str, Any] | None, minutes: str) -> str:
    card = cls.card
    paper = "; ".join(f"{x.metric} {x.value:g} ({x.data}, {x.where})" for x in card.results) or "—"
    name = f"`{cls.name}`" if r is None or r["recipe"] == "cpu" else f"`{cls.name}` --recipe {r['recipe']}"
    cells = [name, f"[{card.authors.split(',')[0].split()[-1]} {card.year}]({card.url})", card.licence]
    if r is None:
        return "| " + " | ".join([*cells, "—", "—", "—", "—", "—", paper]) + " |"
    value, low, high = r["metrics"]["fd-digits"]
    seen, recall = r["classes"], r["metrics"]["recall"][0]
    figures = [
        f"{value:.2f} ({low:.2f} to {high:.2f})",
        f"{seen['confident']:.1%}",
        f"{seen['entropy']:.2f}",
        f"{recall:.2f}",
    ]
    return "| " + " | ".join([*cells, f"{r['minutes']:g} {minutes}", *figures, paper]) + " |"


def write_tables() -> None:
    for name, heads in HEADS.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        path.write_text(with_table(text, table(heads, "min" if name == "README.md" else "分钟")), encoding="utf-8")


GFLOPS = 448  # of fp32 products, of the machine that most rows were measured on
ZOO = ("fd-digits", "kid-digits", "precision", "recall", "coverage")


def write_zoo() -> None:
    """docs/zoo.md: every model at three minutes on MNIST, all figures, best first."""
    path = ROOT / "docs" / "zoo.md"
    path.write_text(with_table(path.read_text(encoding="utf-8"), zoo()), encoding="utf-8")


def zoo() -> str:
    rows = [r for r in read_results() if r["minutes"] == 3 and r["recipe"] == "cpu" and r["model"] in core.models()]
    lines = [
        "| Model | " + " | ".join(ZOO) + " | label accuracy | images/s | steps | memory, MB |",
        "|" + " --- |" * 10,
    ]
    for r in sorted(rows, key=lambda r: r["metrics"]["fd-digits"][0]):
        figures = [f"{r['metrics'][name][0]:.3g}" for name in ZOO]
        figures.append(f"{r['metrics']['labels'][0]:.1%}" if "labels" in r["metrics"] else "—")
        speed = [f"{r['images_per_second']:,}", f"{r['steps']:,}", f"{r['memory_mb']:,}"]
        lines.append("| " + " | ".join([f"`{r['model']}`", *figures, *speed]) + " |")
    slower = [f"`{r['model']}`" for r in rows if r.get("gflops", GFLOPS) < GFLOPS / 2]
    if slower:
        lines += [
            "",
            f"{', '.join(slower)}: on a machine of less than half the speed of the others' ({GFLOPS} GFLOP/s).",
        ]
    return "\n".join(lines)


def with_table(text: str, new: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.partition(END)[2]}" if rest else text


if __name__ == "__main__":
    write_tables()
    write_zoo()
