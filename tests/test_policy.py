"""Rules of whoever serves a model: what they forbid is not given out, and what is kept of it tells nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genloom
from genloom import Policy, RefusedError
from genloom.data import open_data
from genloom.errors import UserError

SECRET = "the bottle of Ada Lovelace"


def names_a_person(request: Mapping[str, Any]) -> bool:
    return "Ada" in str(request.get("prompt"))


def is_bright(picture: Tensor) -> bool:
    return bool(picture.mean() > LIMIT[0])


def says_b(text: str) -> bool:
    return "b" in text


def is_broken(_: Any) -> bool:
    raise ValueError(SECRET)


LIMIT = [0.0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, genloom.Run]:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "verses.txt").write_text("".join(f"{i} bottles of beer on the wall\n" for i in range(200)))
    text = open_data(folder / "verses.txt", context=16, tokenizer="byte")
    fit = {"recipe": "tiny", "quiet": True, "steps": 2}
    return {
        "image": genloom.fit("vae", open_data("digits"), folder / "vae", **fit),
        "text": genloom.fit("gpt", text, folder / "gpt", **fit),
    }


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_forbidden_request_is_refused_and_its_words_are_nowhere(
    runs: dict[str, genloom.Run], tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(requests=[names_a_person], log=tmp_path / "log.jsonl")
    for prompt in (SECRET, SECRET, "Ada alone"):
        with pytest.raises(RefusedError, match="'names_a_person' forbids this request") as refused:
            genloom.sample(runs["text"], 1, prompt=prompt, policy=policy)
        assert refused.value.rule == "names_a_person" and "Ada" not in str(refused.value)
    found = lines(tmp_path / "log.jsonl")
    assert [set(line) for line in found] == [{"time", "rule", "of", "key"}] * 3
    assert {(line["rule"], line["of"]) for line in found} == {("names_a_person", "request")}
    assert found[0]["key"] == found[1]["key"] != found[2]["key"], "the same request can be told again"
    assert "Ada" not in (tmp_path / "log.jsonl").read_text() and (tmp_path / "log.jsonl").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(RefusedError):
        genloom.sample(runs["text"], 1, prompt=SECRET, policy=policy)
    assert lines(tmp_path / "log.jsonl")[3]["key"] != found[0]["key"], "only by whoever holds the key"


def test_what_is_allowed_comes_as_without_a_policy(runs: dict[str, genloom.Run]) -> None:
    policy = Policy(requests=[names_a_person], outputs=[])
    plain = genloom.sample(runs["text"], 2, prompt="3 bottles", seed=4)
    assert genloom.sample(runs["text"], 2, prompt="3 bottles", seed=4, policy=policy) == plain
    assert not (runs["text"].folder / "refusals.jsonl").exists()


def test_what_a_rule_forbids_of_what_was_made_is_left_out(runs: dict[str, genloom.Run]) -> None:
    made = genloom.sample(runs["image"], 8)
    assert isinstance(made, Tensor)
    LIMIT[0] = float(made.flatten(1).mean(1).median())
    dark = [i for i in range(8) if not is_bright(made[i])]
    assert 0 < len(dark) < 8
    kept = genloom.sample(runs["image"], 8, policy=Policy(outputs=[is_bright]))
    assert isinstance(kept, Tensor) and torch.equal(kept, made[dark])
    of_seeds = genloom.sample(runs["image"], seeds=[0], policy=Policy(outputs=[is_never]))
    assert isinstance(of_seeds, Tensor) and len(of_seeds) == 1
    log = lines(runs["image"].folder / "refusals.jsonl")
    assert len(log) == 8 - len(dark) and {line["of"] for line in log} == {"output"}
    texts = genloom.sample(runs["text"], 6, seed=1)
    assert genloom.sample(runs["text"], 6, seed=1, policy=Policy(outputs=[says_b])) == [
        t for t in texts if "b" not in t
    ]
    LIMIT[0] = -2.0
    with pytest.raises(RefusedError, match="all that was made"):
        genloom.sample(runs["image"], 8, policy=Policy(outputs=[is_bright]))


def is_never(_: Any) -> bool:
    return False


def test_a_rule_that_fails_forbids_and_keeps_its_words_to_itself(runs: dict[str, genloom.Run], tmp_path: Path) -> None:
    for policy in (Policy([is_broken], log=tmp_path / "l"), Policy(outputs=[is_broken], log=tmp_path / "l")):
        with pytest.raises(RefusedError, match="is_broken") as refused:
            genloom.sample(runs["image"], 1, policy=policy)
        assert SECRET not in str(refused.value) and SECRET not in (tmp_path / "l").read_text()


def test_a_rule_without_a_name_and_a_log_that_cannot_be_written_are_said(
    runs: dict[str, genloom.Run], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="a function with a name"):
        Policy(requests=[lambda _: True])
    with pytest.raises(UserError, match="cannot be written"):
        genloom.sample(runs["image"], 1, policy=Policy([is_broken], log=tmp_path / "no" / "log"))
