"""The model card: README.md of a run folder, in the form that model hubs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genloom.report.curves import number
from genloom.report.story import Story, family, interval, words


def write_model_card(folder: Path) -> Path:
    """Write README.md, the model card. Raises UserError when `folder` is no run."""
    story = Story(folder)
    grid = story.run.folder / "samples" / "grid.png"
    blocks = [
        front_matter(story),
        f"# {plain(story.model)} on {plain(story.data)}",
        plain(story.summary()),
        "![Samples, not chosen](samples/grid.png)" if grid.is_file() else "",
        idea(story),
        "## Use",
        usage(story),
        "## Intended use and limits",
        limits(story),
        "## Training data",
        data(story),
        "## How good it is",
        measures(story),
        "## Train it again",
        fence(story.command, "sh"),
    ]
    return story.write("README.md", "\n\n".join(b for b in blocks if b) + "\n")


def front_matter(story: Story) -> str:
    """The YAML that hubs read. Values are written as JSON, which YAML holds."""
    fields: dict[str, Any] = {
        "license": str(story.card.get("licence") or "other").lower(),
        "library_name": "genloom",
        "tags": ["genloom", "generative", story.run.spec.modality, story.model],
        "datasets": [story.data],
        "pipeline_tag": "unconditional-image-generation" if story.run.spec.modality == "image" else None,
    }
    lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items() if v]
    return "\n".join(["---", *lines, "---"])


def plain(value: Any) -> str:
    """Words from the run, without power over Markdown: on one line, with its signs escaped."""
    line = " ".join(words(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)


def fence(code: str, language: str) -> str:
    return f"```{language}\n{code.replace('```', '` ` `')}\n```"


def idea(story: Story) -> str:
    if not story.card:
        return ""
    card = {k: plain(str(v)) for k, v in story.card.items()}
    paper = f"[{card['paper']}](<{story.url}>)" if story.url else card["paper"]
    changed = f"\n\nWhat differs here: {card['changes']}" if card["changes"] else ""
    return f"{card['summary']}\n\n{paper}, {card['authors']}, {card['year']}.{changed}"


def usage(story: Story) -> str:
    shape = ", ".join(str(s) for s in story.run.spec.shape)
    comment = f"  # [64, {shape}] in [-1, 1]" if story.run.spec.modality == "image" else ""
    python = f'import genloom\n\nmodel = genloom.load(".")  # this folder\nsamples = model.sample(64, seed=0){comment}'
    return f"{fence('genloom sample . -n 64 --seed 0', 'sh')}\n\n{fence(python, 'python')}"


def limits(story: Story) -> str:
    return (
        "Made to generate more like its training data, for study, for play and as a base of "
        "further work. It knows that data and nothing else: it repeats its gaps and its biases, and may make "
        "things that look like single training items. Look at the nearest pairs in report.html before you publish "
        "samples, say that they are generated, and check that the data's own terms allow your use. The figures "
        "below hold for this data, number of samples and judge only."
    )


def data(story: Story) -> str:
    info = story.info["data"]
    facts = {"source": info.get("source"), **story.data_facts, "fingerprint": str(info.get("fingerprint", ""))[:16]}
    return "\n".join(f"- {plain(k)}: {plain(v)}" for k, v in facts.items() if v not in (None, "", [], {}))


def measures(story: Story) -> str:
    trained = f"{story.trained.capitalize()} on {plain(story.device)}." if story.trained else ""
    if not story.metrics:
        return f"{trained} Not measured yet: `genloom evaluate .` does it.".strip()
    rows = ["| metric | value | 95 % interval | samples | judged by |", "|---|---:|---:|---:|---|"]
    for m in story.metrics:
        name = f"{plain(m['name'])} {family(m['name'])[1]}".strip()
        judge = f"{plain(m.get('extractor', 'itself'))} {m.get('sha256', '')[:8]}".strip()
        rows.append(f"| {name} | {number(m['value'])} | {interval(m)} | {words(m['n'])} | {judge} |")
    warned = "".join(f"\n\n{plain(w)}" for w in story.measured.get("warnings") or [])
    return "\n".join(rows) + f"{warned}\n\n{trained}"
