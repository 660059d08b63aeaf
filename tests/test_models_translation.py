"""pix2pix and CycleGAN: the authors' networks to the number, their losses, their pool, and samples from sources."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_pairs
from PIL import Image
from safetensors.torch import load_file, save_file

import genloom
from genloom import core
from genloom.api import import_
from genloom.core import Spec
from genloom.data import open_data
from genloom.errors import UserError
from genloom.models.image.cyclegan import CycleGAN, Pool
from genloom.models.image.pix2pix import Pix2Pix
from genloom.nn.translation import NLayerDiscriminator, PixelDiscriminator, ResnetGenerator, UnetGenerator

GOLDEN = Path(__file__).parent / "golden"
CASES = ("resnet_instance", "unet_batch_nodrop", "patchgan_batch", "patchgan_instance")


def golden(case: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict]:
    """Weights, inputs and outputs, and the config of one case."""
    tensors = load_file(GOLDEN / f"translation_{case}.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return weights, tensors, json.loads((GOLDEN / f"translation_{case}.json").read_text())["config"]


def spec(channels: int = 3, source: int = 3, side: int = 32) -> Spec:
    return Spec("image", (channels, side, side), extra={"source_channels": source, "serves": ["pairs", "domains"]})


def make(name: str, of: Spec | None = None, **config: object) -> core.Model:
    torch.manual_seed(0)
    cls = core.find(name)
    return core.build(cls, of or spec(), {**cls.recipes["tiny"].model, **config})


def batch(of: Spec, n: int = 3) -> core.Batch:
    source = torch.rand(n, of.extra["source_channels"], *of.shape[1:]) * 2 - 1
    return {"image": torch.rand(n, *of.shape) * 2 - 1, "source": source}


# ── the authors' numbers ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cls", [Pix2Pix, CycleGAN])
def test_agrees_with_the_authors_networks(case: str, cls: type) -> None:
    weights, io, config = golden(case)
    model = cls.from_reference(weights, config)
    assert not model.training
    names = ("generator", "discriminator") if cls is Pix2Pix else ("G_A", "D_A")
    network = model.get_submodule(names["patchgan" in case])
    torch.testing.assert_close(network(io["x"]), io["eval.out"], rtol=0, atol=1e-5)
    if "train.out" in io:
        torch.testing.assert_close(network.train()(io["x"]), io["train.out"], rtol=0, atol=1e-5)
    rebuilt = core.build(cls, model.spec, model.config)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_the_published_networks_have_their_published_sizes() -> None:
    def millions(network: torch.nn.Module) -> float:
        return round(sum(p.numel() for p in network.parameters()) / 1e6, 3)

    assert millions(UnetGenerator(3, 3, 8)) == 54.414
    assert millions(ResnetGenerator(3, 3, norm="instance", n_blocks=9)) == 11.378
    assert millions(NLayerDiscriminator(6)) == 2.769
    assert millions(NLayerDiscriminator(3, norm="instance")) == 2.765


def test_whole_checkpoints_of_several_networks() -> None:
    resnet, io, g = golden("resnet_instance")
    patch, _, d = golden("patchgan_instance")
    many = {f"{n}.{k}": v for n in ("G_A", "G_B") for k, v in resnet.items()} | {
        f"D_B.{k}": v for k, v in patch.items()
    }
    model = CycleGAN.from_reference(many, {"G_A": g, "G_B": g, "D_B": d})
    assert torch.equal(model.G_B(io["x"]), model.G_A(io["x"]))
    wide = {k: torch.zeros(8, 6, 4, 4) if k == "model.0.weight" else v for k, v in patch.items()}
    pair = {f"netG.{k}": v for k, v in resnet.items()} | {f"netD.{k}": v for k, v in wide.items()}
    both = Pix2Pix.from_reference(
        pair, {"G": {"netG": "resnet_6blocks", **g}, "D": {**d, "input_nc": 6, "init_type": "normal"}}
    )
    assert torch.allclose(both.sample(1, source=io["x"]), io["eval.out"], atol=1e-5)


def test_checkpoints_of_old_pytorch_load() -> None:
    weights, io, config = golden("resnet_instance")
    old = weights | {"model.2.running_mean": torch.zeros(8), "model.2.running_var": torch.ones(8)}
    torch.testing.assert_close(CycleGAN.from_reference(old, config).G_A(io["x"]), io["eval.out"], rtol=0, atol=1e-5)
    weights, io, config = golden("patchgan_batch")
    uncounted = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    torch.testing.assert_close(Pix2Pix.from_reference(uncounted, config).discriminator(io["x"]), io["eval.out"])


def test_what_does_not_fit_is_named() -> None:
    weights, _, config = golden("resnet_instance")
    with pytest.raises(UserError, match="'ngff'"):
        Pix2Pix.from_reference(weights, {**config, "ngff": 8})
    with pytest.raises(UserError, match=r"'model\.1\.weight' is 8x3x7x7 there, 16x3x7x7 here"):
        Pix2Pix.from_reference(weights, {**config, "ngf": 16})


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_every_option_of_the_networks(norm: str) -> None:
    x = torch.rand(2, 3, 32, 32)
    for padding in ("reflect", "replicate", "zero"):
        net = ResnetGenerator(3, 2, 4, norm, use_dropout=True, n_blocks=1, padding_type=padding)
        assert net(x).shape == (2, 2, 32, 32) and not torch.equal(net(x), net(x))
    assert UnetGenerator(3, 1, 5, 4, norm)(x).shape == (2, 1, 32, 32)
    assert NLayerDiscriminator(3, 4, 2, norm)(x).shape == (2, 1, 6, 6)
    assert PixelDiscriminator(3, 4, norm)(x).shape == (2, 1, 32, 32)
    biased = [
        m.bias is not None for m in NLayerDiscriminator(3, 4, 2, norm).modules() if isinstance(m, torch.nn.Conv2d)
    ]
    assert biased == [True, norm == "instance", norm == "instance", True]


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_losses_of_pix2pix_are_the_paper_s() -> None:
    of = spec(source=1)
    model, b = make("pix2pix", of, dropout=False, norm="instance"), batch(of)
    fake = model.generator(b["source"])
    judge = lambda x: model.discriminator(torch.cat([b["source"], x], 1))  # noqa: E731
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    r, f = judge(b["image"]), judge(fake)
    terms = {k: v.mean() for k, v in model.loss(b, "generator").items()}
    torch.testing.assert_close(terms["generator"], bce(f, torch.ones_like(f)))
    torch.testing.assert_close(terms["l1"], 100 * (b["image"] - fake).abs().mean())
    critic = model.loss(b, "discriminator")["discriminator"].mean()
    torch.testing.assert_close(critic, (bce(r, torch.ones_like(r)) + bce(f, torch.zeros_like(f))) / 2)


def test_losses_of_cyclegan_are_the_paper_s() -> None:
    of = spec()
    model, b = make("cyclegan", of), batch(of)
    a, b_ = b["source"], b["image"]
    fake_b, fake_a = model.G_A(a), model.G_B(b_)
    terms = {k: v.mean() for k, v in model.loss(b, "generator").items()}
    l1 = torch.nn.functional.l1_loss
    torch.testing.assert_close(terms["generator_A"], (model.D_A(fake_b) - 1).square().mean())
    torch.testing.assert_close(terms["cycle"], 10 * (l1(model.G_B(fake_b), a) + l1(model.G_A(fake_a), b_)))
    torch.testing.assert_close(terms["identity"], 5 * (l1(model.G_A(b_), b_) + l1(model.G_B(a), a)))
    critics = model.loss(b, "discriminator")  # the pool is still filling, so these are the fakes themselves
    wanted = ((model.D_B(a) - 1).square().mean() + model.D_B(fake_a).square().mean()) / 2
    torch.testing.assert_close(critics["discriminator_B"].mean(), wanted)


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize("objective", ["bce", "least_squares", "wasserstein", "relativistic"])
def test_other_objectives_and_networks(name: str, objective: str) -> None:
    of = spec(side=28)
    penalty = 10.0 if objective == "wasserstein" else 0.0
    options = {"objective": objective, "penalty": penalty, "network": "resnet", "critic_network": "pixel", "depth": 1}
    model = make(name, of, norm="instance", **options)
    for phase in model.phases():
        terms = model.loss(batch(of), phase.name)
        assert all(v.shape == (3,) and torch.isfinite(v).all() for v in terms.values())
        assert any(k.startswith("penalty") for k in terms) == (penalty > 0 and phase.name == "discriminator")


def test_identity_needs_equal_channels() -> None:
    with pytest.raises(UserError, match=r"--model\.identity 0"):
        make("cyclegan", spec(source=1))
    model = make("cyclegan", spec(source=1), identity=0.0)
    assert "identity" not in model.loss(batch(model.spec), "generator")


def test_the_pool_fills_and_then_gives_half_of_it_back() -> None:
    torch.manual_seed(0)
    pool = Pool(50, 1, 2, 2)
    numbered = torch.arange(450.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    assert torch.equal(pool(numbered[:50]), numbered[:50])
    shown = torch.cat([pool(numbered[i : i + 8]) for i in range(50, 450, 8)])[:, 0, 0, 0]
    old = shown != torch.arange(50.0, 450.0)
    assert 0.4 < old.float().mean() < 0.6
    assert (shown[old] < torch.arange(50.0, 450.0)[old]).all() and int(pool.count) == 50
    assert torch.equal(Pool(0, 1, 2, 2)(numbered[:3]), numbered[:3])


def test_ranks_hold_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(240.0).view(-1, 1, 1, 1)
    alone = Pool(20, 1, 1, 1)
    torch.manual_seed(4)
    whole = [alone(rows[i : i + 8]) for i in range(0, 240, 8)]
    monkeypatch.setattr("genloom.parallel.world", lambda: 2)
    for rank in (0, 1):
        pool = Pool(20, 1, 1, 1)
        monkeypatch.setattr("genloom.parallel.rank", lambda rank=rank: rank)
        torch.manual_seed(4)
        for i in range(0, 240, 8):
            monkeypatch.setattr("genloom.parallel.gather", lambda x, i=i: rows[i : i + 8])
            mine = pool(rows[i : i + 8][4 * rank : 4 * rank + 4])
            assert torch.equal(mine, whole[i // 8][4 * rank : 4 * rank + 4])
        assert torch.equal(pool.pictures, alone.pictures)


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_sample_is_made_of_its_source() -> None:
    model = make("pix2pix", spec(source=1, side=64)).eval()  # deep enough for dropout
    source = torch.rand(3, 1, 64, 64)
    made = model.sample(3, seed=1, source=source)
    assert made.shape == (3, 3, 64, 64) and made.abs().max() <= 1
    torch.testing.assert_close(model.sample(1, seed=1, start=2, source=source[2:]), made[2:], rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.sample(3, seed=2, source=source), made)  # dropout is noise
    four = model.sample(4, source=source[:1])
    assert not any(torch.equal(four[i], four[j]) for i in range(4) for j in range(i))
    for wrong in (torch.rand(3, 3, 64, 64), torch.rand(2, 1, 64, 64)):
        with pytest.raises(UserError, match=r"not"):
            model.sample(3, source=wrong)
    with pytest.raises(UserError, match="--source"):
        model.sample(3)


def test_the_way_back() -> None:
    model = make("cyclegan", spec(source=1), identity=0.0).eval()
    with torch.inference_mode():
        forth, back = (
            model.sample(2, source=torch.rand(2, 1, 32, 32)),
            model.sample(2, source=torch.rand(2, 3, 32, 32), back=True),
        )
    assert forth.shape == (2, 3, 32, 32) and back.shape == (2, 1, 32, 32)


def test_sheets_show_each_source_beside_its_result() -> None:
    model = make("pix2pix", spec(source=1)).eval()
    kept = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 32, 32)
    model.prepare({"source": kept})
    made = model.sample(5, seed=3)
    sheet = model.sheet(made, seed=3)
    assert sheet.shape == (10, 3, 32, 32) and torch.equal(sheet[1::2], made)
    assert sorted(sheet[::2, 0, 0, 0].tolist()) == pytest.approx([-1, -0.5, 0, 0.5, 1], abs=0.01)
    with torch.inference_mode():
        again = model.sample(5, seed=3, source=sheet[::2, :1])
    torch.testing.assert_close(again, made, rtol=1e-4, atol=1e-5)


def test_few_sources_are_shown_once_each(tmp_path: Path) -> None:
    model = make("cyclegan", spec(source=3)).eval()
    five = torch.rand(5, 3, 32, 32) * 2 - 1
    model.prepare({"source": five.repeat(20, 1, 1, 1)})  # as where one kind has five pictures and the other a hundred
    made = model.sample(model.grid(), seed=3)
    assert len(made) == 5 and torch.cdist(made.flatten(1), made.flatten(1)).fill_diagonal_(1).min() > 1e-3
    assert model.sheet(made, seed=3).shape == (10, 3, 32, 32)
    save_pairs(open_data("mnist", limit=6, size=32), tmp_path / "data")
    run = genloom.fit("cyclegan", tmp_path / "data", tmp_path / "run", recipe="tiny", steps=2, quiet=True)
    assert Image.open(run.folder / "samples" / "grid.png").size == (8 * 34 + 2, 2 * 34 + 2)  # six beside their results


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_sides_that_do_not_fit_are_refused(name: str) -> None:
    small = spec(side=8)
    with pytest.raises(UserError, match="24 pixels"):
        make(name, small, layers=3, norm="none").loss(batch(small), "generator")
    with pytest.raises(UserError, match="divide by 4"):
        make(name, spec(side=30), network="unet", depth=0)


def test_from_folders_to_files_of_the_same_names(tmp_path: Path, command) -> None:
    digits = open_data("mnist", limit=24, size=32)
    save_pairs(digits, tmp_path / "data" / "train")
    save_pairs(digits, tmp_path / "data" / "test")
    run = genloom.fit("pix2pix", tmp_path / "data", tmp_path / "run", recipe="tiny", steps=2, quiet=True)
    source = tmp_path / "data" / "test" / "source"
    made = genloom.sample(run, source=source)
    assert made.shape == (24, 1, 32, 32)
    done = command("sample", "run", "--source", source, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in source.iterdir())
    pixels = np.asarray(Image.open(tmp_path / "out" / "0003.png")).astype(np.float32)
    assert np.abs(pixels - (made[3, 0].numpy() + 1) * 127.5).max() <= 1.01
    assert command("sample", "run", "--source", source / "0003.png", "--out", "one").returncode == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["0003.png"]
    for asked in ({}, {"source": str(source)}):
        with pytest.raises(UserError, match="has no latents"):
            genloom.sample(run, seeds=[3], **asked)
    figures = genloom.evaluate(run, n=20, metrics=["kid"], extractor="digits")
    assert figures["data"].startswith("data (held-out")


def test_an_official_checkpoint_becomes_a_run(tmp_path: Path) -> None:
    weights, io, config = golden("resnet_instance")
    save_file(weights, tmp_path / "net_G.safetensors")
    run = import_("pix2pix", tmp_path / "net_G.safetensors", tmp_path / "run", config=config)
    made = genloom.load(run).cpu().sample(len(io["x"]), source=io["x"])
    torch.testing.assert_close(made, io["eval.out"], rtol=0, atol=1e-5)
    assert genloom.sample(run, source=io["x"]).shape == made.shape
    with pytest.raises(UserError, match="--source"):
        genloom.sample(run, 2)


def test_plain_data_is_refused_with_the_folders_that_are_wanted(tmp_path: Path) -> None:
    digits = open_data("mnist", limit=16)
    for data in ("mnist", digits):
        with pytest.raises(UserError, match="'source' and 'target'"):
            genloom.fit("pix2pix", data, tmp_path / "run", recipe="tiny", quiet=True)
    with pytest.raises(UserError, match="'trainA' and 'trainB'"):
        genloom.fit("cyclegan", "mnist", tmp_path / "run", recipe="tiny", quiet=True)
