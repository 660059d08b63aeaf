"""What the preflights of all modalities have in common: groups of copies, and what was found as lines to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from genloom.errors import printable

SHOWN = 10  # of each list
INDENT = "\n" + 13 * " "  # of what stands below a line


def same(named: Iterable[tuple[str, Hashable]]) -> list[list[str]]:
    """Groups of names whose keys are equal."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name, key in named:
        groups[key].append(name)
    return [group for group in groups.values() if len(group) > 1]


def report(facts: Mapping[str, Any], rows: Iterable[tuple[str, str]]) -> str:
    """What `inspect` found: a title, a line for each (name, text) that says something, and what should be known. Names and
    values in it are of files that anybody may have made: what does not print is escaped."""
    said = [*rows, *(("note", note) for note in facts["notes"])]
    said += [("PROBLEM", problem) for problem in facts.get("problems", ())]
    title = f"{facts['source']} ({facts['kind']})"
    lines = "\n".join([title, *(f"{name:<12} {text}" for name, text in said if text)])
    return "\n".join(map(printable, lines.split("\n")))


def listed(text: str, items: Sequence[str]) -> str:
    """The text, and the first few of the items below it."""
    return INDENT.join([text, *items[:SHOWN]])


def counted(counts: Mapping[str, int], between: str = " ") -> str:
    """The first few of what was counted, and how many more there are."""
    more = f", {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return ", ".join(f"{name}{between}{count:,}" for name, count in list(counts.items())[:SHOWN]) + more


def copies(facts: Mapping[str, Any]) -> str:
    """How many are exact copies of others, and of which."""
    groups = facts["duplicates"]
    return listed(f"{sum(len(g) - 1 for g in groups):,} exact", [" = ".join(g[:4]) for g in groups])


def unreadable(facts: Mapping[str, Any]) -> str:
    """How many files cannot be read, and why."""
    return listed(f"{len(facts['unreadable']):,}", [f"{name}: {why}" for name, why in facts["unreadable"].items()])
