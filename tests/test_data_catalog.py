"""The data sets that come along, and the preflight."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genloom.data import Dataset, catalog, open_data
from genloom.data.catalog import EMBEDDED
from genloom.data.draw import to_bytes
from genloom.data.inspect_image import format_report, inspect
from genloom.errors import UserError


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return open_data("mnist")


def test_mnist_is_the_whole_of_it(mnist: Dataset) -> None:
    assert len(mnist) == 60_000 and mnist.spec.shape == (1, 28, 28) and mnist.spec.classes == tuple("0123456789")
    labels = mnist.labels()
    assert labels is not None
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    test = mnist.held_out()
    assert test is not None and len(test) == 10_000 and test.spec == mnist.spec
    assert test.labels()[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # type: ignore[index]
    means = [mnist.batch(np.arange(i, i + 6000))["image"].add(1).div(2).double().mean() for i in range(0, 60_000, 6000)]
    assert abs(float(np.mean(means)) - 0.1306604762738429) < 1e-7  # as everybody's notebooks have it


def test_mnist_bytes_are_the_original_ones(mnist: Dataset) -> None:
    pixels = to_bytes(mnist.batch(np.arange(60_000))["image"])
    header = bytes.fromhex("000008030000ea600000001c0000001c")
    digest = hashlib.sha256(header + pixels.tobytes()).hexdigest()
    assert digest == "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


def test_digits() -> None:
    data, test = open_data("digits"), open_data("digits", split="test")
    assert len(data) == 1500 and len(test) == 297 and data.spec.shape == (1, 8, 8)
    x = data.batch(np.arange(1500))["image"]
    assert x.min() == -1 and x.max() == 1 and len(x.unique()) == 17
    assert data.batch(np.arange(1))["label"].tolist() == [0]


def test_builtin_sets_take_options() -> None:
    data = open_data("digits", size=16, channels="rgb", limit=20, mirror=True)
    assert data.spec.shape == (3, 16, 16) and len(data) == 20
    assert data.held_out().spec == data.spec  # type: ignore[union-attr]
    assert data.fingerprint != open_data("digits").fingerprint
    with pytest.raises(UserError, match="own labels"):
        open_data("digits", labels="x.csv")
    with pytest.raises(UserError, match="no split of 'digits' 'tset'"):
        open_data("digits", split="tset")
    with pytest.raises(UserError, match="'digits' is image, not audio"):
        open_data("digits", modality="audio")


def test_each_entry_says_whose_it_is_and_notice_credits_it() -> None:
    notice = (Path(__file__).parent.parent / "NOTICE").read_text()
    for name, entry in catalog().items():
        assert name == entry.name and entry.summary and entry.credit and entry.licence
        if name == "streets":  # drawn by our own code
            continue
        drawn_from = {"moving-mnist": "mnist-*.xz", "moving-digits": "mnist-*.xz"}
        files = {
            "image": f"{name}-*.xz",
            "text": f"{name}.jsonl.xz",
            "audio": f"{name}.zip",
            "video": f"{name}-*.mp4",
            "table": f"{name}.zip",
        }
        assert entry.url.startswith("http") and drawn_from.get(name, files[entry.modality]) in notice
    assert sum(p.stat().st_size for p in EMBEDDED.iterdir()) < 17.3e6


def test_a_path_with_a_separator_is_never_a_builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"nothing at '\./mnist'"):
        open_data("./mnist")


# ── the preflight ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def messy(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("cat", 3), ("dog", 2)):
        (tmp_path / "p" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / "p" / name / f"{i}.png")
    root = tmp_path / "p"
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "0.png").read_bytes())
    whole = (root / "cat" / "1.png").read_bytes()
    (root / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "text.jpg").write_text("hello")
    (root / "readme.md").write_text("hello")
    return root


def test_inspect_says_what_is_there_and_what_fit_would_do(messy: Path) -> None:
    facts = inspect(messy)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["files"] == 8 and facts["modes"] == {"RGB": 6} and facts["formats"] == {"PNG": 6}
    assert facts["sizes"]["most_common"] == {"30×40": 6} and facts["sizes"]["not_square"] == 6
    assert facts["classes"] == {"cat": 3, "dog": 3} and facts["duplicates"] == [["cat/0.png", "dog/copy.png"]]
    assert facts["unreadable"].keys() == {"cat/cut.png", "dog/text.jpg"}
    assert facts["other_files"] == {"count": 1, "such_as": ["readme.md"]}
    assert facts["fit"]["shape"] == list(open_data(messy).spec.shape) == [3, 16, 16] and facts["problems"] == []
    text = format_report(facts)
    for word in ("cat/cut.png", "not a picture", "cat/0.png = dog/copy.png", "30×40 6", "3×16×16", "readme.md"):
        assert word in text


def test_inspect_names_what_would_stop_fit(messy: Path) -> None:
    (messy / "bird").mkdir()
    facts = inspect(messy, size=24)
    assert facts["fit"]["shape"] == [3, 24, 24]
    assert "bird" in facts["problems"][0] and "PROBLEM" in format_report(facts)
    with pytest.raises(UserError, match="nothing at"):
        inspect(messy / "absent")
    with pytest.raises(UserError, match="is one picture"):
        inspect(messy / "cat" / "0.png")


def test_inspect_reads_archives_and_builtin_sets(messy: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as z:
        for path in messy.rglob("*.*"):
            z.write(path, path.relative_to(tmp_path))
    folder, archive = inspect(messy), inspect(tmp_path / "p.zip")
    assert archive["kind"] == "zip" and archive["classes"] == folder["classes"] and archive["fit"] == folder["fit"]
    digits = inspect("digits")
    assert digits["files"] == 1500 and len(digits["classes"]) == 10 and "8×8" in format_report(digits)
