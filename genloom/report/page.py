"""The report: the whole run on one self-contained page that a person wants to look at.

What is missing is said kindly, with the command that makes it. Every word from the run is escaped; the page runs no
script and loads nothing from elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image, ImageOps

from genloom.monitor import TEXTS
from genloom.report import rows as of_rows
from genloom.report.curves import chart, number
from genloom.report.story import Story, data_url, duration, family, interval, words
from genloom.run import HEARD_IN, SEEN_IN, atomic

LARGE = 2_000_000  # bytes of a picture beyond which the page embeds a lossy copy
LAST, EARLIER = 2000, 160  # characters of a text that are shown
Points = list[tuple[float, float | None]]  # steps, and what was logged at each
SHARP = 900  # pixels: smaller pictures are enlarged by whole pixels to about this, so that browsers do not blur them


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────
def write_report(folder: Path) -> Path:
    """Write report.html: the whole run on one page that opens offline. Raises UserError when `folder` is no run."""
    story = Story(folder)
    parts = [
        first(story),
        section("Hear it", sounds(story)),
        section("Watch it", films(story)),
        section("How it learned", curves(story)),
        section("How good it is", metrics(story)),
        section("Which classes", classes(story)),
        section("Does it copy?", repeats(story) if spoken(story) else nearest(story)),
        section("Audit", audited(story)),
        section("What happened", happened(story)),
        section("The idea", idea(story)),
        section("The data", about_data(story)),
        section("Make it again", commands(story)),
        section("Settings", settings(story)),
    ]
    frame = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    filled = frame.substitute(
        model=text(story.model),
        data=text(story.data),
        summary=escape(story.summary()),
        facts=facts(story),
        body="".join(parts),
        version=text(story.info.get("genloom", "")),
    )
    path = story.run.folder / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(filled, encoding="utf-8")
    return path


def first(story: Story) -> str:
    """What it makes, before anything else is said of it."""
    if story.run.spec.modality == "table":
        spread = of_rows.columns(story.measured.get("columns") or [])
        told = unmeasured(story, "Measuring it shows how its rows are spread beside real ones:")
        return section("What it makes", spread or told)
    return texts(story) if spoken(story) else pictures(story)


def spoken(story: Story) -> bool:
    return story.run.spec.modality == "text"


def text(value: Any) -> str:
    return escape(words(value))


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2><div>{body}</div></section>\n" if body else ""


def listing(pairs: Iterable[tuple[str, Any]], kind: str = "list") -> str:
    """A definition list; values that are empty are left out."""
    rows = [f"<div><dt>{escape(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs if v not in (None, "", [], {}, ())]
    return f'<dl class="{kind}">{"".join(rows)}</dl>' if rows else ""


def table(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str]) -> str:
    """A table of cells of HTML; the columns that hold `numbers` stand to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="n"' if name in numbers else "" for name in names]
        return f"<tr>{''.join(f'<{tag}{k}>{cell}</{tag}>' for k, cell in zip(kinds, cells, strict=True))}</tr>"

    return f'<div class="wide"><table>{line("th", names)}{"".join(line("td", row) for row in rows)}</table></div>'


def kindly(what: str, command: str) -> str:
    return f'<p class="kind">{what}</p><pre><code>{escape(command)}</code></pre>'


def unmeasured(story: Story, what: str) -> str:
    return kindly(what, f"genloom evaluate {story.run.folder}")


def note(html: str) -> str:
    return f'<p class="note">{html}</p>'


def facts(story: Story) -> str:
    shown = []
    if story.last:
        shown = [("trained", duration(story.last["seconds"]), ""), ("steps", f"{story.last['step']:,}", "")]
    if story.rate:
        shown.append(("speed", f"{story.rate:,.0f}", "items/s"))
    shown += [(m["name"], number(m["value"]), interval(m)) for m in story.metrics[:2]]
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{v} <small>{unit}</small></dd></div>" for k, v, unit in shown)
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def pictures(story: Story) -> str:
    samples = story.run.folder / "samples"
    grid = samples / "grid.png"
    made, came = said_of_pictures(story)
    clips = figure(samples / "clips.webp", f"Clips that {story.model} makes, playing", made, still=grid)
    film = figure(samples / "progress.webp", "Film of the same samples over training", came, still=grid)
    still = "<b>Frame by frame.</b> A clip a row, its frames evenly spaced." if clips else made
    after = figure(grid, f"Samples of {story.model} after training", still)
    if clips:
        return f'<div class="pictures moving">{clips}{film}{after}</div>\n'  # two small ones beside a tall one
    if film or after:
        return f'<div class="pictures">{after}{film}</div>\n'
    return section("Samples", kindly("No samples yet. Make some:", f"genloom sample {story.run.folder} -n 64"))


def said_of_pictures(story: Story) -> tuple[str, str]:
    """What the samples are, and what the film over training shows."""
    modality, seed = story.run.spec.modality, text(story.info["options"].get("seed", 0))
    made = f"The first samples of seed {seed}, not chosen."
    if modality == "audio":
        made = "Mel spectrograms; where it makes clips of the data again, the data's stand above."
    elif story.films_of_films:
        made = f"A source of its data, and after it what it makes of that; in the order of seed {seed}, not chosen."
    same = {"audio": "same", "video": "middle frames of the same clips"}.get(modality, "same latents")
    came = f"The {same} throughout training; the strip below tells the step."
    return f"<b>What it makes.</b> {made}", f"<b>How it came to be.</b> {came}"


def sounds(story: Story) -> str:
    """Clips to play; for a model of sound that was not measured yet, how to get them."""
    if story.run.spec.modality != "audio":
        return ""
    from genloom.report.heard import heard

    folder = story.run.folder / HEARD_IN
    found = "" if story.outgrown("metrics.json") else heard(story.run, folder)
    if not found:
        return unmeasured(story, "Measuring it makes clips to listen to:")
    if any(folder.glob("*.recordings.wav")):
        return found + note("Clips that were kept out of training: recorded above, made below.")
    return found + note("What it made from nothing, and below it the training sound that is nearest.")


def films(story: Story) -> str:
    """Films that were made again, playing; for a model of films that was not measured yet, how to get them."""
    if not story.films_of_films:
        return ""
    from genloom.report.seen import seen

    found = "" if story.outgrown("metrics.json") else seen(story.run.folder / SEEN_IN)
    if not found:
        return unmeasured(story, "Measuring it makes films that it never saw again, to watch beside the real ones:")
    return found + note("Films that were kept out of training.")


def texts(story: Story) -> str:
    """The text that was written at a look: the last, and before it the steps on the way there."""
    written = sorted((story.run.folder / "samples" / "fixed").glob(TEXTS))
    if not written:
        asked = kindly("Nothing written yet. Ask for some:", f"genloom sample {story.run.folder}")
        return section("What it writes", asked)
    way = [written[i] for i in sorted({0, len(written) // 8, len(written) // 3}) if i < len(written) - 1]
    last = f'<pre class="written">{shortened(written[-1], LAST)}</pre>'
    steps = [f"<h3>step {int(p.stem):,}</h3><pre>{shortened(p, EARLIER)}</pre>" for p in way]
    seed = text(story.info["options"].get("seed", 0))
    told = note(f"The first text of seed {seed} after {int(written[-1].stem):,} steps, not chosen.")
    return section("What it writes", last + told) + section("How it came to be", "".join(steps))


def shortened(path: Path, length: int) -> str:
    whole = path.read_text(encoding="utf-8", errors="replace").strip()
    return escape(whole[:length] + ("…" if len(whole) > length else ""))


def figure(path: Path, alt: str, caption: str, still: Path | None = None) -> str:
    """A picture with its caption, empty where there is no such file.

    `still` is shown instead to those who ask their system for less motion.
    """
    if not path.is_file():
        return ""
    image = f'<img src="{embedded(path)}" alt="{escape(alt)}">'
    if still is not None and still.is_file():
        calm = f'<source media="(prefers-reduced-motion: reduce)" srcset="{embedded(still, LARGE // 20)}">'
        image = f"<picture>{calm}{image}</picture>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def embedded(path: Path, large: int = LARGE) -> str:
    """A picture as a data URL: small ones enlarged by whole pixels, those of more than `large` bytes compressed."""
    raw = path.read_bytes()
    if path.suffix == ".png":
        buffer = io.BytesIO()
        with Image.open(path) as picture:
            sharp = ImageOps.scale(picture, max(1, round(SHARP / picture.width)), Image.Resampling.NEAREST)
            sharp.save(buffer, format="WEBP", lossless=len(raw) <= large, quality=90)
        raw = buffer.getvalue()
    return data_url("image/webp", raw)


# ── its sections ─────────────────────────────────────────────────────────────────────────────────────────────────
def curves(story: Story) -> str:
    if not story.ticks:
        return kindly("No curves yet: they begin at the first look. Train, or go on training:", story.command)
    marks = [(float(e["step"]), str(e.get("message", ""))) for e in story.events if e.get("event") == "rollback"]

    def panel(name: str, points: Points, **options: Any) -> str:
        svg = chart(name, points, marks=marks, **options)
        return f"<figure><figcaption><b>{escape(name)}</b></figcaption>{svg}</figure>" if svg else ""

    losses, watch = series(story, "losses"), series(story, "watch")
    unseen = {name: points for name, points in watch.items() if name.startswith("held-out ")}
    variety, overfit = watch.get("variety", []), watch.get("overfit_r_v", [])
    drawn = [
        *(panel(name, points) for name, points in (losses | unseen).items()),
        panel("variety of samples, the data's being 1", variety, low=0.0, lines=[(1.0, "the data")]),
        panel("overfit of the critic: 0 none, 1 all", overfit, low=0.0, lines=[(0.5, "too much")]),
        panel("items a second", [(t["step"], t.get("rate")) for t in story.ticks], low=0.0),
    ]
    told = "Means between looks, over training steps."
    told += " Dotted verticals: the run was rolled back." if marks else ""
    return f'<div class="panels">{"".join(drawn)}</div>{note(told)}'


def series(story: Story, group: str) -> dict[str, Points]:
    """What was logged in a group over the steps, by its name."""
    names = dict.fromkeys(name for t in story.ticks for name in t.get(group) or {})
    return {name: [(t["step"], (t.get(group) or {}).get(name)) for t in story.ticks] for name in names}


def metrics(story: Story) -> str:
    if not story.metrics:
        copied = "what it repeats word for word" if spoken(story) else "the nearest real ones"
        found = "shows it beside the real" if story.films_of_films else f"finds {copied}"
        return unmeasured(
            story, f"{story.outgrown('metrics.json')}Not measured yet. This measures it, with intervals, and {found}:"
        )
    beside: dict[str, dict[str, float]] = story.measured.get("beside") or {}  # the same figures of other ways
    sides = list(dict.fromkeys(side for found in beside.values() for side in found))
    rows = []
    for m in story.metrics:
        what, arrow = family(m["name"])
        small = " · ".join(text(s) for s in (what, m["note"]) if s)
        name = f"{text(m['name'])} {arrow}<small>{small}</small>"
        made = f"{text(m['n'])} / {text(m['n_real'])}"
        judge = f"{text(m.get('extractor', 'itself'))} {text(m.get('sha256', '')[:8])}".strip()
        others = beside.get(m["name"], {})
        cells = [number(others[s]) if s in others else "" for s in sides]
        rows.append((name, f"<b>{number(m['value'])}</b>", interval(m), *cells, made, judge))
    names = ("Metric", "Value", "95 % interval", *map(text, sides), "Made / real", "Judged by")
    figures = table(names, rows, numbers=names[1:-1])
    warned = "".join(note(text(w)) for w in story.measured.get("warnings") or [])
    against = text(story.measured.get("data") or story.data)
    told = f"Measured against {against}. ↓ lower is better, ↑ higher. Intervals by bootstrap."
    return figures + warned + note(told)


def classes(story: Story) -> str:
    found = story.measured.get("classes")
    if not found:
        return ""
    counts = found["counts"]
    total, most, even = sum(counts.values()), max(counts.values()), 100 / len(counts)
    rows = []
    for name, count in counts.items():
        style = f"--share:{100 * count / most:.1f}%;--even:{even * total / most:.1f}%"
        rows.append(f'<dt>{escape(name)}</dt><i style="{style}"></i><dd>{100 * count / total:.1f} %</dd>')
    told = (
        f"{total:,} samples as an independent classifier sees them; dashed is an even share. "
        f"Entropy {found['entropy']:.2f} nats. "
        f"{100 * found['confident']:.0f} % are classified with more than 0.9 confidence."
    )
    return f'<dl class="bars">{"".join(rows)}</dl>{note(told)}'


def nearest(story: Story) -> str:
    if story.outgrown("metrics.json"):
        return ""
    what = "clip" if story.run.spec.modality == "video" else "picture"
    caption = (
        f"<b>Real above, generated below.</b> Each sample stands under the training {what} nearest to it: first "
        f"samples as they come, then those nearest of all. Alike is good; the same {what} twice would be a copy."
    )
    for m in story.metrics:
        if m["name"] == "nearest":
            caption += f" Distance to the nearest, that of unseen real ones being 1: <b>{number(m['value'])}</b>."
    path = story.run.folder / "samples" / "nearest.png"
    return figure(path, f"Pairs of a real {what} and the generated one nearest to it", caption)


def audited(story: Story) -> str:
    """What the audit found, flagged or not, what it could not tell, the nearest pairs, and the groups."""
    found = story.found("audit.json")
    if not found:
        before = story.outgrown("audit.json")
        what = f"{before}Not audited yet. This tells whether it gives away its training data, and which groups it leaves out:"
        return kindly(what, f"genloom audit {story.run.folder}")
    rows = [
        ("flagged" if f.get("flagged") else "", text(f["sentence"]), f"{f['n']:,}", number(f["value"]), interval(f))
        for f in found.get("findings") or []
    ]
    shown = table(("", "Finding", "N", "Value", "95 % interval"), rows, numbers=("N", "Value", "95 % interval"))
    shown += "".join(note(text(sentence)) for sentence in found.get("cannot") or [])
    spans = [(f"{s['length']:,}", f"<q>{escape(s['text'])}</q>") for s in found.get("spans") or []]
    shown += table(("Bytes", "Copied word for word"), spans, numbers=("Bytes",)) if spans else ""
    pairs = story.run.folder / "samples" / "copies.png"
    caption = "<b>Real above, generated below.</b> The samples that are nearest to training items, nearest first."
    shown += figure(pairs, "Pairs of a training picture and the sample nearest to it", caption)
    names = [c["name"] for c in story.run.spec.extra.get("columns", ())]
    shown += of_rows.nearest(found.get("rows") or [], names)
    return shown + _groups(found.get("groups") or {}, found.get("judged"))


def _groups(groups: Mapping[str, Mapping[str, Any]], judged: int | None) -> str:
    if not groups:
        return ""
    names = ("samples", "data", "precision", "recall", "loss")
    rows = [(text(k), text(g["state"]), *(_figure(g, n) for n in names)) for k, g in groups.items()]
    heads = ("Share of samples", "Of the data", "Precision", "Recall", "Loss")
    shown = table(("Group", "", *heads), rows, numbers=heads)
    if not judged:
        return shown
    return shown + note(
        f"Precision and recall of {judged:,} samples and as many real items of each group, 95 % intervals."
    )


def _figure(group: Mapping[str, Any], name: str) -> str:
    """A figure of a group, with its interval where it has one."""
    if name not in group:
        return ""
    low, high = group.get(f"{name}_low"), group.get(f"{name}_high")
    return number(group[name]) + (f" ({number(low)} – {number(high)})" if low is not None else "")


def repeats(story: Story) -> str:
    found = story.measured.get("repeats") or []
    rows = [(str(r["sample"]), f"{r['length']:,}", f"<q>{escape(r['text'])}</q>") for r in found if r["length"]]
    if not rows:
        return ""
    told = note("The longest stretches of samples that stand in the training text, letter for letter.")
    return table(("Sample", "Bytes", "What"), rows, numbers=("Sample", "Bytes")) + told


def happened(story: Story) -> str:
    rows = []
    for event in story.events[-40:]:
        said = f'<div class="{text(event.get("event"))}">{text(event.get("message", ""))}</div>'
        rows.append(f"<li><span>step {event['step']:,}</span>{said}</li>")
    return f'<ol class="events">{"".join(rows)}</ol>' if rows else ""


def idea(story: Story) -> str:
    card = story.card
    if not card:
        return ""
    paper = text(card["paper"])
    title = f'<a href="{escape(story.url)}">{paper}</a>' if story.url else paper
    what = f"<p>{text(card['summary'])}</p><p>{title}<br>{text(card['authors'])}, {text(str(card['year']))}</p>"
    facts = [("Changed here", card["changes"]), ("Source", card.get("source")), ("Licence", card["licence"])]
    rows = [[text(r[k]) for k in ("metric", "value", "data", "where")] for r in card["results"]]
    results = table(("Published", "Value", "Data", "Where"), rows, numbers=("Value",)) if rows else ""
    return what + listing(facts) + results


def about_data(story: Story) -> str:
    data = story.info["data"]
    facts = [("name", data.get("name")), ("source", data["source"]), *story.terms.items()]
    facts.append(("one item", story.item))
    facts += [*story.data_facts.items(), *data.get("options", {}).items()]
    return listing([*facts, ("fingerprint", data.get("fingerprint", "")[:16])])


def commands(story: Story) -> str:
    info, folder = story.info, story.run.folder
    asked = '--prompt "…"' if spoken(story) else "--source FILM.mp4 --out made.mp4" if story.films_of_films else "-n 64"
    blocks = [
        ("Train it", story.command),
        ("Sample it", f"genloom sample {folder} {asked}"),
        ("In Python", f"import genloom\nmodel = genloom.load({str(folder)!r})\nsamples = model.sample(4, seed=0)"),
    ]
    written = "".join(f"<h3>{title}</h3><pre><code>{escape(code)}</code></pre>" for title, code in blocks)
    made = {**(info.get("versions") or {}), "device": info.get("device"), "started": info.get("started")}
    return written + listing(made.items())


def settings(story: Story) -> str:
    info = story.info
    options = {k: v for k, v in info["options"].items() if k != "model"}
    written = []
    for title, values in (("Model", info["config"]), (f"Training, recipe {info.get('recipe', 'default')}", options)):
        if rows := listing(((k.replace("_", " "), v) for k, v in values.items()), "columns"):
            written.append(f"<h3>{text(title)}</h3>{rows}")
    return "".join(written)
