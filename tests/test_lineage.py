"""A run says what it is made of, and a later change is found: seals, lines of runs, and the cards that tell of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import genloom
import genloom.train
from genloom.cli import main
from genloom.data import open_data
from genloom.errors import UserError
from genloom.report import check_card, write_data_card, write_model_card
from genloom.seal import digest, own, verify

ModelCard = pytest.importorskip("huggingface_hub").ModelCard  # as hubs read cards
FIT = {"recipe": "tiny", "quiet": True, "steps": 3}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a run that started from it."""
    folder = tmp_path_factory.mktemp("line")
    digits = open_data("digits")
    parent = genloom.fit("vae", digits, folder / "parent", **FIT)
    genloom.fit("vae", digits, folder / "child", init=parent, **FIT)
    return folder


@pytest.fixture
def runs(line: Path, tmp_path: Path) -> Path:
    """The same in a place of their own, to be spoilt."""
    shutil.copytree(line, tmp_path / "line")
    for path in (tmp_path / "line").rglob("*.json"):
        path.write_text(path.read_text().replace(str(line), str(tmp_path / "line")))
    for name in ("parent", "child"):
        (tmp_path / "line" / name / "seal.json").unlink()
        reseal(tmp_path / "line" / name)
    return tmp_path / "line"


def reseal(folder: Path) -> None:
    from genloom.run import Run
    from genloom.seal import SEALED, write_seal

    write_seal(Run.open(folder), SEALED)


def test_a_run_names_its_data_its_code_and_its_parent(line: Path) -> None:
    sealed = json.loads((line / "child/seal.json").read_text())
    parent = json.loads((line / "parent/seal.json").read_text())
    assert sealed["data"] == open_data("digits").fingerprint and len(sealed["code"]) == 64
    assert sealed["parents"] == [
        {
            "run": str(line / "parent"),
            "weights": digest(line / "parent/weights.safetensors"),
            "files": {name: digest(line / "parent" / name) for name in ("run.json", "log.jsonl")},
            "seal": parent["seal"],
        }
    ]
    assert set(sealed["files"]) == {"run.json", "weights.safetensors", "log.jsonl", "state/latest.safetensors"}
    assert verify(line / "child") == []


@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "log.jsonl", "state/latest.safetensors"])
def test_a_change_is_found_and_its_file_named(runs: Path, name: str) -> None:
    path = runs / "child" / name
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    (found,) = verify(runs / "child")
    assert f"'{path}' was changed" in found
    path.unlink()
    if name.startswith("state"):  # to train on only, and large
        assert verify(runs / "child") == []
        return
    (found,) = verify(runs / "child")
    assert f"'{path}' is gone" in found


def test_what_genloom_adds_to_a_run_is_no_change(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genloom.evaluate(runs / "child", metrics=["fd"], n=64)
    main(["sample", str(runs / "child"), "-n", "2"])
    write_model_card(runs / "child")
    (runs / "child/audit.json").write_text("{}")  # of a verb that does not seal it
    assert verify(runs / "child") == []
    capsys.readouterr()
    main(["verify", str(runs / "child")])
    assert "beside  audit.json: not sealed" in capsys.readouterr().out
    path = runs / "child/metrics.json"
    path.write_text(path.read_text().replace('"value": ', '"value": 0.', 1))
    (found,) = verify(runs / "child")
    assert f"'{path}' was changed" in found


def test_edits_of_the_seal_and_files_put_there_are_found(runs: Path) -> None:
    path = runs / "child/seal.json"
    sealed = json.loads(path.read_text())
    noted = sealed["seal"]
    path.write_text(json.dumps(sealed | {"code": "0" * 64}))
    assert len(verify(runs / "child")) == 1 and "seal.json' was changed" in verify(runs / "child")[0]
    genloom.evaluate(runs / "child", metrics=["fd"], n=64)  # a new seal does not hide it
    assert "seal.json' was altered" in verify(runs / "child")[0]
    for spoilt in ("{}", json.dumps(sealed | {"files": [1]}), json.dumps(sealed | {"parents": 3})):
        path.write_text(spoilt)
        assert "no whole seal" in verify(runs / "child")[0]
    sealed["parents"][0] |= {
        "run": str(runs / "child"),
        "weights": digest(runs / "child/weights.safetensors"),
        "files": {},
    }
    path.write_text(json.dumps(sealed | {"seal": own(sealed)}))
    assert verify(runs / "child") == []  # a line that bites its tail has an end all the same
    path.unlink()
    with pytest.raises(UserError, match="no seal"):
        verify(runs / "child")
    genloom.evaluate(runs / "child", metrics=["fd"], n=64)
    assert not path.exists(), "measuring vouches for nothing but its figures"
    (runs / "child/log.jsonl").write_text("")
    reseal(runs / "child")
    assert verify(runs / "child") == [] and "sealed again" in verify(runs / "child", noted[:12])[0]
    assert "sealed again" in verify(runs / "child", "")[0]  # nothing was noted: no proof


def test_the_line_is_followed(runs: Path) -> None:
    with open(runs / "parent/log.jsonl", "a") as log:
        log.write("\n")
    (found,) = verify(runs / "child")
    assert "parent/log.jsonl' was changed" in found
    shutil.copytree(runs / "child", runs.parent / "elsewhere/child")
    shutil.move(runs / "parent", runs.parent / "gone")
    (found,) = verify(runs / "child")
    assert f"parent '{runs / 'parent'}' is no longer there" in found
    shutil.move(runs.parent / "gone", runs.parent / "elsewhere/parent")  # beside its child: found again
    assert "parent/log.jsonl' was changed" in verify(runs.parent / "elsewhere/child")[0]
    shutil.copy(runs / "child/weights.safetensors", runs.parent / "elsewhere/parent/weights.safetensors")
    assert "other weights" in verify(runs.parent / "elsewhere/child")[0]


def test_a_parent_that_was_sealed_again_is_what_it_was_for_its_child(runs: Path) -> None:
    genloom.evaluate(runs / "parent", metrics=["fd"], n=64)  # this seals it again too, and is no change
    assert verify(runs / "child") == []
    told = runs / "parent/run.json"
    told.write_text(told.read_text().replace('"seed": 0', '"seed": 1'))
    sealed = json.loads((runs / "parent/seal.json").read_text())
    sealed["files"]["run.json"] = digest(told)
    (runs / "parent/seal.json").write_text(json.dumps(sealed | {"seal": own(sealed)}))
    assert verify(runs / "parent") == []
    (found,) = verify(runs / "child")
    assert "parent/run.json' was changed after this run started from it" in found
    (runs / "parent/seal.json").unlink()
    assert [s for s in verify(runs / "child") if "had a seal when this run started from it, and has none now" in s]


def test_figures_of_other_weights_are_not_shown(runs: Path) -> None:
    run = runs / "parent"
    genloom.evaluate(run, metrics=["fd", "nearest"], n=64)
    genloom.audit(run, n=20)
    card, page = (run / "README.md").read_text(), (run / "report.html").read_text()
    assert "Not measured yet" not in card + page and "Not audited yet" not in card + page
    (run / "README.md").unlink()
    genloom.fit("vae", open_data("digits"), run, **FIT | {"steps": 6})
    card, page = (run / "README.md").read_text(), (run / "report.html").read_text()
    for said in (card, page):
        assert "metrics.json is of the weights that this run had before it went on" in said
        assert "audit.json is of the weights that this run had before it went on" in said
    assert "Real above" not in page and verify(run) == []
    genloom.evaluate(run, metrics=["fd"], n=64)
    assert "metrics.json is of the weights" not in (run / "README.md").read_text()


def test_a_verb_does_not_vouch_for_what_others_changed(runs: Path) -> None:
    from genloom.run import Run
    from genloom.seal import write_seal

    run = Run.open(runs / "child")
    before = json.loads((runs / "child/seal.json").read_text())["seal"]
    with open(runs / "child/weights.safetensors", "ab") as file:
        file.write(b" ")
    run.write_json("metrics.json", {"metrics": []})
    write_seal(run, ["metrics.json"])
    (found,) = verify(runs / "child")
    assert "weights.safetensors' was changed" in found
    assert json.loads((runs / "child/seal.json").read_text())["before"] == before


def test_training_on_breaks_the_seal_and_seals_again(runs: Path) -> None:
    digits = open_data("digits")
    seal = json.loads((runs / "parent/seal.json").read_text())["seal"]
    genloom.fit("vae", digits, runs / "parent", **FIT | {"steps": 4})
    again = json.loads((runs / "parent/seal.json").read_text())
    assert again["before"] == seal and verify(runs / "parent") == []
    assert "other weights" in verify(runs / "child")[0]
    with open(runs / "parent/log.jsonl", "a") as log:
        log.write("\n")
    genloom.fit("vae", digits, runs / "parent", **FIT | {"steps": 5})
    (found,) = verify(runs / "parent")
    assert f"'{runs / 'parent/log.jsonl'}' was altered by somebody before" in found


def test_a_run_that_was_killed_after_its_seal_has_none(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as m, pytest.raises(RuntimeError):
        m.setattr(genloom.train.Loop, "_look", killed)
        genloom.fit("vae", open_data("digits"), runs / "parent", **FIT | {"steps": 9})
    genloom.evaluate(runs / "parent", metrics=["fd"], n=64)
    with pytest.raises(UserError, match="no seal"):
        verify(runs / "parent")


def test_the_verb_says_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", str(runs / "child")])
    said = capsys.readouterr().out
    assert "whole" in said and f"parent  {runs / 'parent'}" in said and "absent" not in said
    shutil.rmtree(runs / "child/state")
    main(["verify", str(runs / "child")])
    whole, *rest = capsys.readouterr().out.splitlines()
    assert whole == "whole   run.json, weights.safetensors, log.jsonl"
    assert "absent  state/latest.safetensors: needed to train on and to audit some models, not to sample" in rest
    (runs / "child/weights.safetensors").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(runs / "child")])
    assert stop.value.code == 2 and "weights.safetensors' is gone" in capsys.readouterr().err


# ── the cards ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_model_card_is_whole_and_keeps_what_its_reader_wrote(runs: Path) -> None:
    path = write_model_card(runs / "child")
    text = path.read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["library_name"] == "genloom" and front["datasets"] == ["digits"]
    for words in (
        "Intended use and limits",
        "CPU seconds measured",
        "480 g a kWh",
        "genloom verify .",
        "- from parent",
    ):
        assert words in text, words
    assert "without differential privacy" in text and "Not audited yet" in text
    mark = "<!-- yours: intended-use -->\n"
    mine = "For \\1 lectures only; ask **Ada**.\n"
    path.write_text(text.replace(mark, mark + mine))
    again = write_model_card(runs / "child").read_text()
    assert again == text.replace(mark, mark + mine) and not list(path.parent.glob("README.edited*"))
    metrics = [{"name": "fd-digits@1k", "value": 12.3, "low": 11.0, "high": 13.0, "n": 1000}]
    (runs / "child/metrics.json").write_text(json.dumps({"data": "digits test", "metrics": metrics}))
    (runs / "child/audit.json").write_text(json.dumps({"findings": [{"sentence": "No copies in 1,000 samples."}]}))
    text = write_model_card(runs / "child").read_text()
    (result,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "fd-digits@1k", "name": "fd-digits@1k", "value": 12.3}
    assert "- No copies in 1,000 samples." in text.split("## Audit")[1] and mine in text
    card = ModelCard.load(path)
    assert card.data.eval_results[0].metric_value == 12.3 and card.data.library_name == "genloom"


def test_the_data_card_keeps_what_its_reader_wrote(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / "faces").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(tmp_path / f"faces/{i}.png")
    card = tmp_path / "card.md"
    main(["data", "inspect", str(tmp_path / "faces"), "--card", str(card)])
    text = card.read_text()
    assert yaml.safe_load(text.split("---\n")[1])["pretty_name"] == "faces" and "whether the people" in text.lower()
    mark = "<!-- yours: consent -->\n"
    card.write_text(text.replace(mark, mark + "All signed.\n"))
    main(["data", "inspect", str(tmp_path / "faces"), "--card", str(card)])
    assert mark + "All signed.\n" in card.read_text()
    card.write_bytes(b"\xff\xfe\x00")
    write_data_card(card, "faces", "image", {})
    assert (tmp_path / "card.edited.md").read_bytes() == b"\xff\xfe\x00"


@pytest.mark.parametrize(("mark", "end"), [("", "\r\n"), ("\ufeff", "\r\n"), ("", "\r")])
def test_a_card_keeps_what_was_written_whatever_the_editor(tmp_path: Path, mark: str, end: str) -> None:
    card, opened = tmp_path / "card.md", "<!-- yours: consent -->\n"
    text = write_data_card(card, "faces", "image", {}).read_text()
    whole = text.replace(opened, f"{opened}All signed.\nBy hand.\n").replace(
        "yours: head\n", "yours: head\nlicense: mit\n"
    )
    card.write_bytes((mark + whole).replace("\n", end).encode())
    assert not any("edited outside" in s for s in check_card(card))
    again = write_data_card(card, "faces", "image", {}).read_text()
    assert f"{opened}All signed.\nBy hand.\n<!-- end" in again and "license: mit\n" in again
    assert 'license: "unknown"' not in again and not list(tmp_path.glob("*edited*"))


def test_a_card_that_was_edited_elsewhere_is_put_aside(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_model_card(runs / "child")
    edited = path.read_text().replace("It knows that data and nothing else", "It knows all")
    edited = edited.replace("<!-- yours: contact -->\n", "<!-- yours: contact -->\nAda")
    path.write_text(edited)
    assert "edited outside of its places" in check_card(path)[0]
    for name in ("README.edited.md", "README.edited1.md"):
        again = write_model_card(runs / "child").read_text()
        assert (path.parent / name).read_text() == edited and f"kept as '{name}'" in capsys.readouterr().err
        assert "It knows that" in again and "<!-- yours: contact -->\nAda\n<!-- end" in again
        path.write_text(edited)
    path.write_text(again.replace("Ada\n<!-- end of yours -->", "Ada"))  # a place that does not end: nothing is lost
    assert any("'contact'" in s and "does not end" in s for s in check_card(path))
    write_model_card(runs / "child")
    assert "Ada" in (path.parent / "README.edited2.md").read_text()


def test_the_head_of_a_card_takes_the_readers_own_fields(runs: Path) -> None:
    path = write_model_card(runs / "child")
    text = path.read_text()
    mark = "# yours: head\n"
    path.write_text(text.replace(mark, mark + "license: cc-by-4.0\nlanguage:\n- en\n"))
    for _ in range(2):
        text = write_model_card(runs / "child").read_text()
        front = yaml.safe_load(text.split("---\n")[1])
        assert front["license"] == "cc-by-4.0" and front["language"] == ["en"] and text.count("license:") == 1
    assert ModelCard.load(path).data.license == "cc-by-4.0"
    assert [s for s in check_card(path) if "says nothing yet" not in s] == []
    path.write_text(text.replace("language:", "language"))
    assert any("'language' in the head" in s for s in check_card(path))


def test_time_on_the_processor_is_counted_over_calls(tmp_path: Path) -> None:
    digits = open_data("digits")
    run = genloom.fit("vae", digits, tmp_path / "run", **FIT)
    _, first = run.load_tensors("state/latest.safetensors")
    run = genloom.fit("vae", digits, tmp_path / "run", **FIT | {"steps": 6})
    _, second = run.load_tensors("state/latest.safetensors")
    assert 0 < first["cpu"] < second["cpu"] < 60
