"""The README is true: its tables are what cards and measured rows say, its tree and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.table import HEADS, read_results, table, with_table

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", HEADS)
def test_tables_are_current(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == with_table(text, table(name)), "python -m benchmarks.table"


@pytest.mark.parametrize("name", HEADS)
def test_what_stands_below_the_pictures_was_measured(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for r in read_results():
        if (r["recipe"], r["minutes"]) == ("cpu", 3.0) and r["model"] in ("gan", "flow"):
            assert f"{r['classes']['confident']:.0%}".replace("%", " %") in text
            assert f"fd-digits {r['metrics']['fd-digits'][0]:.2f}" in text


@pytest.mark.parametrize("name", HEADS)
def test_links_and_pictures_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
        path = target[0] or target[1]
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", HEADS)
def test_the_tree_names_what_there_is(name: str) -> None:
    tree = re.search(r"```\ngenloom/\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)
    assert tree
    told = set(re.findall(r"^ +(\S+)", tree.group(1), re.M))
    there = {p.name + ("/" if p.is_dir() else "") for p in (ROOT / "genloom").iterdir() if not p.name.startswith("__")}
    assert there <= told, there - told
