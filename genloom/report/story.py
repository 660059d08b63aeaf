"""What the files of a run folder say: read once, shown by the page, the model card and the comparison."""

from __future__ import annotations

import base64
import re
import statistics
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from genloom.monitor import read_log
from genloom.report.curves import number
from genloom.run import Run, read_json
from genloom.seal import weights_of

SHOWN = 24  # of a list, at most
NOTE = 400  # characters of a note on consent

GLOSSARY = {  # family of a metric: what it is in plain words, and which way is better
    "shapes": ("How alike each column is spread (1: as in the real rows)", "↑"),
    "trends": ("How alike columns hang together, two by two (1: as in the real rows)", "↑"),
    "detection": ("How well boosted trees tell made rows from real ones (0.5: not at all)", "↓"),
    "utility": ("How well boosted trees that learn from made rows predict real ones", "↑"),
    "new": ("Share of made rows that are no training row", "↑"),
    "nearer": ("Share of made rows nearer to training rows than to held-out ones (0.5: as chance has it)", "↓"),
    "fd": ("How far generated pictures are from real ones as a whole (Fréchet distance)", "↓"),
    "fid": ("How far generated pictures are from real ones as a whole (Fréchet distance)", "↓"),
    "kid": ("How far generated pictures are from real ones, without bias for small sets (kernel distance)", "↓"),
    "fvd": (
        "How far made clips are from real ones as a whole, in what they show and how they change (Fréchet distance)",
        "↓",
    ),
    "kvd": ("The same, without bias for small sets (kernel distance)", "↓"),
    "precision": ("Share of samples that could be real", "↑"),
    "recall": ("Share of the data's variety that is reached", "↑"),
    "density": ("How firmly samples lie among real ones", "↑"),
    "coverage": ("Share of real ones with a sample near by", "↑"),
    "is": ("Sure of a class each, and all classes present (Inception score's formula)", "↑"),
    "nearest": ("How new the samples are beside the training data", ""),
    "labels": ("Share of samples that are of the class asked for", "↑"),
    "nats": ("Surprise at each token of what was kept out, in nats", "↓"),
    "perplexity": ("As if so many tokens were equally likely at each place", "↓"),
    "bits": ("Surprise in bits", "↓"),
    "repeats": ("Bytes of the longest stretch of a sample that stands in the training text", ""),
    "mel": ("How far the sound's mel spectrogram is from the recording's", "↓"),
    "stft": ("How far its spectra are, fine in time or in frequency", "↓"),
    "mcd": ("How far its timbre is, in dB", "↓"),
    "wer": ("Words that a recogniser mistakes, over the words that were said", "↓"),
    "f0": ("How far its pitch is, in hundredths of a semitone", "↓"),
    "voicing": ("Where voice and noise are mistaken for each other", "↓"),
    "si-sdr": ("Signal over error, the phases too, in dB", "↑"),
    "stoi": ("How well it would be understood", "↑"),
    "estoi": ("How well it would be understood, in noise that comes and goes", "↑"),
    "pesq": ("How good it sounds beside the recording, by telephony's measure", "↑"),
    "dnsmos": ("How good it sounds by itself, as a network predicts of listeners", "↑"),
    "speaker": ("How alike the voice is, 1 being the same", "↑"),
    "fad": ("How far made sound is from real sound as a whole (Fréchet audio distance)", "↓"),
    "spectra": ("The same of its spectra and how they change", "↓"),
    "loudness": ("How loud it is", ""),
    "ssim": ("Structural likeness", "↑"),
    "psnr": ("Signal over error, in dB", "↑"),
    "perceptual": ("How different frames look to a network that knows pictures", "↓"),
    "warping": ("What changes from frame to frame and is no motion", "↓"),
    "motion": ("How far things move otherwise than in the real film", "↓"),
    "flicker": ("How unsteady it is beside the real film", "↓"),
    "steady": ("Share of clips that show the same thing from the first frame to the last", "↑"),
}


class Story:
    """What the files of a run say. Raises UserError when `folder` is no run."""

    def __init__(self, folder: Path):
        self.run = Run.open(folder)
        self.info = self.run.info
        self.model = str(self.info["model"])
        self.data = str(self.info["data"].get("name") or self.info["data"].get("source", "data"))
        self.device = str(self.info.get("device", "this machine"))
        self.command = str(self.info.get("command", f"genloom fit {self.model} {self.data}"))
        self.card: dict[str, Any] = self.info.get("card") or {}
        self.url = found[0] if (found := re.match(r"https?://[^\s<>]+$", str(self.card.get("url")))) else ""
        self.ticks: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        for record in read_log(self.run.folder):
            while self.ticks and self.ticks[-1]["step"] >= record["step"] + (record.get("event") != "tick"):
                self.ticks.pop()  # work that was rolled back, or lost by a kill and done again
            (self.ticks if record.get("event") == "tick" else self.events).append(record)
        self.last = self.ticks[-1] if self.ticks else {}
        rates = [t["rate"] for t in self.ticks if t.get("rate")]
        self.rate = statistics.median(rates) if rates else None  # items a second; the first tick holds the warm-up
        self.measured = self.found("metrics.json")
        self.metrics: list[dict[str, Any]] = self.measured.get("metrics") or []

    def found(self, name: str) -> dict[str, Any]:
        """What such a JSON file of the run holds; nothing where there is none, or where it is of other weights than the run's."""
        path = self.run.folder / name
        found = read_json(path) if path.is_file() else {}
        return {} if "weights" in found and found["weights"] != self.weights else found

    def outgrown(self, name: str) -> str:
        """What to say of such a file that is of other weights: of those that the run had before it went on."""
        there = (self.run.folder / name).is_file() and not self.found(name)
        return f"{name} is of the weights that this run had before it went on, and is not shown. " if there else ""

    @cached_property
    def weights(self) -> str | None:
        return weights_of(self.run)

    @property
    def data_facts(self) -> dict[str, Any]:
        """The data set's summary without what is empty, its keys in words."""
        summary = self.info["data"].get("summary") or {}
        kept = {k: v for k, v in summary.items() if v and not (isinstance(v, Mapping) and not any(v.values()))}
        return {k.replace("_", " "): v for k, v in kept.items()}

    @property
    def terms(self) -> dict[str, str]:
        """What the user said of the right to use the data; of a long note the beginning."""
        told, said = self.info["data"], {}
        if told.get("licence"):
            said["licence"] = str(told["licence"])
        if note := told.get("consent"):
            text, file = " ".join(note.get("text", "").split()), note.get("file")
            text = text if len(text) <= NOTE else f"{text[:NOTE]}…"
            proof = f"{file}, SHA-256 {note['sha256'][:16]}" if file else ""
            said["consent"] = f"{text} ({proof})" if text and proof else text or proof
        return said

    @property
    def item(self) -> str:
        """One item in words: `28 × 28 grey`, or its modality and shape."""
        modality, shape, extra = self.run.spec.modality, self.run.spec.shape, self.run.spec.extra
        if modality in ("image", "video"):
            size = f"{shape[-1]} × {shape[-2]} {'grey' if shape[0] == 1 else 'colour'}"
            return size if modality == "image" else f"{size}, {shape[1]} frames at {extra['rate']:g} a second"
        if modality == "text":
            return f"{shape[0] - 1} tokens at once"
        if modality == "audio":
            return f"{shape[1] / extra['rate']:.2g} s at {extra['rate']:,} Hz"
        return f"{shape[0]} columns"

    @property
    def films_of_films(self) -> bool:
        """Whether it makes films from films."""
        return self.run.spec.modality == "video" and "source_channels" in self.run.spec.extra

    @property
    def trained(self) -> str:
        """`trained for 3 min (14,204 steps)`; empty before the first look."""
        return f"trained for {duration(self.last['seconds'])} ({self.last['step']:,} steps)" if self.last else ""

    def summary(self) -> str:
        """`gan, trained for 3 min (14,204 steps) on 60,000 pictures of mnist, 28 × 28 grey, on cpu.`"""
        items = (self.info["data"].get("summary") or {}).get("items")
        nouns = {"image": "picture", "text": "text", "audio": "segment", "video": "film", "table": "row"}
        noun = nouns.get(self.run.spec.modality, "item") + "s" * (items != 1)
        what = f"{items:,} {noun} of {self.data}" if isinstance(items, int) else self.data
        return f"{self.model}, {self.trained or 'begun'} on {what}, {self.item}, on {self.device}."


def data_url(kind: str, raw: bytes) -> str:
    """A file of that kind inside a page."""
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def interval(metric: Mapping[str, Any]) -> str:
    return f"{number(metric['low'])} – {number(metric['high'])}"


def family(name: str) -> tuple[str, str]:
    """What a metric is in plain words, and an arrow up or down where that is better."""
    whole = name.lower().split("@")[0]
    return GLOSSARY.get(whole) or GLOSSARY.get(whole.split("-")[0], ("", ""))


def words(value: Any) -> str:
    """Any value for people: numbers with separators, lists with commas."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    if isinstance(value, Mapping):
        value = [f"{k}: {words(v)}" for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - SHOWN:,} more" if len(value) > SHOWN else ""
        return ", ".join(words(v) for v in value[:SHOWN]) + more or "–"
    return str(value)


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
