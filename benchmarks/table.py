"""The README's model tables, from cards and measured rows: `python -m benchmarks.table` writes them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genloom import core

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results.json")  # of pictures, by benchmarks/board.py
KINDS = Path(__file__).with_name("kinds.json")  # of everything else, by benchmarks/kinds.py
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
OTHERS = {
    "README.md": ("Other models", "Paper", "Licence", "Command", "Measured", "Paper's own figure"),
    "README.zh-CN.md": ("其他模型", "论文", "许可", "命令", "测得结果", "论文中的结果"),
}
FIGURES = {  # of what `evaluate` measures, by modality: those that the table shows
    "image": ("kid-lite0", "fd-lite0"),
    "text": ("nats", "bits-per-character"),
    "audio": ("mel-l1", "stft", "estoi", "nats", "fad-resemblyzer", "spectra", "wer-pocketsphinx", "mcd-dtw"),
    "video": ("psnr", "ssim", "warping-dis", "labels", "fvd-digits"),
    "table": ("shapes", "trends", "detection"),
}


def read_results() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def read_kinds() -> list[dict[str, Any]]:
    return json.loads(KINDS.read_text(encoding="utf-8")) if KINDS.exists() else []


def table(file: str) -> str:
    """Two tables for that README: of pictures a row for each measured fit, best first; and one of all other models."""
    minutes = "min" if file == "README.md" else "分钟"
    models = {name: cls for name, cls in core.models().items() if cls.__module__.startswith("genloom.models.")}
    rows = sorted((r for r in read_results() if r["model"] in models), key=lambda r: r["metrics"]["fd-digits"][0])
    lines = [*_head(HEADS[file]), *(_row(models[r["model"]], r, minutes) for r in rows), ""]
    others = {r["model"]: r for r in read_kinds()}
    rest = [cls for name, cls in models.items() if name not in {r["model"] for r in rows}]
    rest.sort(key=lambda cls: (cls.modality, cls.name))
    return "\n".join([*lines, *_head(OTHERS[file]), *(_other(cls, others.get(cls.name)) for cls in rest)])


def _head(heads: tuple[str, ...]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]


def _about(cls: type[core.Model], recipe: str = "cpu") -> list[str]:
    """The first cells, and the last: the model, its paper and licence; what the paper says."""
    card, name = cls.card, f"`{cls.name}`" + f" --recipe {recipe}" * (recipe != "cpu")
    paper = "; ".join(f"{x.metric} {x.value:g} ({x.data}, {x.where})" for x in card.results) or "—"
    return [name, f"[{card.authors.split(',')[0].split()[-1]} {card.year}]({card.url})", card.licence, paper]


def _other(cls: type[core.Model], r: dict[str, Any] | None) -> str:
    *cells, paper = _about(cls)
    if r is None:
        return "| " + " | ".join([*cells, "—", "—", paper]) + " |"
    found = {name.split("@")[0]: figure for name, figure in r["metrics"].items()}
    told = [f"{name} {_three(found[name])}" for name in FIGURES[cls.modality] if name in found]
    return "| " + " | ".join([*cells, f"`{r['command']}`", "; ".join(told), paper]) + " |"


def _three(figure: list[float | None]) -> str:
    value, low, high = (None if x is None else f"{x:.3g}" for x in figure)
    return f"{value}" if low is None else f"{value} ({low} to {high})"


def _row(cls: type[core.Model], r: dict[str, Any], minutes: str) -> str:
    *cells, paper = _about(cls, r["recipe"])
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
    for name in HEADS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        path.write_text(with_table(text, table(name)), encoding="utf-8")


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
