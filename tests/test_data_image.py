"""Pictures of every kind, through open_data as a user meets it."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genloom.data import image as images
from genloom.data import open_data
from genloom.data.image import FileSet, ImageSet, preview, write
from genloom.errors import UserError


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (16, 16), seed: int = 0, **save: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "LA": (2,)}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels), dtype=np.uint8)
    Image.fromarray(noise, mode).save(path, **save)  # type: ignore[arg-type]
    return path


def folder_of_classes(root: Path, count: int = 4) -> Path:
    for name in ("cat", "dog"):
        for i in range(count):
            picture(root / name / f"{i}.png", seed=2 * i + (name == "dog"))
    return root


def one(root: Path, **options: object) -> torch.Tensor:
    """The first of two equal pictures in a folder [C, S, S], as bytes 0 to 255."""
    data = open_data(root, **options)
    assert len(data) == 2
    x = data.batch(np.array([0, 1]))["image"]
    assert x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1 and torch.equal(x[0], x[1])
    return (x[0] + 1) * 127.5


def twice(image: Image.Image, root: Path, ending: str = "png", **save: object) -> Path:
    for i in range(2):
        image.save(root / f"{i}.{ending}", **save)  # type: ignore[arg-type]
    return root


def test_bytes_come_through_exactly(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = one(twice(Image.fromarray(ramp), tmp_path))
    assert x.shape == (1, 16, 16)
    assert torch.equal(x[0].round(), torch.from_numpy(ramp).float())


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    for ending in ("png", "tif"):
        (tmp_path / ending).mkdir()
        x = one(twice(Image.fromarray(ramp), tmp_path / ending, ending))[0]
        assert torch.equal(x.round(), torch.arange(256).reshape(16, 16).float()), ending


def test_float_pictures_are_scaled(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert torch.equal(
        one(twice(Image.fromarray(ramp), tmp_path, "tif"))[0].round(), torch.arange(256.0).reshape(16, 16)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_the_channels_asked_for(mode: str, tmp_path: Path) -> None:
    ending = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    twice(Image.new("RGB", (16, 16), (200, 200, 200)).convert(mode), tmp_path, ending)
    for channels, count in (("grey", 1), ("rgb", 3), ("rgba", 4)):
        x = one(tmp_path, channels=channels)
        assert x.shape[0] == count
        if mode != "1":  # dithered
            assert abs(float(x[0].mean()) - 200) < 4, (mode, channels)
    assert one(tmp_path).shape[0] == (1 if mode in ("1", "L", "LA") else 3)


def test_a_grey_palette_is_grey(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16), "P")
    image.putpalette([v for v in range(256) for _ in range(3)])
    assert one(twice(image, tmp_path)).shape[0] == 1


def test_see_through_shows_the_background_and_says_so(tmp_path: Path) -> None:
    twice(Image.new("RGBA", (16, 16), (10, 20, 30, 0)), tmp_path)
    assert torch.allclose(one(tmp_path), torch.tensor(255.0))
    red = one(tmp_path, background="#ff0000")
    assert red[0].min() == 255 and red[1:].max() == 0
    assert one(tmp_path, channels="rgba")[3].max() == 0
    assert "see-through" in " ".join(open_data(tmp_path).summary["notes"])


def test_palette_transparency_is_see_through(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert torch.allclose(one(twice(image, tmp_path, transparency=0), channels="rgb"), torch.tensor(255.0))


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    upright = np.zeros((16, 16), np.uint8)
    upright[:8] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to see it
    x = one(twice(Image.fromarray(np.rot90(upright).copy()), tmp_path, "jpg", exif=exif, quality=95))[0]
    assert x[:7].min() > 240 and x[9:].max() < 15


def test_crop_pad_and_stretch(tmp_path: Path) -> None:
    wide = np.full((16, 32), 100, np.uint8)
    wide[:, :8] = wide[:, 24:] = 0  # what a square crop leaves out
    twice(Image.fromarray(wide), tmp_path)
    assert one(tmp_path, fit="crop", size=16).min() > 90
    padded = one(tmp_path, fit="pad", size=16, background="white")[0]
    assert padded[:4].min() == 255 and padded[-4:].min() == 255 and padded[8, 0] == 0
    stretched = one(tmp_path, fit="stretch", size=16)[0]
    assert stretched[:, 0].max() < 10 and stretched[8, 8] > 90


def test_default_size_and_channels(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "a" / f"{i}.png", size=(300, 200), seed=i)
        picture(tmp_path / "b" / f"{i}.png", "L", size=(28, 28), seed=i)
        picture(tmp_path / "c" / f"{i}.png", size=(45, 40), seed=i)
    assert open_data(tmp_path / "a").spec.shape == (3, 64, 64)
    assert open_data(tmp_path / "b").spec.shape == (1, 28, 28)
    assert open_data(tmp_path / "c").spec.shape == (3, 32, 32)
    assert open_data(tmp_path / "c", size=20).spec.shape == (3, 20, 20)
    assert "32×32" in open_data(tmp_path / "c").summary["notes"][0]


def test_zip_and_tar_are_the_folder(tmp_path: Path) -> None:
    root = folder_of_classes(tmp_path / "pictures")
    (root / ".DS_Store").write_text("x")
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("__MACOSX/._0.png", "x")
        for path in root.rglob("*.png"):
            z.write(path, path.relative_to(tmp_path))
    for ending in ("", ":gz", ":xz", ":bz2"):
        with tarfile.open(tmp_path / f"p.tar{ending.replace(':', '.')}", f"w{ending}") as tar:  # type: ignore[call-overload]
            tar.add(root, "./pictures")
    want = open_data(root).batch(np.arange(8))
    for name in ("p.zip", "p.tar", "p.tar.gz", "p.tar.xz", "p.tar.bz2"):
        data = open_data(tmp_path / name)
        assert data.spec.classes == ("cat", "dog"), name
        got = data.batch(np.arange(8))
        assert torch.equal(got["image"], want["image"]) and torch.equal(got["label"], want["label"]), name
        assert data.summary["skipped"]["count"] == 0


def test_bad_files_are_skipped_named_and_counted(tmp_path: Path) -> None:
    root = folder_of_classes(tmp_path)
    (root / "cat" / "text.png").write_text("this is not a picture")
    whole = picture(root / "cat" / "cut.jpg", size=(64, 64)).read_bytes()
    (root / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "empty.webp").write_bytes(b"")
    (root / "dog" / "nowhere.png").symlink_to(root / "gone.png")
    (root / "dog" / "notes.txt").write_text("other")
    data = open_data(root, size=16)
    assert len(data) == 8 and data.summary["other_files"] == 1
    skipped = data.summary["skipped"]
    assert skipped["count"] == 4
    assert set(skipped["files"]) == {"cat/text.png", "cat/cut.jpg", "dog/empty.webp", "dog/nowhere.png"}
    assert skipped["files"]["cat/text.png"] == "not a picture" and "truncated" in skipped["files"]["cat/cut.jpg"]
    labels = data.labels()
    assert labels is not None and labels.bincount().tolist() == [4, 4]
    clean = folder_of_classes(tmp_path / "clean")
    assert torch.equal(open_data(clean).batch(np.arange(8))["image"], data.batch(np.arange(8))["image"])


def test_tiny_and_huge_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "dot.png", "L", (1, 1))
    picture(tmp_path / "fine.png", "L", (64, 64))
    Image.new("L", (20_000, 20_000), 128).save(tmp_path / "huge.jpg", quality=20)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_data(tmp_path, size=32)
    assert data.summary["skipped"]["files"] == {"huge.png": "larger than 89 megapixels"}
    x = data.batch(np.arange(3))["image"]
    assert x.shape == (3, 1, 32, 32) and torch.allclose(x[2], torch.tensor(0.0), atol=0.02)  # the huge JPEG


def test_only_tiny_pictures(tmp_path: Path) -> None:
    twice(Image.new("RGB", (1, 1), (9, 9, 9)), tmp_path)
    assert torch.allclose(one(tmp_path), torch.tensor(9.0), atol=1e-3)
    assert open_data(tmp_path).spec.shape == (3, 8, 8)


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    for name in ("cat/indoor/old", "cat/outdoor", "dog/a/b"):
        picture(tmp_path / "set" / name / "0.png", seed=len(name))
    data = open_data(tmp_path)
    assert data.spec.classes == ("cat", "dog") and data.summary["classes"] == {"cat": 2, "dog": 1}


def test_one_folder_or_stray_files_are_no_classes(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "only" / "0.png")
    picture(tmp_path / "a" / "only" / "1.png")
    alone = open_data(tmp_path / "a")
    assert alone.spec.classes == () and alone.labels() is None and "label" not in alone.batch(np.arange(2))
    folder_of_classes(tmp_path / "b")
    picture(tmp_path / "b" / "stray.png")
    mixed = open_data(tmp_path / "b")
    assert mixed.spec.classes == () and "beside" in mixed.summary["notes"][0]


def test_numbered_classes_are_in_number_order(tmp_path: Path) -> None:
    for i in range(12):
        picture(tmp_path / str(i) / "x.png", seed=i)
    data = open_data(tmp_path)
    assert data.spec.classes == tuple(map(str, range(12)))
    assert sorted(data.labels().tolist()) == list(range(12))  # type: ignore[union-attr]


def test_train_and_test_folders_are_splits(tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "train")
    folder_of_classes(tmp_path / "val", count=2)
    train = open_data(tmp_path)
    assert len(train) == 8 and train.spec.classes == ("cat", "dog")
    test = train.held_out()
    assert test is not None and len(test) == 4 and test.spec == train.spec and test.held_out() is None
    assert len(open_data(tmp_path, split="test")) == 4
    with pytest.raises(UserError, match="no test split"):
        open_data(tmp_path / "train", split="test")


def test_labels_file(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "p" / "deep" / f"{i}.png", seed=i)
    (tmp_path / "l.csv").write_text("filename,class\n0.png,b\ndeep/1.png,a\n2,b\n")
    data = open_data(tmp_path / "p", labels=tmp_path / "l.csv")
    assert data.spec.classes == ("a", "b") and data.labels().tolist() == [1, 0, 1]  # type: ignore[union-attr]
    assert "not named" in data.summary["notes"][0]
    (tmp_path / "l.jsonl").write_text('{"file": "0.png", "label": 7}\n\n{"file": "3.png", "label": 10}\n')
    assert open_data(tmp_path / "p", labels=str(tmp_path / "l.jsonl")).spec.classes == ("7", "10")
    (tmp_path / "l.csv").write_text("filename,class\n0.png,b\n9.png,a\n")
    with pytest.raises(UserError, match=r"labels '9.png', and there is no such picture"):
        open_data(tmp_path / "p", labels=tmp_path / "l.csv")


def test_clear_sentences_for_bad_input(tmp_path: Path) -> None:
    def refused(source: object, match: str, **options: object) -> None:
        with pytest.raises(UserError, match=match) as caught:
            open_data(source, modality="image", **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"

    refused(tmp_path / "absent", "nothing at")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no picture: it is empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.doc").write_text("x")
    refused(tmp_path / "other", "but 1 other file, such as a.doc")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "a.png").write_text("x")
    refused(tmp_path / "fake", "None of the pictures .* 'a.png': not a picture")
    single = picture(tmp_path / "single" / "a.png")
    refused(tmp_path / "single", "at least 2 pictures")
    refused(single, "is one picture")
    refused(tmp_path / "other" / "a.doc", "neither a folder nor a whole zip or tar")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as z:
        z.write(single, "a.png")
    (tmp_path / "cut.zip").write_bytes(whole.getvalue()[:-30])
    refused(tmp_path / "cut.zip", "neither a folder nor a whole zip or tar")
    classes = folder_of_classes(tmp_path / "classes")
    (classes / "bird").mkdir()
    refused(classes, "'bird' holds no picture")
    (classes / "bird" / "a.png").write_text("x")
    refused(classes, "Class 'bird' has no usable picture")
    refused(classes, "no option 'siez'. Did you mean 'size'", siez=3)
    refused(classes, "size must be a whole number", size=0)
    refused(classes, "fit must be crop, pad or stretch", fit="squash")
    refused(classes, "is no colour", background="nocolour")
    refused("mnits", "neither a path nor a built-in data set. Did you mean 'mnist'")
    with pytest.raises(UserError, match="holds no file of a kind"):
        open_data(tmp_path / "other")


def test_large_sets_are_decoded_as_needed_and_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of_classes(tmp_path / "p")
    (root / "cat" / "2a.png").write_text("x")
    small = open_data(root, mirror=True)
    monkeypatch.setattr(images, "IN_MEMORY", 100)
    lazy = open_data(root, mirror=True)
    assert isinstance(lazy, FileSet) and lazy.slow and not small.slow and len(lazy) == 9
    bad = sorted(n for n in lazy.names).index("cat/2a.png")
    good = np.array([i for i in range(9) if i != bad])
    got = lazy.batch(good, seed=3)["image"].flatten(1).sort(1).values  # mirrored by number, and numbers differ
    assert torch.equal(got, small.batch(np.arange(8), seed=3)["image"].flatten(1).sort(1).values)
    again = lazy.batch(np.array([bad]))
    assert again["label"].tolist() == [0] and torch.isfinite(again["image"]).all()
    assert lazy.summary["skipped"] == {"count": 1, "files": {"cat/2a.png": "not a picture"}}


def test_mirror_depends_on_seed_and_item_alone(tmp_path: Path) -> None:
    data = open_data(folder_of_classes(tmp_path, count=16), mirror=True)
    plain = open_data(tmp_path)
    a, b = data.batch(np.arange(32), seed=1)["image"], data.batch(np.arange(31, -1, -1), seed=1)["image"]
    assert torch.equal(a, b.flip(0))
    x = plain.batch(np.arange(32))["image"]
    flipped = [torch.equal(a[i], x[i].flip(2)) for i in range(32)]
    assert all(f or torch.equal(a[i], x[i]) for i, f in enumerate(flipped)) and 6 < sum(flipped) < 26
    assert not torch.equal(a, data.batch(np.arange(32), seed=2)["image"])
    assert data.fingerprint == plain.fingerprint


def test_fingerprint_changes_with_the_items(tmp_path: Path) -> None:
    root = folder_of_classes(tmp_path)
    first = open_data(root).fingerprint
    assert open_data(root).fingerprint == first and int(first, 16) >= 0
    assert open_data(root, size=8).fingerprint != first
    picture(root / "cat" / "new.png")
    assert open_data(root).fingerprint != first


def test_limit_is_spread_over_all(tmp_path: Path) -> None:
    data = open_data(folder_of_classes(tmp_path, count=10), limit=4)
    assert data.labels().tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_is_written_is_read_back(channels: int, tmp_path: Path) -> None:
    whole = torch.randint(0, 256, (6, channels, 16, 16), generator=torch.Generator().manual_seed(0))
    samples = whole.float() / 127.5 - 1
    paths = write(samples, tmp_path, start=3)
    assert [p.name for p in paths] == [f"{i:05d}.png" for i in range(3, 9)]
    data = open_data(tmp_path, channels={1: "grey", 3: "rgb", 4: "rgba"}[channels])
    assert torch.equal(data.batch(np.arange(6))["image"], samples)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_written_classes_become_classes(tmp_path: Path) -> None:
    data = open_data("digits")
    batch = data.batch(np.arange(40))
    paths = write(batch["image"], tmp_path, labels=batch["label"], spec=data.spec)
    again = open_data(tmp_path)
    assert again.spec == data.spec and len(paths) == len(again) == 40
    odd = write(torch.zeros(1, 1, 8, 8), tmp_path / "odd", labels=torch.tensor([0]), spec=_spec("a/../b"))
    assert odd[0].parent == tmp_path / "odd" / "a_.._b"


def _spec(name: str):  # type: ignore[no-untyped-def]
    from genloom.core import Spec

    return Spec("image", (1, 8, 8), (name,))


def test_writing_where_one_cannot_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError):
        write(torch.zeros(1, 1, 8, 8), tmp_path / "file")
    with pytest.raises(UserError, match="shape"):
        write(torch.zeros(1, 2, 8, 8), tmp_path)


def test_preview_holds_every_sample() -> None:
    sheet = preview(torch.ones(10, 3, 64, 64), columns=4)
    assert sheet.mode == "RGB" and sheet.size == (4 * 66 + 2, 3 * 66 + 2)
    assert preview(torch.full((4, 1, 28, 28), float("nan"))).mode == "L"


def test_not_a_set_of_classes_is_an_image_set(tmp_path: Path) -> None:
    assert isinstance(open_data(folder_of_classes(tmp_path)), ImageSet)
