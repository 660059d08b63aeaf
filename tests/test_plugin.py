"""A model of one's own is one file: every verb takes it, and no run folder can make a machine run code."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from PIL import Image

import genloom

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_gan.py"


def test_every_verb_over_a_user_s_file(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    shutil.copy(EXAMPLE, tmp_path / "my_gan.py")
    assert len((tmp_path / "my_gan.py").read_text().splitlines()) < 45

    fit = command(
        "fit", "./my_gan.py", "mnist", "--recipe", "tiny", "--model.width", 32, "--out", "run", "--data.limit", 256
    )
    assert fit.returncode == 0, fit.stderr
    sample = command("sample", "run", "-n", 5, "--out", "pictures")
    assert sample.returncode == 0, sample.stderr
    assert [Image.open(p).size for p in sorted((tmp_path / "pictures").glob("*.png"))][:5] == [(28, 28)] * 5
    measured = command("evaluate", "run", "-n", 300)
    assert measured.returncode == 0, measured.stderr
    assert (tmp_path / "run/metrics.json").is_file()
    assert "my_gan" in command("compare", "run").stdout
    assert "My own idea" in command("models", "./my_gan.py").stdout
    assert "My own idea" in (tmp_path / "run/report.html").read_text()


def test_a_run_folder_cannot_bring_code(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    shutil.copy(EXAMPLE, tmp_path / "my_gan.py")
    assert command("fit", "./my_gan.py", "digits", "--recipe", "tiny", "--out", "run").returncode == 0
    with (tmp_path / "my_gan.py").open("a") as file:
        file.write("\nopen('was_run', 'w')\n")
    refused = command("sample", "run")
    assert refused.returncode == 2 and "--code" in refused.stderr and not (tmp_path / "was_run").exists()
    allowed = command("sample", "run", "--code", "my_gan.py")
    assert allowed.returncode == 0 and (tmp_path / "was_run").exists(), allowed.stderr


def test_mistakes_in_a_user_s_file(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "broken.py").write_text("import genloom\nthis is not python\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "raises.py").write_text("x = 1\ny = x / 0\n")
    for file, words in {
        "broken.py": "line 2",
        "empty.py": "registers 0",
        "raises.py": "line 2",
        "absent.py": "no model file",
    }.items():
        result = command("fit", f"./{file}", "digits")
        assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_no_module_takes_the_place_of_a_verb() -> None:
    for name in genloom.__all__:
        if importlib.util.find_spec(f"genloom.{name}"):
            importlib.import_module(f"genloom.{name}")
        assert callable(getattr(genloom, name)), name


def test_a_class_is_as_good_as_a_name(tmp_path: Path) -> None:
    from genloom.plugins import resolve

    cls = resolve(str(EXAMPLE))
    run = genloom.fit(cls, "digits", tmp_path / "run", recipe="tiny", quiet=True)
    assert genloom.sample(run, 2).shape == (2, 1, 8, 8)
