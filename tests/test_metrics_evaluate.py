"""Evaluation: what metrics.json says of good, poor, few and copied samples."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genloom
from genloom import measure
from genloom.core import Card, Model, Recipe, Spec, generator, register
from genloom.data import open_data
from genloom.errors import UserError
from genloom.metrics.features import Extractor, extractor
from genloom.run import WEIGHTS, Run

N = 400


@pytest.fixture(scope="module")
def eye() -> Extractor:
    return extractor("digits")


@pytest.fixture(scope="module")
def digits() -> dict[str, Tensor]:
    return {s: open_data("mnist", split=s).batch(np.arange(2 * N))["image"] for s in ("train", "test")}


def value(result: dict, name: str) -> float:
    return next(m["value"] for m in result["metrics"] if m["name"].split("-")[0] == name)


def test_real_digits_beat_noisy_ones_beat_noise(eye: Extractor, digits: dict[str, Tensor]) -> None:
    real, fine = digits["test"][:N], digits["test"][N:]
    noise = torch.randn(fine.shape, generator=generator(0))
    results = [
        measure.evaluate_samples(real, fake, eye=eye, train=digits["train"])
        for fake in (fine, (fine + 0.7 * noise).clamp(-1, 1), noise.clamp(-1, 1))
    ]
    for name, sign in [("fd", 1), ("kid", 1), ("coverage", -1), ("precision", -1)]:
        values = [sign * value(r, name) for r in results]
        assert values == sorted(values), name
    assert 0.8 < value(results[0], "nearest") < 1.25
    seen = results[0]["classes"]
    assert sum(seen["counts"].values()) == N and seen["entropy"] > 2.2 and seen["confident"] > 0.95
    for m in results[0]["metrics"]:
        assert m["low"] <= m["value"] <= m["high"] and m["n"] == N and m["n_real"] == N
        assert m["extractor"] == "digits" and len(m["sha256"]) == 64
    assert {m["name"] for m in results[0]["metrics"]} > {f"fd-digits@{N}", f"kid-digits@{N}", f"is-digits@{N}"}
    assert json.loads(json.dumps(results[0], allow_nan=False)) == results[0]


def test_copies_are_near_their_originals(eye: Extractor, digits: dict[str, Tensor]) -> None:
    copies = digits["train"][:N] + 0.01
    result = measure.evaluate_samples(digits["test"], copies, eye=eye, train=digits["train"], metrics=["nearest"])
    assert value(result, "nearest") < 0.3
    theirs = eye.features(digits["train"])[0]
    mine, rows = measure.nearest_pairs(eye.features(copies)[0], theirs)
    assert (rows == mine).float().mean() > 0.8


def test_few_samples_are_warned_of_and_list_the_kernel_distance_first(
    eye: Extractor, digits: dict[str, Tensor]
) -> None:
    few = measure.evaluate_samples(digits["test"][:50], digits["train"][:50], eye=eye)
    assert few["metrics"][0]["name"] == "kid-digits@50" and "KID" in few["warnings"][0]
    with pytest.raises(UserError, match="too few"):
        measure.evaluate_samples(digits["test"][:5], digits["train"][:50], eye=eye)
    many = measure.Features(torch.randn(2000, 96, generator=generator(1)), torch.zeros(2000, 10))
    enough = measure.evaluate_samples(many, many, eye=eye, metrics=["precision", "fd"])
    assert not enough["warnings"] and [m["name"] for m in enough["metrics"]] == ["fd-digits@2k", "precision"]
    assert enough["classes"]["entropy"] == 0 and enough["classes"]["min_share"] == 0


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'coverage'"):
        measure.chosen(["coverag"])


@register("memory_for_test")
class Memory(Model):
    """Shows pictures of the training set again, of the class asked for."""

    modality = "image"
    card = Card("none", "none", 2024, "https://example.org", "shows its data again")
    recipes = {"tiny": Recipe()}
    conditions = ("label",)

    def __init__(self, spec: Spec):
        super().__init__(spec)
        self.pictures = nn.Parameter(torch.zeros(200, *spec.shape))
        self.register_buffer("labels", torch.zeros(200, dtype=torch.long))

    def sample(self, n: int, *, seed: int = 0, start: int = 0, label: int | Tensor | None = None) -> Tensor:
        asked = self.item_labels(n, label, start)
        return torch.stack([self.pictures[self.labels == y][(seed + start + i) % 8] for i, y in enumerate(asked)])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    data = open_data("digits")
    batch = data.batch(np.arange(200))
    about = {"source": "digits", "options": {}, "name": "digits", "fingerprint": "", "summary": {}}
    info = {"genloom": "0", "model": "memory_for_test", "config": {}, "options": {}, "spec": data.spec.to_json()}
    made = Run.create(tmp_path / "run", {**info, "data": about})
    made.save_tensors(WEIGHTS, {"pictures": batch["image"], "labels": batch["label"]}, {})
    return made


def test_a_run_is_measured_against_the_held_out_part_of_its_data(run: Run) -> None:
    result = measure.evaluate_run(run, n=100)
    assert json.loads((run.folder / "metrics.json").read_text()) == result
    assert result["n"] == 100 and "held-out" in result["data"] and result["seconds"] > 0
    assert value(result, "nearest") < 0.5  # it copies
    assert value(result, "labels") > 0.8  # of the class asked
    assert result["classes"]["judge_accuracy"] > 0.9
    real = open_data("digits", split="test").labels()
    assert real is not None
    share = result["classes"]["counts"]["3"] / 100
    assert math.isclose(share, float((real == 3).float().mean()), abs_tol=0.08)
    assert (run.folder / "samples" / "nearest.png").stat().st_size > 1000
    assert "kid-digits@100" in measure.format_result(result)
    again = measure.evaluate_run(run, n=100)
    assert again["metrics"] == result["metrics"]


def test_what_cannot_be_measured_says_why(run: Run) -> None:
    with pytest.raises(UserError, match=r"8 × 8.*28 × 28"):
        measure.evaluate_run(run, "mnist", n=20)
    with pytest.raises(UserError, match="too few"):
        measure.evaluate_run(run, n=3)
    weights, _ = run.load_tensors(WEIGHTS)
    run.save_tensors(WEIGHTS, weights | {"pictures": weights["pictures"] * math.nan}, {})
    with pytest.raises(UserError, match="NaN"):
        measure.evaluate_run(run, n=20)


def test_without_the_training_data_the_rest_is_measured(run: Run) -> None:
    run.info["data"]["source"] = "/gone/pictures"
    result = measure.evaluate_run(run, "digits", n=50, metrics=["kid"])
    assert "could not be opened" in result["warnings"][-1] and len(result["metrics"]) == 1
    with pytest.raises(UserError, match="/gone/pictures"):
        measure.evaluate_run(run, n=50)


def test_a_model_that_leaves_labels_out_is_measured_on_data_that_has_them(tmp_path: Path) -> None:
    data = open_data("mnist", limit=64)
    run = genloom.fit(
        "sngan", data, tmp_path / "run", recipe="tiny", steps=1, quiet=True, config={"conditional": False}
    )
    assert genloom.evaluate(run, data, metrics=["kid"], n=20)["metrics"]


def test_samples_are_steered_while_they_are_measured(tmp_path: Path) -> None:
    data = open_data("digits", limit=64)
    run = genloom.fit("stylegan2", data, tmp_path / "run", recipe="tiny", steps=1, quiet=True)
    asked = {"metrics": ["kid"], "n": 20}
    plain, steered = genloom.evaluate(run, data, **asked), genloom.evaluate(run, data, truncation=0.0, **asked)
    assert steered["conditions"] == {"truncation": 0.0} and "truncation 0.0" in steered["warnings"][-1]
    assert "conditions" not in plain and value(plain, "kid") != value(steered, "kid")
    for words, given in {
        "leave label out": {"label": 3},
        "no condition 'source'": {"source": 1},
        "no condition 'guidance'": {"guidance": 2.0},
        "Truncation must lie": {"truncation": 9.0},
    }.items():
        with pytest.raises(UserError, match=words):
            genloom.evaluate(run, data, **asked, **given)
