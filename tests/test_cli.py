"""The command line: quick to answer, kind to mistakes. Every mistake is one sentence and exit code 2."""

from __future__ import annotations

import functools
import json
import operator
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    said = result.stderr + result.stdout
    assert result.returncode == 2, said
    assert "Traceback" not in said and len(result.stderr.strip().splitlines()) == 1, said
    for word in words:
        assert word in said, said


def picture(path: Path, size: tuple[int, int] = (16, 16), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import genloom

    folder = tmp_path_factory.mktemp("runs") / "run"
    genloom.fit("cvae", "digits", folder, recipe="tiny", quiet=True, steps=2)
    return folder


@pytest.mark.parametrize(
    ("words", "then"), [(("fit", "gan"), "goes on from there"), (("sample", "x"), "anew"), (("detect", "x"), "anew")]
)
def test_whoever_stops_a_command_is_told_what_it_does_next_time(
    words: tuple[str, ...], then: str, verb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("genloom.cli._run", stopped)
    done = verb(*words)
    assert done.returncode == 130 and "stopped; what was saved is whole" in done.stderr and then in done.stderr


def test_help_needs_no_torch() -> None:
    code = "import sys; from genloom.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "genloom fit gan mnist" in done.stdout


def test_lists(verb) -> None:  # type: ignore[no-untyped-def]
    models = verb("models").stdout
    assert all(name in models for name in ("gan", "dcgan", "wgan_gp", "vae", "cvae", "flow", "infogan"))
    assert "mnist" in verb("data").stdout
    assert "recipe cpu" in verb("models", "gan").stdout
    assert json.loads(verb("models", "--json").stdout)["gan"]["card"]["year"] == 2014


def test_fit_help_shows_the_model_s_own_options(verb) -> None:  # type: ignore[no-untyped-def]
    said = verb("fit", "gan", "--help")
    assert (
        said.returncode == 0 and "--model." in said.stdout and "--data.size" in said.stdout and "--steps" in said.stdout
    )


def test_names_that_do_not_exist(command, verb, run: Path) -> None:  # type: ignore[no-untyped-def]
    refused(command("fitt", "gan", "mnist"), "fit")
    refused(verb("fit", "dcgam", "mnist"), "dcgan")
    refused(verb("fit", "gan", "mnits"), "mnist")
    refused(verb("fit", "gan", "mnist", "--recipe", "cpuu"), "cpu")
    refused(verb("fit", "gan", "mnist", "--stepz", 5), "'--steps'")
    refused(verb("fit", "gan", "mnist", "--precision", "fp8"), "fp8", "bf16")
    refused(verb("fit", "gan"), "DATA")
    refused(verb("fit", "gan", "mnist", "--steps", "many"), "many")
    refused(verb("sample", "nowhere"), "nowhere")
    refused(verb("sample"), "RUN")
    refused(verb("sample", run, "--labell", 3), "'--label'")
    refused(verb("compare"), "run folders")
    refused(verb("sample", run, "--label", "eleven"), "eleven")
    refused(verb("sample", run, "--label", 10), "10")
    refused(verb("sample", run, "-n", 0), "-n")


@pytest.mark.parametrize("steps", ["0", "-3", "text"])
def test_steps_that_make_no_sense(steps: str, verb) -> None:  # type: ignore[no-untyped-def]
    refused(verb("fit", "gan", "digits", "--steps", steps), steps if steps == "text" else "--steps")


def test_data_that_cannot_be_used(tmp_path: Path, verb) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    refused(verb("fit", "gan", tmp_path / "missing"), "missing")
    refused(verb("fit", "gan", tmp_path / "empty"), "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.png").write_text("not a picture")
    refused(verb("fit", "gan", tmp_path / "text"), "a.png")
    picture(tmp_path / "one/a.png")
    refused(verb("fit", "gan", tmp_path / "one"), "one")


def test_bad_pictures_among_good_ones(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "mixed"
    for i in range(12):
        picture(folder / f"good{i}.png", seed=i)
    (folder / "words.png").write_text("not a picture")
    picture(folder / "whole.jpg", (64, 64))
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:700])
    picture(folder / "dot.png", (1, 1))
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    done = command("fit", "gan", folder, "--recipe", "tiny", "--data.size", 16, "--out", "run")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/run.json").read_text())["data"]["summary"]
    skipped = json.dumps(summary)
    assert "words.png" in skipped and "cut.jpg" in skipped


def test_run_folders_that_do_not_fit(tmp_path: Path, verb) -> None:  # type: ignore[no-untyped-def]
    words = ["--recipe", "tiny", "--quiet", "--out", "run"]
    assert verb("fit", "gan", "digits", *words).returncode == 0
    refused(verb("fit", "vae", "digits", *words), "gan", "vae")
    refused(verb("fit", "gan", "mnist", *words), "digits", "mnist")
    refused(verb("fit", "gan", "digits", *words, "--lr", "0.5"), "--lr", "0.5")
    info = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({**info, "format": 99, "genloom": "9.0"}))
    refused(verb("sample", "run"), "9.0")
    (tmp_path / "run/run.json").write_text(json.dumps(info)[:200])
    refused(verb("sample", "run"), "run.json")
    (tmp_path / "run/run.json").write_text(json.dumps(info))
    (tmp_path / "run/weights.safetensors").unlink()
    refused(verb("sample", "run"), "weights.safetensors")


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (("spec",), {}, "lacks 'spec.modality'"),
        (("spec", "modality"), "smell", "'smell' under 'spec.modality'"),
        (("spec", "shape"), [8], "3 numbers under 'spec.shape'"),
        (("spec", "classes", 1), None, "words under 'spec.classes.1'"),
        (("model",), 5, "words under 'model'"),
        (("data", "canaries"), 7, "an object under 'data.canaries'"),
        (("data", "summary", "items"), True, "a whole number under 'data.summary.items'"),
        (("config",), [], "an object under 'config'"),
        (("config", "width"), "x", "'config' or a 'spec'"),
    ],
)
def test_a_run_that_somebody_edited_is_one_sentence_for_every_verb(
    at: tuple[str | int, ...], value: object, said: str, run: Path, tmp_path: Path, verb
) -> None:  # type: ignore[no-untyped-def]
    edited = shutil.copytree(run, tmp_path / "edited")
    info = json.loads((edited / "run.json").read_text())
    place = functools.reduce(operator.getitem, at[:-1], info)
    place[at[-1]] = value
    (edited / "run.json").write_text(json.dumps(info))
    picture(tmp_path / "a.png")
    refused(verb("sample", "edited", "-n", "2"), "run.json' ", said)
    refused(verb("evaluate", "edited", "-n", "20"), "run.json' ", said)
    refused(verb("audit", "edited", "-n", "20"), "run.json' ", said)
    refused(verb("verify", "edited"), "run.json' was changed")
    fit = ("fit", "cvae", "digits", "--recipe", "tiny", "--quiet", "--steps", "2", "--out", "edited")
    if at != ("config", "width"):
        refused(verb("detect", "--run", "edited", "a.png"), "run.json' ", said)
        refused(verb("compare", "edited"), "run.json' ", said)
        refused(verb(*fit), "run.json' ", said)
    else:
        refused(verb(*fit), "holds another run")


def places(value: object, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where something stands in what JSON holds."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([at] if at else []), *(place for key, inner in inside for place in places(inner, (*at, key)))]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a table, with a column of each kind."""
    import genloom

    folder = tmp_path_factory.mktemp("tables")
    lines = [f"{i / 4},{'ab'[i % 2]},2024-01-{1 + i:02}\n" for i in range(24)]
    (folder / "a.csv").write_text(f"x,y,z\n{''.join(lines)}")
    genloom.fit("tvae", folder / "a.csv", folder / "run", recipe="tiny", quiet=True, steps=2)
    return folder / "run"


@settings(max_examples=120)
@given(st.data())
def test_any_edit_of_a_run_loads_or_is_refused(
    run: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    import genloom
    from genloom.errors import UserError
    from genloom.report import write_model_card, write_report

    run = data.draw(st.sampled_from([run, rows]))
    edited = tmp_path_factory.getbasetemp() / "any-edit"
    shutil.copytree(run, edited, dirs_exist_ok=True)
    info = json.loads((run / "run.json").read_text())
    *before, last = data.draw(st.sampled_from(places(info)))
    place = functools.reduce(operator.getitem, before, info)
    if data.draw(st.booleans()):
        del place[last]
    else:
        place[last] = data.draw(st.sampled_from([5, -1, "x", [], {}, None, True]))
    (edited / "run.json").write_text(json.dumps(info))
    for step in (genloom.load, write_model_card, write_report):
        try:
            step(edited)
        except UserError as error:
            assert "any-edit" in str(error) or "There is no model" in str(error)
            assert "\n" not in str(error)


def test_half_written_weights_and_pickle_bombs(tmp_path: Path, verb) -> None:  # type: ignore[no-untyped-def]
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "was_run"), "w")

    assert verb("fit", "gan", "digits", "--recipe", "tiny", "--quiet", "--out", "run").returncode == 0
    whole = (tmp_path / "run/weights.safetensors").read_bytes()
    for bad in (whole[: len(whole) // 2], b"", pickle.dumps(Bomb())):
        (tmp_path / "run/weights.safetensors").write_bytes(bad)
        refused(verb("sample", "run"), "safetensors")
    (tmp_path / "run/state/latest.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(verb("fit", "gan", "digits", "--recipe", "tiny", "--quiet", "--out", "run", "--steps", 99), "safetensors")
    assert not (tmp_path / "was_run").exists()


def test_places_that_cannot_be_written(tmp_path: Path, verb) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("x")
    refused(verb("fit", "gan", "digits", "--out", "file"), "file")
    refused(verb("fit", "gan", "digits", "--recipe", "tiny", "--out", "/proc/genloom"), "/proc/genloom")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("do not touch")
    refused(verb("fit", "gan", "digits", "--out", "full"), "not empty")


def test_a_label_by_name_or_number(tmp_path: Path, command, run: Path) -> None:  # type: ignore[no-untyped-def]
    done = command("sample", run, "-n", 4, "--label", "7", "--out", "sevens")
    assert done.returncode == 0 and len(list((tmp_path / "sevens").glob("*.png"))) >= 4, done.stderr


def test_numbers_that_are_none(verb, run: Path) -> None:  # type: ignore[no-untyped-def]
    refused(verb("sample", run, "-n", "1.5"), "takes a whole number, not '1.5'")
    refused(verb("sample", run, "--seed", "1e3"), "--seed takes a whole number, not '1e3'")
    refused(verb("fit", "gan", "digits", "--lr", "x"), "--lr takes a number, not 'x'")
    refused(verb("sample", run, "--seed", 2**63), "--seed 9223372036854775808 is out of range")
    said = f"--seed {-(2**63) - 1} is out of range: give one from {-(2**63)} to {2**63 - 1}."
    refused(verb("sample", run, f"--seed={-(2**63) - 1}"), said)
    refused(verb("sample", run, "--seeds", 2**63), "--seeds 9223372036854775808 is out of range")


def test_values_that_a_command_line_cannot_give_are_no_options(verb) -> None:  # type: ignore[no-untyped-def]
    """A style of infogan is a number for all samples, or a tensor."""
    assert verb("fit", "infogan", "digits", "--recipe", "tiny", "--quiet", "--steps", 1, "--out", "run").returncode == 0
    refused(verb("sample", "run", "--style", "nan"), "style is nan")
    refused(verb("sample", "run", "--style", 2), "style of 2 is out of range")
    assert verb("sample", "run", "--style", 0.5, "-n", 1).returncode == 0


def test_the_code_of_an_infogan(verb, run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """`--code` is otherwise the file of a model."""
    from genloom import sample
    from genloom.provenance import read_label

    assert verb("fit", "infogan", "digits", "--recipe", "tiny", "--quiet", "--steps", 1, "--out", "run").returncode == 0
    assert verb("sample", "run", "--code", 3, "-n", 1, "--out", "three").returncode == 0
    origin = read_label(tmp_path / "three/00000.png")
    assert origin and origin.conditions == {"code": 3} and origin.command.endswith("--code 3")
    pixels = ((sample("run", 1, code=3)[0, 0] + 1) * 127.5).numpy()
    assert np.abs(np.asarray(Image.open(tmp_path / "three/00000.png"), float) - pixels).max() <= 0.51
    refused(verb("sample", "run", "--code", 99), "no code 99")
    refused(verb("sample", run, "--code", 3), "no condition 'code'")
    refused(verb("sample", run, "--code", "none.py"), "none.py")


def test_a_lack_of_memory_is_one_sentence(verb, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from genloom import cli

    class OutOfMemoryError(RuntimeError):
        """As torch's, which is no MemoryError."""

    def fail(error: Exception) -> None:
        raise error

    for error in (MemoryError(), OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr(cli, "_run", lambda words, error=error: fail(error))
        refused(verb("models"), "not enough memory for so much at once: give it less")
        refused(verb("sample", "run"), "ask for fewer or shorter samples.")
        refused(verb("fit", "gan", "digits"), "give a smaller --batch-size.")
    monkeypatch.setattr(cli, "_run", lambda words: fail(RuntimeError("else")))
    assert verb("models").returncode == 1
