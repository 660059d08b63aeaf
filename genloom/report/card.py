"""The model card: README.md of a run folder, in the form that model hubs read; and the card of a data set.

Both have places that are the reader's own: see places.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from genloom.report.curves import number
from genloom.report.places import write
from genloom.report.story import Story, duration, family, interval, words

CORE_WATTS, GPU_WATTS = 10, 300  # assumed, of a busy core with its share of the machine, and of a busy GPU
GRAMS = 480  # of CO2 a kWh: the world's mean in 2023 (Ember 2024)
TASKS = {"image": "unconditional-image-generation", "text": "text-generation"}  # names that hubs know


def write_model_card(folder: Path) -> Path:
    """Write README.md, the model card. Raises UserError when `folder` is no run."""
    story = Story(folder)
    grid = story.run.folder / "samples" / "grid.png"
    shape = ", ".join(str(s) for s in story.run.spec.shape)
    return write(
        story.run.folder / "README.md",
        "card.md",
        fields=front_matter(story),
        model=plain(story.model),
        data=plain(story.data),
        summary=plain(story.summary()),
        grid="![Samples, not chosen](samples/grid.png)" if grid.is_file() else "",
        idea=idea(story),
        shape=f"  # [64, {shape}] in [-1, 1]" if story.run.spec.modality == "image" else "",
        facts=data(story),
        privacy=privacy(story),
        audit=audit(story),
        measures=measures(story),
        cost=cost(story),
        lineage=lineage(story),
        command=story.command.replace("```", "` ` `"),
    )


def write_data_card(path: Path, source: str, modality: str, facts: Mapping[str, Any]) -> Path:
    """Write the card of a data set, from what its preflight found."""
    audited = bullets(facts.get("audit", {}).get("sentences", ()))
    name = Path(source).stem
    return write(
        path,
        "data_card.md",
        fields=yaml({"pretty_name": name, "tags": ["genloom", modality], "license": "unknown"}),
        name=plain(name),
        modality=plain(modality),
        facts=listing({k.replace("_", " "): v for k, v in facts.items() if k not in ("notes", "audit")}),
        notes=bullets(facts.get("notes") or ()),
        audit=f"## Audit\n\n{audited}" if audited else "",
    )


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
    return "\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items() if v)


def plain(value: Any) -> str:
    """Words from the run, without power over Markdown: on one line, with its signs escaped."""
    line = " ".join(words(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)


def bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {plain(s)}" for s in sentences)


def idea(story: Story) -> str:
    if not story.card:
        return ""
    card = {k: plain(str(v)) for k, v in story.card.items()}
    paper = f"[{card['paper']}](<{story.url}>)" if story.url else card["paper"]
    changed = f"\n\nWhat differs here: {card['changes']}" if card["changes"] else ""
    return f"{card['summary']}\n\n{paper}, {card['authors']}, {card['year']}.{changed}"


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
        return f"{trained} {story.outgrown('metrics.json')}Not measured yet: `genloom evaluate .` does it.".strip()
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
    return bullets(sentences) or f"{story.outgrown('audit.json')}Not audited yet: `genloom audit .` does it."


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
