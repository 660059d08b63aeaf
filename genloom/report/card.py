"""The model card: README.md of a run folder, in the form that model hubs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genloom.report.curves import number
from genloom.report.story import Story, command_of, duration, family, interval
from genloom.run import atomic

TASKS = {
    "image": "unconditional-image-generation",
    "text": "text-generation",
    "audio": "text-to-audio",
    "video": "text-to-video",
}
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def write_model_card(folder: Path) -> Path:
    """Write README.md, the model card. Raises UserError when `folder` is no run."""
    story = Story.read(folder)
    card, grid = story.card, story.run.folder / "samples" / "grid.png"
    blocks = [
        front_matter(story),
        f"# {plain(story.model)} on {plain(story.data)}",
        plain(story.summary()),
        "![Samples, not chosen](samples/grid.png)" if grid.is_file() else "",
        idea(card),
        "## Use",
        usage(story),
        "## Intended use and limits",
        limits(story),
        "## Training data",
        data(story),
        "## How good it is",
        measures(story),
        "## Train it again",
        fence(command_of(story), "sh"),
    ]
    path = story.run.folder / "README.md"
    with atomic(path) as temporary:
        temporary.write_text("\n\n".join(b for b in blocks if b) + "\n", encoding="utf-8")
    return path


def front_matter(story: Story) -> str:
    """The YAML that hubs read. Values are written as JSON, which YAML holds."""
    fields: dict[str, Any] = {
        "license": str(story.card.get("licence") or "other").lower(),
        "library_name": "genloom",
        "tags": ["genloom", "generative", story.run.spec.modality, story.model],
        "datasets": [story.data],
        "pipeline_tag": TASKS.get(story.run.spec.modality),
    }
    lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items() if v]
    return "\n".join(["---", *lines, "---"])


def plain(value: Any) -> str:
    """Words from the run, without power over Markdown: on one line, with its signs escaped."""
    line = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)


def fence(code: str, language: str) -> str:
    return f"```{language}\n{code.replace('```', '` ` `')}\n```"


def idea(card: dict[str, Any]) -> str:
    if not card:
        return ""
    url = str(card.get("url", ""))
    paper = plain(card.get("paper", ""))
    if url.startswith(("https://", "http://")):
        paper = f"[{paper}](<{''.join(url.split()).replace('>', '')}>)"
    changed = f"\n\nWhat differs here: {plain(card['changes'])}" if card.get("changes") else ""
    whose = f"{paper}, {plain(card.get('authors', ''))}, {plain(card.get('year', ''))}."
    return f"{plain(card.get('summary', ''))}\n\n{whose}{changed}"


def usage(story: Story) -> str:
    shape = ", ".join(str(s) for s in story.run.spec.shape)
    comment = f"  # [64, {shape}] in [-1, 1]" if story.run.spec.modality == "image" else ""
    python = f'import genloom\n\nmodel = genloom.load(".")  # this folder\nsamples = model.sample(64, seed=0){comment}'
    return f"{fence('genloom sample . -n 64 --seed 0', 'sh')}\n\n{fence(python, 'python')}"


def limits(story: Story) -> str:
    made = {"image": "images", "video": "videos", "table": "tables"}.get(
        story.run.spec.modality, story.run.spec.modality
    )
    return (
        f"Made to generate {made} like its training data, for study, for play and as a base of "
        "further work. It knows that data and nothing else: it repeats its gaps and its biases, and may make "
        "things that look like single training items. Look at the nearest pairs in report.html before you publish "
        "samples, say that they are generated, and check that the data's own terms allow your use. The figures "
        "below hold for this data, number of samples and judge only."
    )


def data(story: Story) -> str:
    info = story.run.info["data"]
    facts = {"source": info.get("source"), **story.data_facts, "fingerprint": str(info.get("fingerprint", ""))[:16]}
    return "\n".join(f"- {plain(k)}: {plain(_short(v))}" for k, v in facts.items() if v not in (None, "", [], {}))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{k} {v}" for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - 12:,} more" if len(value) > 12 else ""
        return ", ".join(str(v) for v in value[:12]) + more
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def measures(story: Story) -> str:
    trained = ""
    if last := story.last:
        device = story.run.info.get("device", "this machine")
        trained = f"Trained for {duration(last.get('seconds') or 0)} ({last['step']:,} steps) on {plain(device)}."
    if not story.metrics:
        return f"{trained} Not measured yet: `genloom evaluate .` does it.".strip()
    rows = ["| metric | value | 95 % interval | samples | judged by |", "|---|---:|---:|---:|---|"]
    for m in story.metrics:
        judge = f"{plain(m.get('extractor') or '–')} {str(m.get('sha256') or '')[:8]}".strip()
        name = plain(m["name"]) + ARROWS[family(str(m["name"]))[1]]
        rows.append(f"| {name} | {number(m['value'])} | {interval(m) or '–'} | {_short(m.get('n') or '–')} | {judge} |")
    warned = "".join(f"\n\n{plain(w)}" for w in story.measured.get("warnings") or [])
    return "\n".join(rows) + f"{warned}\n\n{trained}"
