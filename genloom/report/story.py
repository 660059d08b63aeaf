"""What the files of a run folder say: read once, shown by the page, the model card and the comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genloom.monitor import read_log
from genloom.report.curves import number
from genloom.run import Run, read_json

GLOSSARY = {  # family of a metric: what it is in plain words, and which way is better
    "fd": ("How far generated pictures are from real ones as a whole (Fréchet distance)", "lower"),
    "fid": ("How far generated pictures are from real ones as a whole (Fréchet distance)", "lower"),
    "kid": ("How far generated pictures are from real ones, without bias for small sets (kernel distance)", "lower"),
    "precision": ("Share of generated pictures that could be real", "higher"),
    "recall": ("Share of the real pictures' variety that is reached", "higher"),
    "density": ("How firmly generated pictures lie among real ones", "higher"),
    "coverage": ("Share of real pictures with a generated one near by", "higher"),
    "is": ("Sure of a class each, and all classes present (Inception score's formula)", "higher"),
    "nearest": ("How new the samples are beside the training pictures", ""),
    "labels": ("Share of samples that are of the class asked for", "higher"),
    "ssim": ("Structural likeness", "higher"),
    "psnr": ("Signal over error, in dB", "higher"),
}


@dataclass(frozen=True)
class Story:
    """What the files of a run say."""

    run: Run
    ticks: list[dict[str, Any]]
    events: list[dict[str, Any]]
    measured: dict[str, Any]  # metrics.json, or empty

    @classmethod
    def read(cls, folder: Path) -> Story:
        run = Run.open(folder)
        ticks: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        for record in read_log(run.folder):
            while ticks and ticks[-1]["step"] >= record["step"] + (record.get("event") != "tick"):
                ticks.pop()  # work that was rolled back, or lost by a kill and done again
            (ticks if record.get("event") == "tick" else events).append(record)
        measured = read_json(run.folder / "metrics.json") if (run.folder / "metrics.json").is_file() else {}
        return cls(run, ticks, events, measured)

    @property
    def model(self) -> str:
        return str(self.run.info["model"])

    @property
    def data(self) -> str:
        return str(self.run.info["data"].get("name") or self.run.info["data"].get("source", "data"))

    @property
    def card(self) -> dict[str, Any]:
        return self.run.info.get("card") or {}

    @property
    def last(self) -> dict[str, Any]:
        return self.ticks[-1] if self.ticks else {}

    @property
    def rate(self) -> float | None:
        """Items a second: the median over ticks, for the first one holds the warm-up."""
        rates = [t["rate"] for t in self.ticks if t.get("rate")]
        return statistics.median(rates) if rates else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return list(self.measured.get("metrics") or [])

    @property
    def data_facts(self) -> dict[str, Any]:
        """The data set's summary without what is empty, its keys in words."""
        summary = self.run.info["data"].get("summary") or {}
        kept = {k: v for k, v in summary.items() if v and not (isinstance(v, Mapping) and not any(v.values()))}
        return {k.replace("_", " "): v for k, v in kept.items()}

    @property
    def item(self) -> str:
        """One item in words: `28 × 28 grey`, or its modality and shape."""
        modality, shape = self.run.info["spec"]["modality"], self.run.info["spec"]["shape"]
        if modality == "image" and len(shape) == 3:
            return f"{shape[2]} × {shape[1]} {'grey' if shape[0] == 1 else 'colour'}"
        return f"{modality} {' × '.join(str(s) for s in shape)}"

    def summary(self) -> str:
        """`gan, trained for 3 min (14,204 steps) on 60,000 pictures of mnist, 28 × 28 grey, on cpu.`"""
        items = self.run.info["data"].get("summary", {}).get("items")
        noun = "pictures" if self.run.info["spec"]["modality"] == "image" else "items"
        what = f"{items:,} {noun} of {self.data}" if isinstance(items, int) else self.data
        done = "begun"
        if last := self.last:
            done = f"trained for {duration(last.get('seconds') or 0)} ({last['step']:,} steps)"
        return f"{self.model}, {done} on {what}, {self.item}, on {self.run.info.get('device', 'this machine')}."


def interval(metric: Mapping[str, Any]) -> str:
    low, high = metric.get("low"), metric.get("high")
    return "" if low is None or high is None else f"{number(low)} – {number(high)}"


def family(name: str) -> tuple[str, str]:
    """What a metric is in plain words, and "lower", "higher" or "" for which way is better."""
    return GLOSSARY.get(name.lower().split("@")[0].split("-")[0], ("", ""))


def command_of(story: Story) -> str:
    info = story.run.info
    return str(info.get("command") or f"genloom fit {info['model']} {info['data'].get('source', '')}")


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
