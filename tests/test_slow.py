"""Real training to a figure: `make test-slow`, minutes on a quiet machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import genloom

pytestmark = pytest.mark.slow


def trained(model: str, folder: Path, recipe: str = "cpu") -> dict[str, Any]:
    """What three minutes on MNIST reach: metrics.json with the distance on top."""
    found = genloom.evaluate(genloom.fit(model, "mnist", folder / model, recipe=recipe, minutes=3, quiet=True))
    return found | {"fd": next(m["value"] for m in found["metrics"] if m["name"].startswith("fd-digits"))}


def test_three_minutes_of_the_textbook_layers_and_of_the_best(tmp_path: Path) -> None:
    gan = trained("gan", tmp_path)
    assert len(gan["classes"]["counts"]) == 10
    assert gan["classes"]["min_share"] >= 0.03
    assert gan["classes"]["entropy"] >= 2.2
    assert gan["classes"]["confident"] >= 0.8
    assert 3 * trained("flow", tmp_path)["fd"] <= gan["fd"]


def test_the_textbook_s_training_collapses(tmp_path: Path) -> None:
    """What the card says of it: if this fails, the card is to be mended."""
    assert max(trained("gan", tmp_path, "textbook")["classes"]["counts"].values()) > 9000
