"""Real training to a figure: `make test-slow`, minutes on a quiet machine."""

from __future__ import annotations

from pathlib import Path

import pytest

import genloom


@pytest.mark.slow
def test_the_textbook_layers_find_every_digit_in_three_minutes(tmp_path: Path) -> None:
    run = genloom.fit("gan", "mnist", tmp_path / "run", recipe="cpu", minutes=3, quiet=True)
    seen = genloom.evaluate(run)["classes"]
    assert len(seen["counts"]) == 10
    assert seen["min_share"] >= 0.03
    assert seen["entropy"] >= 2.2
