"""The model card: README.md of a run folder, in the form that model hubs read; and the card of a data set.

Both have places that are the reader's own: see places.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genloom.report.curves import number
from genloom.report.places import HEAD, place, write
from genloom.report.story import Story, duration, family, interval, words

CORE_WATTS, GPU_WATTS = 10, 300  # assumed, of a busy core with its share of the machine, and of a busy GPU
GRAMS = 480  # of CO2 a kWh: the world's mean in 2023 (Ember 2024)
LIMITS = (
    "Made to generate more like its training data, for study, for play and as a base of further work. It knows that data "
    "and nothing else: it repeats its gaps and its biases, and may make things that look like single training items. Look "
    "at the nearest pairs in report.html before you publish samples, say that they are generated, and check that the "
    "data's own terms allow your use. The figures below hold for this data, number of samples and judge only."
)
TASKS = {"image": "unconditional-image-generation", "text": "text-generation"}  # names that hubs know


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
        part("Use", usage(story)),
        part("Intended use and limits", LIMITS, place("intended-use")),
        part("Training data", data(story), place("training-data")),
        part("Privacy", privacy(story)),
        part("Audit", audit(story)),
        part("How good it is", measures(story)),
        part("What it cost", cost(story)),
        part("Where it comes from", lineage(story), place("contact")),
        part("Train it again", fence(story.command, "sh")),
    ]
    return write(story.run.folder / "README.md", blocks)


def write_data_card(path: Path, source: str, modality: str, facts: Mapping[str, Any]) -> Path:
    """Write the card of a data set, from what its preflight found."""
    audited = "\n".join(f"- {plain(s)}" for s in facts.get("audit", {}).get("sentences", ()))
    name = Path(source).stem
    asked = {
        "source": "Where the data comes from, who made it, and under which licence",
        "consent": "Whether the people in it agreed, and to what",
        "use": "What it may be used for, and what not",
    }
    blocks = [
        yaml({"pretty_name": name, "tags": ["genloom", modality], "license": "unknown"}),
        f"# {plain(name)}",
        f"Data for generative models, {plain(modality)}. Found by `genloom data inspect`.",
        listing({k.replace("_", " "): v for k, v in facts.items() if k not in ("notes", "audit")}),
        "\n".join(f"- {plain(note)}" for note in facts.get("notes") or ()),
        part("Audit", audited) if audited else "",
        *(part(question, place(key)) for key, question in asked.items()),
    ]
    return write(path, blocks)


def part(title: str, *blocks: str) -> str:
    return "\n\n".join([f"## {title}", *filter(None, blocks)])


def front_matter(story: Story) -> str:
    """The YAML that hubs read. Values are written as JSON, which YAML holds."""
    modality = story.run.spec.modality
    fields = {
        "license": str(story.card.get("licence") or "other").lower(),
        "library_name": "genloom",
        "tags": ["genloom", "generative", modality, story.model],
        "datasets": [story.data],
        "pipeline_tag": "text-to-speech" if "letters" in story.run.spec.extra else TASKS.get(modality),
        "model-index": results(story),
    }
    return yaml(fields)


def results(story: Story) -> list[dict[str, Any]]:
    """The measured figures in the form that hubs show beside the card; nothing before they are measured."""
    figures = [{"type": m["name"], "name": m["name"], "value": m["value"]} for m in story.metrics]
    task = {"type": TASKS.get(story.run.spec.modality, f"{story.run.spec.modality}-generation")}
    dataset = {"type": story.data, "name": str(story.measured.get("data") or story.data)}
    whole = {"name": story.model, "results": [{"task": task, "dataset": dataset, "metrics": figures}]}
    return [whole] if figures else []


def yaml(fields: Mapping[str, Any]) -> str:
    lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items() if v]
    return "\n".join(["---", *lines, place(HEAD), "---"])


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


def data(story: Story) -> str:
    info = story.info["data"]
    proof = {"fingerprint": str(info.get("fingerprint", ""))[:16]}
    return listing({"source": info.get("source"), **story.terms, **story.data_facts, **proof})


def listing(facts: Mapping[str, Any]) -> str:
    """A line each; facts that are empty are left out."""
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


def privacy(story: Story) -> str:
    """What is promised of the people in the data."""
    told = story.info.get("privacy")
    if not told:
        return "Trained without differential privacy: it may give away what single training items hold."
    said = (
        f"({number(told['epsilon'])}, {told['delta']:g})-differential privacy for each {plain(told['unit'])}, added or "
        f"removed: gradients clipped to {told['clip']:g}, noise {number(told['noise'])} times that, Poisson batches of a "
        f"share {number(told['rate'])}, {told['steps']:,} steps, by opacus' accountant ({plain(told['accountant'])}). It "
        "covers the weights and all that is sampled from them. It does not cover the files that show losses, counts or "
        "items of the training data as they are: run.json, log.jsonl, metrics.json, audit.json, report.html, this card, "
        "and samples/nearest.png. Keep those that you need not share."
    )
    return "\n\n".join([said, plain(told["init"])] if told.get("init") else [said])


def audit(story: Story) -> str:
    """What the audit found, a sentence a finding, and what it could not conclude."""
    found = story.found("audit.json")
    sentences = [f["sentence"] for f in found.get("findings") or [] if isinstance(f, Mapping) and f.get("sentence")]
    sentences += [s for s in found.get("cannot") or [] if isinstance(s, str)]
    return "\n".join(f"- {plain(s)}" for s in sentences) or "Not audited yet: `genloom audit .` does it."


def cost(story: Story) -> str:
    """Time as it was measured, and what that would be in energy and carbon."""
    cpu, wall = story.last.get("cpu_seconds"), story.last.get("seconds", 0.0)
    if cpu is None:
        return "Not measured."
    gpu = story.device.startswith("cuda")
    hours = (cpu * CORE_WATTS + (wall * GPU_WATTS if gpu else 0)) / 3.6e6  # kWh
    assumed = f"{CORE_WATTS} W a busy core" + (f", {GPU_WATTS} W the GPU" if gpu else "")
    return (
        f"{duration(wall)} on {plain(story.device)}, {cpu:,.0f} CPU seconds measured. At an assumed {assumed} that is "
        f"{number(hours)} kWh, and at the world's mean of {GRAMS} g a kWh {number(hours * GRAMS)} g of CO2: an estimate, "
        "for no meter was read."
    )


def lineage(story: Story) -> str:
    """The versions, the hashes and the parents, as `genloom verify` follows them."""
    code = str(story.info.get("versions", {}).get("code", ""))[:16]
    lines = [f"- genloom {plain(story.info.get('genloom', '?'))}" + (f", code {code}" if code else "")]
    for parent in story.info.get("parents") or []:
        name = Path(str(parent.get("run") or parent.get("checkpoint"))).name
        proof = str(parent.get("seal") or parent.get("weights") or parent.get("sha256"))[:16]
        lines.append(f"- from {plain(name)}, {proof}")
    return "\n".join([*lines, "- `genloom verify .` tells whether it is still as it was sealed."])
