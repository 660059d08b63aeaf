"""The report: the whole run on one self-contained page that a person wants to look at.

What is missing is said kindly, with the command that makes it. Every word from the run is escaped; the page runs no
script and loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Container, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from genloom.report.curves import chart, number
from genloom.report.story import Story, command_of, duration, family, interval
from genloom.run import atomic

LARGE = 2_000_000  # bytes of a picture beyond which the page embeds a lossy copy
SHARP = 900  # pixels: smaller pictures are enlarged by whole pixels to about this, so that browsers do not blur them
CLASSES = 24  # bars, or words of a list, shown at most
Panel = tuple[str, list[tuple[float, float | None]], dict[str, Any]]  # title, points, options of the chart
ARROWS = {"lower": "↓", "higher": "↑", "": ""}


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────
def write_report(folder: Path) -> Path:
    """Write report.html: the whole run on one page that opens offline. Raises UserError when `folder` is no run."""
    story = Story.read(folder)
    parts = [
        header(story),
        pictures(story),
        section("How it learned", curves(story)),
        section("How good it is", metrics(story)),
        section("Which classes", classes(story)),
        section("Does it copy?", nearest(story)),
        section("What happened", happened(story)),
        section("The idea", idea(story)),
        section("The data", about_data(story)),
        section("Make it again", commands(story)),
        section("Settings", settings(story)),
    ]
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(story.model)} on {text(story.data)} · genloom</title>
<style>
{css}</style>
</head>
<body>
<main>
{"".join(parts)}
<footer>Made by genloom {text(story.run.info.get("genloom", ""))} from the run folder alone.</footer>
</main>
</body>
</html>
"""
    path = story.run.folder / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def text(value: Any) -> str:
    """Any value as escaped text: numbers with separators, lists with commas."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return _some([f"{escape(str(k))}: {text(v)}" for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return _some([text(v) for v in value])
    return escape(str(value))


def _some(words: list[str]) -> str:
    more = f" and {len(words) - CLASSES:,} more" if len(words) > CLASSES else ""
    return ", ".join(words[:CLASSES]) + more or "–"


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2><div>{body}</div></section>\n" if body else ""


def listing(pairs: Iterable[tuple[str, Any]], kind: str = "list") -> str:
    """A definition list; values that are empty are left out."""
    rows = [f"<div><dt>{escape(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs if v not in (None, "", [], {}, ())]
    if kind == "list":
        rows = [r.removeprefix("<div>").removesuffix("</div>") for r in rows]
    return f'<dl class="{kind}">{"".join(rows)}</dl>' if rows else ""


def header_row(names: Iterable[str], numbers: Container[str]) -> str:
    cells = (f'<th class="n">{name}</th>' if name in numbers else f"<th>{name}</th>" for name in names)
    return f"<tr>{''.join(cells)}</tr>"


def kindly(words: str, command: str) -> str:
    return f'<p class="kind">{words}</p><pre><code>{escape(command)}</code></pre>'


def header(story: Story) -> str:
    facts = []
    if last := story.last:
        facts = [("trained", duration(last.get("seconds") or 0), ""), ("steps", f"{last['step']:,}", "")]
    if story.rate:
        facts.append(("speed", f"{story.rate:,.0f}", "items/s"))
    for metric in story.metrics[:2]:
        facts.append((str(metric["name"]), number(metric["value"]), interval(metric)))
    figures = "".join(f"<div><dt>{escape(k)}</dt><dd>{v} <small>{unit}</small></dd></div>" for k, v, unit in facts)
    return (
        f"<header><h1>{text(story.model)} <span>on {text(story.data)}</span></h1>"
        f'<p class="lede">{escape(story.summary())}</p>'
        + (f'<dl class="facts">{figures}</dl>' if figures else "")
        + "</header>\n"
    )


def pictures(story: Story) -> str:
    samples = story.run.folder / "samples"
    grid, film = samples / "grid.png", samples / "progress.webp"
    seed = text(story.run.info["options"].get("seed", 0))
    made = f"<b>What it makes.</b> The first samples of seed {seed}, not chosen."
    came = "<b>How it came to be.</b> The same latents throughout training; the strip below tells the step."
    figures = []
    if grid.is_file():
        figures.append(figure(grid, f"Samples of {story.model} after training", made))
    if film.is_file():
        figures.append(figure(film, "Film of the same samples over training", came, still=grid))
    if not figures:
        return section("Samples", kindly("No samples yet. Make some:", f"genloom sample {story.run.folder} -n 64"))
    return f'<div class="pictures">{"".join(figures)}</div>\n'


def figure(path: Path, alt: str, caption: str, still: Path | None = None) -> str:
    """A picture with its caption; `still` is shown instead to those who ask their system for less motion."""
    image = f'<img src="{embedded(path)}" alt="{escape(alt)}">'
    if still is not None and still.is_file():
        calm = f'<source media="(prefers-reduced-motion: reduce)" srcset="{embedded(still)}">'
        image = f"<picture>{calm}{image}</picture>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def embedded(path: Path) -> str:
    """A picture as a data URL: small ones enlarged by whole pixels, large ones compressed."""
    from PIL import Image

    raw, kind = path.read_bytes(), {".webp": "webp"}.get(path.suffix, "png")
    if kind == "png":
        with Image.open(path) as picture:
            times = round(SHARP / picture.width)
            if times > 1:
                size = (picture.width * times, picture.height * times)
                raw = _encode(picture.resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)
            elif len(raw) > LARGE:
                raw, kind = _encode(picture.convert("RGB"), "WEBP", quality=90), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def _encode(picture: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


# ── its sections ─────────────────────────────────────────────────────────────────────────────────────────────────
def curves(story: Story) -> str:
    if not story.ticks:
        return kindly("No curves yet: they begin at the first look. Train, or go on training:", command_of(story))
    marks = [(float(e["step"]), str(e.get("message", ""))) for e in story.events if e.get("event") == "rollback"]
    names = list(dict.fromkeys(k for t in story.ticks for k in (t.get("losses") or {})))
    panels: list[Panel] = [(name, series(story, "losses", name), {}) for name in names]
    variety = {"low": 0.0, "lines": [(1.0, "the data")]}
    panels.append(("variety of samples, the data's being 1", series(story, "watch", "variety"), variety))
    overfit = {"low": 0.0, "lines": [(0.5, "too much")]}
    panels.append(("overfit of the critic: 0 none, 1 all", series(story, "watch", "overfit_r_v"), overfit))
    panels.append(("items a second", [(t["step"], t.get("rate")) for t in story.ticks], {"low": 0.0}))
    drawn = []
    for name, points, options in panels:
        if svg := chart(name, points, marks=marks, **options):
            drawn.append(f"<figure><figcaption><b>{escape(name)}</b></figcaption>{svg}</figure>")
    note = "Means between looks, over training steps. " + (
        "Dotted verticals: the run was rolled back. " if marks else ""
    )
    return f'<div class="panels">{"".join(drawn)}</div><p class="note">{note}</p>'


def series(story: Story, group: str, name: str) -> list[tuple[float, float | None]]:
    return [(t["step"], (t.get(group) or {}).get(name)) for t in story.ticks]


def metrics(story: Story) -> str:
    if not story.metrics:
        return kindly(
            "Not measured yet. This measures it, with intervals, and finds the nearest real pictures:",
            f"genloom evaluate {story.run.folder}",
        )
    rows = []
    for m in story.metrics:
        words, better = family(str(m["name"]))
        sha = f"{m['extractor']} {str(m.get('sha256') or '')[:8]}".strip() if m.get("extractor") else ""
        small = " · ".join(escape(s) for s in (words, str(m.get("note") or "")) if s)
        rows.append(
            f"<tr><td>{escape(str(m['name']))} {ARROWS[better]}<small>{small}</small></td>"
            f'<td class="n"><b>{number(m["value"])}</b></td><td class="n">{interval(m) or "–"}</td>'
            f'<td class="n">{text(m.get("n"))} / {text(m.get("n_real"))}</td><td>{escape(sha) or "–"}</td></tr>'
        )
    names = ("Metric", "Value", "95 % interval", "Made / real", "Judged by")
    head = header_row(names, numbers=("Value", "95 % interval", "Made / real"))
    warned = "".join(f'<p class="note">{text(w)}</p>' for w in story.measured.get("warnings") or [])
    against = text(story.measured.get("data") or story.data)
    note = f"Measured against {against}. ↓ lower is better, ↑ higher. Intervals by bootstrap."
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>{warned}<p class="note">{note}</p>'


def classes(story: Story) -> str:
    found = story.measured.get("classes") or {}
    counts = {str(k): int(v) for k, v in (found.get("counts") or {}).items()}
    total = sum(counts.values())
    if not total:
        return ""
    most, even = max(counts.values()), total / len(counts)
    rows = []
    for name, count in list(counts.items())[:CLASSES]:
        style = f"--share:{100 * count / most:.1f}%;--even:{100 * even / most:.1f}%"
        rows.append(f'<dt>{escape(name)}</dt><i style="{style}"></i><dd>{100 * count / total:.1f} %</dd>')
    more = f" {len(counts) - CLASSES:,} more classes are in metrics.json." if len(counts) > CLASSES else ""
    facts = [f"Entropy {abs(found['entropy']):.2f} nats."] if found.get("entropy") is not None else []
    if found.get("confident") is not None:
        facts.append(f"{100 * found['confident']:.0f} % are classified with more than 0.9 confidence.")
    words = (
        f"{total:,} samples as an independent classifier sees them; dashed is an even share. {' '.join(facts)}{more}"
    )
    return f'<dl class="bars">{"".join(rows)}</dl><p class="note">{words}</p>'


def nearest(story: Story) -> str:
    path = story.run.folder / "samples" / "nearest.png"
    if not path.is_file():
        return ""
    caption = (
        "<b>Real above, generated below.</b> Each sample stands under the training picture nearest to it: first "
        "samples as they come, then those nearest of all. Alike is good; the same picture twice would be a copy."
    )
    for metric in story.metrics:
        if metric["name"] == "nearest":
            caption += (
                f" Distance to the nearest, that of unseen real pictures being 1: <b>{number(metric['value'])}</b>."
            )
    return figure(path, "Pairs of a real picture and the generated picture nearest to it", caption)


def happened(story: Story) -> str:
    rows = []
    for event in story.events[-40:]:
        kind = event.get("event") if event.get("event") in ("advice", "rollback") else "plain"
        rows.append(
            f'<li><span>step {event["step"]:,}</span><div class="{kind}">{text(event.get("message", ""))}</div></li>'
        )
    return f'<ol class="events">{"".join(rows)}</ol>' if rows else ""


def idea(story: Story) -> str:
    card = story.card
    if not card:
        return ""
    url, paper = str(card.get("url", "")), text(card.get("paper", ""))
    title = f'<a href="{escape(url)}">{paper}</a>' if url.startswith(("https://", "http://")) else paper
    whose = f"{text(card.get('authors', ''))}, {escape(str(card.get('year', '')))}"
    words = f"<p>{text(card.get('summary', ''))}</p><p>{title}<br>{whose}</p>"
    facts = [("Changed here", card.get("changes")), ("Source", card.get("source")), ("Licence", card.get("licence"))]
    rows = []
    for r in card.get("results") or []:
        cells = f'<td>{text(r["metric"])}</td><td class="n">{text(r["value"])}</td><td>{text(r["data"])}</td>'
        rows.append(f"<tr>{cells}<td>{text(r['where'])}</td></tr>")
    head = header_row(("Published", "Value", "Data", "Where"), numbers=("Value",))
    table = f'<div class="wide"><table>{head}{"".join(rows)}</table></div>' if rows else ""
    return words + listing(facts) + table


def about_data(story: Story) -> str:
    data = story.run.info["data"]
    facts = [
        ("name", data.get("name")),
        ("source", data.get("source")),
        ("one item", story.item),
    ]
    facts += list(story.data_facts.items()) + list((data.get("options") or {}).items())
    return listing([*facts, ("fingerprint", str(data.get("fingerprint", ""))[:16])])


def commands(story: Story) -> str:
    info, folder = story.run.info, story.run.folder
    blocks = [
        ("Train it", command_of(story)),
        ("Sample it", f"genloom sample {folder} -n 64"),
        ("In Python", f"import genloom\nmodel = genloom.load({str(folder)!r})\nsamples = model.sample(64, seed=0)"),
    ]
    written = "".join(f"<h3>{title}</h3><pre><code>{escape(code)}</code></pre>" for title, code in blocks)
    made = {**(info.get("versions") or {}), "device": info.get("device"), "started": info.get("started")}
    return written + listing(made.items())


def settings(story: Story) -> str:
    info = story.run.info
    options = {k: v for k, v in info["options"].items() if k != "model"}
    blocks = [("Model", info["config"]), (f"Training, recipe {text(info.get('recipe') or 'default')}", options)]
    written = []
    for title, values in blocks:
        if rows := listing(((k.replace("_", " "), v) for k, v in values.items()), "columns"):
            written.append(f"<h3>{title}</h3>{rows}")
    return "".join(written)
