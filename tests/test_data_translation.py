"""Sources and targets: in pairs or not, by folder or side by side, cut and mirrored as one."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_pairs
from PIL import Image

import genloom
from genloom.core import Spec
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.data.draw import write
from genloom.data.order import batches
from genloom.data.translation import read_sources
from genloom.errors import UserError

ROWS = np.arange(6)


def picture(number: int, side: int = 16) -> Image.Image:
    """A picture that says its number in every pixel, brighter to the right."""
    return Image.fromarray((np.full((side, side), 10 * number) + np.arange(side)).astype(np.uint8))


def save(folder: Path, numbers: range, plus: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        picture(n + plus).save(folder / f"{n}.png")


def numbers(images: torch.Tensor) -> list[int]:
    """The numbers of pictures by their darkest corner."""
    return [round((float(x.min()) + 1) * 127.5) // 10 for x in images]


def pairs(path: Path, **options: object) -> Dataset:
    return open_data(path, modality="image", needs="pairs", **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pairs: target n is source n + 10."""
    save(tmp_path / "data" / "source", range(6))
    save(tmp_path / "data" / "target", range(6), plus=10)
    return tmp_path / "data"


def test_equal_names_are_pairs(folder: Path) -> None:
    (folder / "target" / "3.png").unlink()
    picture(13).convert("RGB").save(folder / "target" / "3.webp", lossless=True)  # another ending is no matter
    data = pairs(folder)
    batch = data.batch(ROWS)
    assert batch["image"].shape == (6, 3, 16, 16) and batch["source"].shape == (6, 1, 16, 16)
    assert batch["image"].dtype == batch["source"].dtype == torch.float32
    assert numbers(batch["source"]) == list(range(6)) and numbers(batch["image"]) == list(range(10, 16))
    assert data.spec.extra["source_channels"] == 1 and data.spec.shape == (3, 16, 16) and len(data) == 6
    assert (data.summary["items"], data.summary["sources"], data.summary["targets"]) == (6, 6, 6)
    assert data.held_out() is None and data.labels() is None


def test_the_first_picture_without_partner_is_named(folder: Path) -> None:
    (folder / "target" / "2.png").unlink()
    with pytest.raises(UserError, match=r"'source/2\.png' has no partner .* 'target/' \(1 of 6"):
        pairs(folder)
    assert len(open_data(folder, modality="image", needs="domains")) == 6
    assert "has no partner" in " ".join(genloom.inspect(folder)["notes"])


def test_an_archive_and_the_other_names(folder: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path, "data")
    assert numbers(pairs(Path(archive)).batch(ROWS)["source"]) == list(range(6))
    for a, b in (("A", "B"), ("trainA", "trainB")):
        other = tmp_path / a
        shutil.copytree(folder / "source", other / a)
        shutil.copytree(folder / "target", other / b)
        assert numbers(pairs(other).batch(ROWS)["image"]) == list(range(10, 16))
    assert "in pairs" in genloom.inspect(folder)["notes"][-1]


def test_side_by_side_pictures_are_cut_in_two(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for n in range(4):
            both = np.concatenate([np.asarray(picture(n)), np.asarray(picture(n + 10))], 1)
            Image.fromarray(both).save(tmp_path / split / f"{n}.png")
    data = pairs(tmp_path, side_by_side=True)
    batch = data.batch(np.arange(4))
    assert numbers(batch["source"]) == [0, 1, 2, 3] and numbers(batch["image"]) == [10, 11, 12, 13]
    turned = pairs(tmp_path, side_by_side=True, swap=True).batch(np.arange(4))
    assert torch.equal(turned["source"], batch["image"])
    assert data.fingerprint != pairs(tmp_path, side_by_side=True, swap=True).fingerprint
    held_out = data.held_out()
    assert held_out is not None and len(held_out) == 4 and held_out.spec == data.spec


def test_both_of_a_pair_are_cut_and_mirrored_alike(folder: Path) -> None:
    data = pairs(folder, size=16, jitter=20, mirror=True)
    a, again, other = data.batch(ROWS, seed=5), data.batch(ROWS, seed=5), data.batch(ROWS, seed=6)
    assert torch.equal(a["image"], again["image"]) and not torch.equal(a["image"], other["image"])
    assert torch.equal(data.batch(ROWS[2:4], seed=5)["source"], a["source"][2:4])
    steps = ((a["image"] - a["source"]) * 127.5).round()  # target n is source n + 100 in every pixel
    assert (steps - 100).abs().max() <= 1
    rising = a["source"][:, 0, 0, -1] > a["source"][:, 0, 0, 0]
    assert rising.any() and not rising.all()
    with pytest.raises(UserError, match="jitter"):
        pairs(folder, jitter=20)


def test_two_kinds_meet_in_changing_company(tmp_path: Path) -> None:
    save(tmp_path / "trainA", range(5))
    save(tmp_path / "trainB", range(8), plus=10)
    save(tmp_path / "testA", range(2))
    save(tmp_path / "testB", range(3), plus=10)
    data = open_data(tmp_path, modality="image", needs="domains")
    assert len(data) == 8
    batch = data.batch(np.arange(8), seed=1)
    assert numbers(batch["image"]) == list(range(10, 18)) and set(numbers(batch["source"])) == set(range(5))
    met = {tuple(numbers(data.batch(np.arange(8), seed=s)["source"])) for s in range(20)}
    assert len(met) == 5
    held_out = data.held_out()
    assert held_out is not None and len(held_out) == 3
    with pytest.raises(UserError, match="pairs"):
        genloom.fit("pix2pix", data, tmp_path / "run", recipe="tiny", quiet=True)


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_unreadable_picture_leaves_with_its_partner(
    folder: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "target" / "2.png").write_bytes(b"no picture")
    (folder / "source" / "4.png").write_bytes(b"no picture")
    if not in_memory:
        monkeypatch.setattr("genloom.data.translation.IN_MEMORY", 0)
    data = pairs(folder)
    assert data.slow is not in_memory
    batch = data.batch(np.arange(len(data)))
    sources, targets = numbers(batch["source"]), numbers(batch["image"])
    assert targets == [n + 10 for n in sources] and set(sources) == {0, 1, 3, 5}
    assert set(data.summary["skipped"]["files"]) == {"source/4.png", "target/2.png"}


@pytest.mark.parametrize("in_memory", [True, False])
def test_without_one_whole_pair_there_is_nothing_to_learn(
    tmp_path: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side, bad in (("source", "0.png"), ("target", "1.png")):
        save(tmp_path / side, range(2))
        whole = (tmp_path / side / bad).read_bytes()
        (tmp_path / side / bad).write_bytes(whole[:-30])  # its header is whole
    if not in_memory:
        monkeypatch.setattr("genloom.data.translation.IN_MEMORY", 0)
    with pytest.raises(UserError, match="None of the pictures"):
        pairs(tmp_path).batch(np.arange(2))


def test_results_stay_in_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "sources.zip", "w") as archive:
        for n, name in enumerate((f"{tmp_path}/away.png", "deep/a:b.png")):
            picture(n).save(tmp_path / "one.png")
            archive.writestr(zipfile.ZipInfo(name), (tmp_path / "one.png").read_bytes())
    spec = Spec("image", (3, 16, 16), extra={"source_channels": 1})
    sources, names = read_sources(tmp_path / "in" / "sources.zip", spec)
    assert sources.shape == (2, 1, 16, 16) and sources.min() >= -1
    written = write(sources, tmp_path / "out", names=names)
    assert all(p.resolve().is_relative_to(tmp_path / "out") for p in written)
    assert tmp_path / "out" / "deep" / "a_b.png" in written and not (tmp_path / "away.png").exists()


def test_decoded_as_needed_is_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_pairs(open_data("mnist", limit=12), tmp_path)
    kept = pairs(folder, mirror=True)
    monkeypatch.setattr("genloom.data.translation.IN_MEMORY", 0)
    lazy = pairs(folder, mirror=True)
    for a, b, _ in zip(batches(kept, 4, seed=3), batches(lazy, 4, seed=3), range(5), strict=False):
        assert all(torch.equal(a[k], b[k]) for k in ("image", "source"))
    assert kept.fingerprint == lazy.fingerprint


def test_what_cannot_be_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'jitter'"):
        pairs(folder, jiter=20)
    with pytest.raises(UserError, match="no labels"):
        pairs(folder, labels=tmp_path / "labels.csv")
    picture(1).save(folder / "source" / "1.bmp")
    with pytest.raises(UserError, match="have one name"):
        pairs(folder)
    with pytest.raises(UserError, match="'source' and 'target'"):
        pairs(folder / "target")
