"""Runs of tables are measured and audited: one that repeats its rows, one that draws as they were drawn, one that drops a group."""

from __future__ import annotations

import csv
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genloom
from genloom.core import Batch, Card, Model, Recipe, Spec, generator, register
from genloom.data.schema import Column
from genloom.data.table import drawn_rows
from genloom.errors import UserError
from genloom.run import Run, read_json

ROWS = 600
Verb = Callable[..., subprocess.CompletedProcess[str]]


def row(random: torch.Generator) -> tuple[float, float, str, str]:
    """A number, twice of it and some noise, which side it is on, and a coin."""
    x, noise, coin = torch.randn(3, generator=random).tolist()
    return x, 2 * x + 0.5 * noise, "high" if x > 0 else "low", "yes" if coin > 0.5 else "no"


@register("test_rows")
class Rows(Model):
    """Repeats its rows, or draws as they were drawn (`kind` "fresh"), or the same with no row of high ("lost")."""

    modality = "table"
    card = Card("none", "none", 2026, "", "Rows.")
    recipes = {"cpu": Recipe(steps=1, batch_size=4)}
    looks_at = ROWS
    memory: Tensor

    def __init__(self, spec: Spec, *, kind: str = "parrot"):
        super().__init__(spec)
        self.kind = kind
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("memory", torch.zeros(ROWS, *spec.shape))

    def prepare(self, batch: Batch) -> None:
        self.memory = batch["table"].repeat(2, 1)[:ROWS]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        apart = torch.cdist(batch["table"], self.memory)
        return {"distance": (apart.min(1).values if self.kind == "parrot" else apart.mean(1)) + 0 * self.bias}

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        if self.kind == "parrot":
            return self.memory[torch.arange(start, start + n) % ROWS]
        columns = [Column.from_json(c) for c in self.spec.extra["columns"]]
        made = []
        for i in range(start, start + n):
            random = generator(seed, 9, i)
            new = row(random)
            while self.kind == "lost" and new[2] == "high":
                new = row(random)
            made.append(
                [
                    c.place(c.read([f"{v:.4f}" if isinstance(v, float) else v]))[0]
                    for c, v in zip(columns, new, strict=True)
                ]
            )
        return torch.tensor(np.array(made))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    lines = [f"{x:.4f},{y:.4f},{side},{coin}" for x, y, side, coin in (row(generator(1, i)) for i in range(ROWS))]
    path.write_text("\n".join(["x,y,side,coin", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, Any] = {"quiet": True, "data_options": {"target": "side", "held_out": 0.5}}
    return {
        kind: genloom.fit("test_rows", table, folder / kind, config={"kind": kind}, **options)
        for kind in ("parrot", "fresh", "lost")
    }


def value(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m for m in result["metrics"] if m["name"].startswith(f"{name}@"))


def test_figures_tell_real_rows_from_others(runs: dict[str, Run]) -> None:
    pytest.importorskip("sklearn")
    fresh, lost, parrot = (genloom.evaluate(runs[kind]) for kind in ("fresh", "lost", "parrot"))
    assert value(fresh, "shapes")["value"] > 0.94 > value(lost, "shapes")["value"]
    assert value(fresh, "trends")["value"] > 0.88 > value(lost, "trends")["value"]
    assert abs(value(fresh, "detection")["value"] - 0.5) < 0.1 and value(lost, "detection")["value"] > 0.7
    assert value(fresh, "utility")["value"] > 0.97 and not [
        m for m in lost["metrics"] if m["name"].startswith("utility")
    ]
    assert value(parrot, "new")["value"] == 0 and value(fresh, "new")["value"] > 0.4
    assert value(parrot, "nearer")["value"] > 0.99 and abs(value(fresh, "nearer")["value"] - 0.5) < 0.1
    for m in fresh["metrics"]:
        assert m["low"] <= m["value"] <= m["high"] and m["note"], m["name"]
    assert any("too few rows of a class" in w for w in lost["warnings"])
    assert [c["name"] for c in fresh["columns"]] == ["x", "y", "side", "coin"]
    assert sum(fresh["columns"][0]["made"]) == pytest.approx(1, abs=0.03)
    page = (runs["fresh"].folder / "report.html").read_text()
    assert "What it makes" in page and "side: shares of real and made rows" in page


def test_a_parrot_of_rows_is_flagged(runs: dict[str, Run]) -> None:
    result = genloom.audit(runs["parrot"])
    found = {f["name"]: f for f in result["findings"]}
    assert not result["passed"]
    assert found["exact-rows"]["flagged"] and found["exact-rows"]["value"] == 1
    assert found["nearer-to-training"]["flagged"] and found["membership-auc"]["value"] > 0.95
    assert result["rows"][0]["made"] == result["rows"][0]["training"]
    assert "copies what it was trained on" in found["exact-rows"]["sentence"]
    assert "<td>training</td>" in (runs["parrot"].folder / "report.html").read_text()


def test_training_rows_among_the_held_out_ones_hide_no_copies(runs: dict[str, Run], tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    header, *lines = Path(runs["parrot"].info["data"]["source"]).read_text().splitlines()
    new = [f"{random.normal():.4f},{random.normal():.4f},{line.split(',', 2)[2]}" for line in lines[:300]]
    (tmp_path / "half.csv").write_text("\n".join([header, *new, *lines]))
    result = genloom.audit(runs["parrot"], holdout=tmp_path / "half.csv")
    found = {f["name"]: f for f in result["findings"]}
    assert result["holdout"].endswith(f"{300 + len(lines):,} items")  # all of it: none is held out of what is
    assert found["exact-rows"]["flagged"] and found["membership-auc"]["value"] > 0.9
    assert [s for s in result["cannot"] if "some of what was held out was trained on" in s]
    assert "training rows beside the others 0 % are" in found["exact-rows"]["sentence"]
    assert found["nearer-to-training"]["value"] > 0.99


def test_rows_of_few_categories_coincide_by_chance_and_are_audited_all_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [f"{a},{b}" for a, b in zip(random.choice(list("xyz"), 400), random.choice(list("pq"), 400), strict=True)]
    (tmp_path / "few.csv").write_text("\n".join(["a,b", *lines]))
    run = genloom.fit("test_rows", tmp_path / "few.csv", tmp_path / "run", config={"kind": "parrot"}, quiet=True)
    result = genloom.audit(run)
    (exact,) = (f for f in result["findings"] if f["name"] == "exact-rows")
    assert exact["value"] == 1 and not exact["flagged"]
    assert [s for s in result["cannot"] if "0 held-out ones, without those that are both, are too few" in s]


def test_data_that_stand_twice_have_no_members_to_tell(runs: dict[str, Run], tmp_path: Path) -> None:
    header, *lines = Path(runs["parrot"].info["data"]["source"]).read_text().splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([header, *lines[: ROWS // 2], *lines[: ROWS // 2]]))
    (tmp_path / "new.csv").write_text("\n".join([header, *lines[:1], *lines[-60:]]))
    options: dict[str, Any] = {"quiet": True, "data_options": {"held_out": 0.0}}
    run = genloom.fit("test_rows", tmp_path / "twice.csv", tmp_path / "run", config={"kind": "fresh"}, **options)
    result = genloom.audit(run, holdout=tmp_path / "new.csv")
    assert [s for s in result["cannot"] if "0 training items and 60 held-out ones" in s]


def test_held_out_rows_that_are_all_training_rows_tell_nothing(runs: dict[str, Run], tmp_path: Path) -> None:
    header, *lines = Path(runs["parrot"].info["data"]["source"]).read_text().splitlines()
    trained = [lines[i] for i in np.flatnonzero(~drawn_rows(ROWS, 0.5))[:6]] * 5
    (tmp_path / "again.csv").write_text("\n".join([header, *trained]))
    with pytest.raises(UserError, match="training row too"):
        genloom.audit(runs["parrot"], holdout=tmp_path / "again.csv")


def test_rows_that_are_new_are_not_flagged_and_lost_groups_are_named(runs: dict[str, Run]) -> None:
    result = genloom.audit(runs["fresh"])
    assert result["passed"], [f["sentence"] for f in result["findings"] if f["flagged"]]
    lost = genloom.audit(runs["lost"], attributes="side")
    groups = next(f for f in lost["findings"] if f["name"] == "groups")
    assert (
        groups["flagged"]
        and "side = high left out" in groups["sentence"]
        and set(lost["groups"]) == {"side = high", "side = low"}
    )
    with pytest.raises(UserError, match="no column of categories 'sid'"):
        genloom.audit(runs["lost"], attributes="sid")


def test_without_held_out_rows_it_says_what_cannot_be_concluded(table: Path, tmp_path: Path) -> None:
    run = genloom.fit("test_rows", table, tmp_path / "run", quiet=True, data_options={"held_out": 0.0})
    result = genloom.audit(run)
    assert any("Whether rows are copies cannot be concluded" in s for s in result["cannot"])


@pytest.mark.parametrize("words", [["1", "2", "3", "4", "5"], ["red", "blue", "red", "red", "blue"]])
def test_of_one_column_no_pairs_are_measured_and_that_is_said(words: list[str], tmp_path: Path, verb: Verb) -> None:
    (tmp_path / "one.csv").write_text("\n".join(["x", *words * 20]))
    run = genloom.fit("ardm", tmp_path / "one.csv", tmp_path / "run", recipe="tiny", quiet=True)
    done = verb("evaluate", run.folder)
    assert done.returncode == 0, done.stderr
    result = read_json(run.folder / "metrics.json")
    assert value(result, "shapes") and not [m for m in result["metrics"] if m["value"] != m["value"]]
    assert "Trends were not measured: there is one column alone." in result["warnings"]


def test_numbers_that_are_none_are_one_sentence(runs: dict[str, Run], table: Path, tmp_path: Path) -> None:
    run = genloom.fit("test_rows", table, tmp_path / "run", quiet=True)
    run.save_tensors("weights.safetensors", {"memory": torch.full((ROWS, 4), torch.nan), "bias": torch.zeros(1)}, {})
    for verb in (genloom.evaluate, genloom.audit):
        with pytest.raises(UserError, match="not numbers"):
            verb(run)


def test_the_verbs_on_a_table(table: Path, verb: Verb, tmp_path: Path) -> None:
    made = verb("fit", "ardm", table, "--out", "run", "--recipe", "tiny", "--data.target", "coin")
    assert made.returncode == 0, made.stderr
    assert verb("evaluate", "run", "--metrics", "shapes,trends").returncode == 0
    wrong = verb("evaluate", "run", "--metrics", "shape")
    assert wrong.returncode == 2 and "'shapes'" in wrong.stderr
    assert verb("sample", "run", "--label", "yes", "-n", 30, "--out", "yes.csv").returncode == 0
    rows = list(csv.DictReader((tmp_path / "yes.csv").read_text().splitlines()))
    assert len(rows) == 30 and {r["coin"] for r in rows} == {"yes"}
    told = json.loads((tmp_path / "yes.csv.genloom.json").read_text())
    assert "genloom sample" in json.dumps(told)
    again = verb("sample", "--like", "yes.csv", "--out", "again")
    assert (
        "exactly the same" in again.stdout
        and (tmp_path / "again" / "yes.csv").read_bytes() == (tmp_path / "yes.csv").read_bytes()
    )
    assert verb("sample", "run", "--balance", "side", "-n", 40, "--out", "even").returncode == 0
    even = Counter(r["side"] for r in csv.DictReader((tmp_path / "even" / "rows.csv").read_text().splitlines()))
    assert even == {"high": 20, "low": 20}
    assert verb("sample", "run", "--balance", "side", "-n", 40, "--out", "even.csv").stdout == "table   even.csv\n"
    assert (tmp_path / "even.csv").read_bytes() == (tmp_path / "even" / "rows.csv").read_bytes()
    (tmp_path / "part.csv").write_text("side,coin\nhigh,yes\nlow,\n")
    kept = verb("sample", "run", "--source", "part.csv", "--label", "yes", "--out", "whole.csv")
    assert kept.returncode == 0 and (tmp_path / "whole.csv").read_text().count("yes") == 2
    for words, said in (
        (("--balance", "side", "--out", "even.png"), "ends in .csv"),
        (("--balance", "side", "--source", "part.csv"), "leave one out"),
        (("--source", "part.csv", "--label", "no"), "another label under 'coin'"),
        (("--source", "part.csv", "-n", 3), "-n does not go with what is made of a --source"),
    ):
        failed = verb("sample", "run", *words)
        assert failed.returncode == 2 and said in failed.stderr, failed.stderr
    wrong = verb("sample", "run", "--balance", "x")
    assert wrong.returncode == 2 and "'x' is none: give side, coin" in wrong.stderr
    usual = verb("sample", "run", "--out", "usual")
    assert usual.stdout == f"table   {Path('usual') / 'rows.csv'}\n"
    assert len((tmp_path / "usual" / "rows.csv").read_text().splitlines()) == 541, "as many as were trained on"
    for words, said in (
        (("fit", "ardm", table, "--out", "b", "--data.targt", "coin"), "--data.target"),
        (("fit", "ardm", "mnist", "--out", "b"), "is image, not table"),
        (("fit", "gan", table, "--out", "b"), "is table, not image"),
        (("sample", "run", "--label", "perhaps"), "Known: no, yes"),
    ):
        failed = verb(*words)
        assert failed.returncode == 2 and said in failed.stderr, failed.stderr
    assert (
        "canaries" in verb("fit", "ardm", table, "--out", "c", "--recipe", "tiny", "--steps", 2, "--canaries", 5).stdout
    )
    looked = verb("audit", "c")
    assert looked.returncode in (0, 1) and "Canaries are exposed" in looked.stdout
    assert read_json(tmp_path / "c" / "audit.json")["canaries"]
