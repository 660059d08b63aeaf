"""Feature extractors: a judge that reads digits, features whatever the batch, and files that are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from genloom.data import open_data
from genloom.errors import UserError
from genloom.metrics import digits, inception, lite0
from genloom.metrics.features import extractor, quantise


def test_the_shipped_judge_reads_digits() -> None:
    batch = open_data("mnist", split="test").batch(np.arange(2000))
    judge = extractor("digits")
    features, logits = judge.features(batch["image"])
    assert logits is not None and features.shape == (2000, judge.dim) and logits.shape == (2000, 10)
    assert float((logits.argmax(1) == batch["label"]).float().mean()) >= 0.99
    assert digits.WEIGHTS.stat().st_size < 2**20


def test_the_judge_takes_any_size_and_colours() -> None:
    batch = open_data("mnist", split="test").batch(np.arange(200))
    judge = extractor("digits")
    large = torch.nn.functional.interpolate(batch["image"], (56, 56), mode="bilinear")
    for images in (large, large.expand(-1, 3, -1, -1)):
        logits = judge.features(images)[1]
        assert logits is not None and float((logits.argmax(1) == batch["label"]).float().mean()) > 0.95


def test_features_do_not_depend_on_the_batch() -> None:
    images = torch.rand(70, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge = extractor("digits")
    whole, _ = judge.features(images)
    torch.testing.assert_close(whole[:7], judge.features(images[:7])[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(whole, judge.features(images)[0])


def test_pictures_are_read_as_their_files_would_be() -> None:
    values = torch.tensor([-1.3, -1.0, 0.0031, 0.9999, 1.2])
    pixels = (quantise(values) + 1) * 127.5
    assert pixels.tolist() == pytest.approx([0, 0, 128, 255, 255], abs=1e-4)


def test_an_unknown_extractor_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        extractor("digit")
    with pytest.raises(UserError, match="no weights file"):
        extractor("digits", "/nowhere/digits.safetensors")


def test_lite0_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'genloom\[features\]'"):
        extractor("lite0")


def test_lite0_refuses_another_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("other.pth", "text.pth"):
        with pytest.raises(UserError, match="EfficientNet-lite0"):
            extractor("lite0", tmp_path / name)


@pytest.mark.skipif(importlib.util.find_spec(lite0.PACKAGE.replace("-", "_")) is None, reason="weights not installed")
def test_lite0_knows_what_is_in_a_photo() -> None:
    samples = pytest.importorskip("sklearn.datasets").load_sample_images()
    eye = extractor("lite0")
    seen = []
    for picture in samples.images:  # [427, 640, 3]: the middle square
        square = torch.from_numpy(picture[:, 106:533].copy()).permute(2, 0, 1)[None] / 127.5 - 1
        features, logits = eye.features(square)
        assert features.shape == (1, 1280) and logits is not None
        seen.append(int(logits.argmax()))
    assert seen == [698, 985]  # palace (of Beijing's summer), daisy


def test_inception_has_the_published_shape() -> None:
    net = inception.Inception().eval()
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(state) == 94 * 5 + 2 and sum(p.numel() for p in net.parameters()) == 23_850_960
    assert state["Mixed_6c.branch7x7dbl_4.conv.weight"].shape == (160, 160, 7, 1)
    assert state["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
    with torch.inference_mode():
        features, logits = net(torch.zeros(1, 1, 20, 32))
    assert features.shape == (1, 2048) and logits.shape == (1, 1008)


def test_inception_refuses_a_file_of_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not the published weights")
    monkeypatch.setenv(inception.VARIABLE, str(tmp_path / "weights.pth"))
    with pytest.raises(UserError, match=inception.HASH):
        extractor("inception")
    monkeypatch.delenv(inception.VARIABLE)
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path))
    with pytest.raises(UserError, match="GENLOOM_INCEPTION=download"):
        extractor("inception")


def test_tensorflow_resize_reads_corners_uncentred() -> None:
    ramp = torch.arange(100.0).expand(1, 3, 100, 100) / 127.5 - 1
    row = inception.prepare(ramp)[0, 0, 0] * 128 + 128
    expected = (torch.arange(299) * 100 / 299).clamp(max=99)
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("prepare", [lite0.prepare, digits.to_digits, inception.prepare])
def test_pictures_of_a_network_in_bf16_are_looked_at_too(prepare) -> None:  # type: ignore[no-untyped-def]
    """A generator's under autocast, that a perceptual loss is measured on while it learns."""
    images = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given = images.bfloat16().requires_grad_()
    found = prepare(given)
    found.float().sum().backward()
    assert given.grad is not None and (found.float() - prepare(images)).abs().max() < 0.02 * found.abs().max()
