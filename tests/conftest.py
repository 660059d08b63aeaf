"""Shared by all tests: real digits, small, and a home of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small steps are quicker on one thread

import pytest
import torch
from hypothesis import settings

from genloom.data.image import ImageSet

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _embedded_sets_are_unpacked_once() -> Iterator[None]:
    """Every run on MNIST unpacks its held-out part, and many tests the rest. Nobody writes into the arrays."""
    catalog = importlib.import_module("genloom.data.catalog")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "_read", cache(catalog._read))
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `genloom …` as a user does, in a folder of its own."""

    def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "genloom", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=options.pop("cwd", tmp_path),
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `command`, in this process: three seconds of imports less. What escapes is told as Python would, with exit code 1."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code: object = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.showwarning = lambda said, *_, **__: print(said, file=sys.stderr)  # pytest would keep it
                importlib.import_module("genloom.cli").main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(words, int(str(code)), out, err)

    return run


def save_pairs(digits: ImageSet, folder: Path) -> Path:
    """Write digits as target/ beside their blurred selves as source/, under the same names."""
    from PIL import Image, ImageFilter

    for side in ("source", "target"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(digits.pixels):
        picture = Image.fromarray(pixels[0])
        picture.save(folder / "target" / f"{i:04d}.png")
        picture.filter(ImageFilter.GaussianBlur(2)).save(folder / "source" / f"{i:04d}.png")
    return folder


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
