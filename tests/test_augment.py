"""Augmentations: ADA's official numbers, slopes of slopes, p = 0 is nothing, and p follows the discriminator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import genloom
from genloom.core import Spec, build, find
from genloom.data import open_data
from genloom.errors import UserError
from genloom.nn import ada
from genloom.nn.augment import ADA, AUGMENTATIONS, augmentation, cutout, translation
from genloom.objectives.adversarial import score_and_slope

GOLDEN = Path(__file__).parent / "golden"
IO = load_file(GOLDEN / "ada_augment.safetensors")
CASES = json.loads((GOLDEN / "ada_augment.json").read_text())
ALL = frozenset(t for group in ada.GROUPS.values() for t in group)
NORMAL = ("scale", "aniso", "xfrac", "brightness", "contrast", "saturation", *ada.BANDS)


def uniforms(n: int, percentile: float) -> Tensor:
    """Every transform drawn, every value at that percentile, as the reference's own test mode counts it.

    It takes erfinv(2q - 1) for the percentile of a normal value, without the root of two, and turns only once.
    """
    q = torch.tensor(percentile, dtype=torch.float64)
    u = torch.zeros(n, len(ada.DRAWS), 3, dtype=torch.float64)
    u[:, :, 1:] = q
    for name in NORMAL:
        u[:, ada.DRAWS.index(name), 1:] = torch.special.ndtr(torch.erfinv(2 * q - 1))
    u[:, ada.DRAWS.index("noise"), 1:] = torch.special.ndtr(torch.erfinv(q))
    u[:, ada.DRAWS.index("rotate_again"), 1:] = 0.5
    return u.float()


def random(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, len(ada.DRAWS), 3, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2 - 1


# ── ADA's transforms ─────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("percentile", CASES["percentiles"])
@pytest.mark.parametrize("group", [g for g in CASES["groups"] if g != "noise"])
def test_agrees_with_the_official_pipeline(group: str, percentile: float) -> None:
    official, how = IO[f"out.{group}.{percentile}"], (uniforms(1, percentile), 1.0, CASES["groups"][group])
    exact = ada.transform(IO["img"].double(), *how).float()  # so that the one rounding compared is theirs
    torch.testing.assert_close(exact, official, rtol=0, atol=1e-5)
    torch.testing.assert_close(ada.transform(IO["img"], *how), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("percentile", CASES["percentiles"])
def test_noise_has_the_official_spread(percentile: float) -> None:
    torch.manual_seed(0)
    image = IO["img"].expand(8, -1, -1, -1)
    made = ada.transform(image, uniforms(8, percentile), 1.0, ["noise"])
    official = (IO[f"out.noise.{percentile}"] - IO["img"]).std()
    assert float((made - image).std()) == pytest.approx(float(official), rel=0.05)


def test_the_low_pass_is_orthonormal_and_the_bands_sum_to_one_tap() -> None:
    taps = torch.tensor(ada.LOW_PASS, dtype=torch.float64)
    for shift in range(0, 12, 2):
        product = (taps[shift:] * taps[: 12 - shift]).sum()
        assert float(product) == pytest.approx(float(shift == 0), abs=1e-9)
    one = torch.zeros(43, dtype=torch.float64)
    one[21] = 1
    torch.testing.assert_close(torch.from_numpy(ada.filter_bank()).sum(0), one, rtol=0, atol=1e-12)


def test_a_shift_by_whole_pixels_moves_them_and_reflects() -> None:
    image = pictures(1, 3, 16, 24)
    inverse = torch.tensor([[[1.0, 0, -3], [0, 1, 2]]])  # out[y, x] = in[y + 2, x - 3]
    made = ada.warp(image, inverse)
    torch.testing.assert_close(made[..., :14, 3:], image[..., 2:, :21], rtol=0, atol=1e-5)
    torch.testing.assert_close(made[..., :14, :3], image[..., 2:, 1:4].flip(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 20), (2, 9, 31), (4, 5, 3), (1, 1, 1)])
def test_any_size_and_any_number_of_channels(shape: tuple[int, ...]) -> None:
    made = ada.transform(pictures(6, *shape), random(6), 0.9, ALL)
    assert made.shape == (6, *shape) and torch.isfinite(made).all()


def test_grey_colours_keep_grey_of_colour_grey() -> None:
    grey = pictures(8, 1, 6, 6)
    one = ada.transform(grey, random(8), 1.0, ada.GROUPS["color"])
    three = ada.transform(grey.expand(-1, 3, -1, -1), random(8), 1.0, ada.GROUPS["color"])
    torch.testing.assert_close(three, one.expand(-1, 3, -1, -1), rtol=0, atol=1e-5)


def test_a_sample_does_not_depend_on_the_others_and_may_be_left_alone() -> None:
    images, u = pictures(12, 3, 16, 16), random(12)
    transforms = ALL - {"noise"}
    together = ada.transform(images, u, 0.04, transforms)
    alone = torch.cat([ada.transform(i[None], v[None], 0.04, transforms) for i, v in zip(images, u, strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    same = (together == images).flatten(1).all(1)
    assert 0 < same.sum() < 12  # bit for bit, where nothing was drawn


def test_transforms_are_drawn_as_often_as_p_says() -> None:
    draws = ada.Draws(random(20_000), 0.3, ALL)
    often = draws.open.float().mean(0)
    for name, share in zip(ada.DRAWS, often, strict=True):
        wanted = 1 - 0.7**0.5 if "rotate" in name and name != "rotate90" else 0.3
        assert float(share) == pytest.approx(wanted, abs=0.02), name
    assert not ada.Draws(random(100), 0.0, ALL).open.any() and ada.Draws(random(100), 1.0, ALL).open.all()
    assert not ada.Draws(random(100), 1.0, ["hue"]).drawn("scale").any()
    n = draws.normal("scale")[draws.drawn("scale")]
    assert float(n.mean()) == pytest.approx(0, abs=0.05) and float(n.std()) == pytest.approx(1, abs=0.05)


# ── slopes, and slopes of slopes ─────────────────────────────────────────────────────────────────────────────────
def test_sampling_has_a_slope_and_a_slope_of_it() -> None:
    image = pictures(2, 2, 4, 5, dtype=torch.float64).requires_grad_()
    grid = pictures(2, 3, 3, 2, dtype=torch.float64) * 1.2
    assert torch.autograd.gradcheck(ada.Sample.apply, (image, grid))
    assert torch.autograd.gradgradcheck(ada.Sample.apply, (image, grid))
    plain = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(ada.Sample.apply(image, grid), plain)


@pytest.mark.parametrize("p", [0.15, 1.0])
def test_all_of_ada_is_differentiable_twice(p: float) -> None:
    u = random(3).double()
    image = pictures(3, 3, 5, 4, dtype=torch.float64).requires_grad_()

    def cube(x: Tensor) -> Tensor:
        return ada.transform(x, u, p, ALL - {"noise"}) ** 3

    assert torch.autograd.gradcheck(cube, (image,), fast_mode=True)
    assert torch.autograd.gradgradcheck(cube, (image,), fast_mode=True)


@pytest.mark.parametrize("name", ["diffaugment", "ada-bgcfnc:0.7"])
def test_r1_reaches_the_weights_through_the_augmentation(name: str) -> None:
    """‖∇ Σ w A(x)‖² with A linear up to a constant: its slope in w, by torch.func and by finite differences."""
    augment, x = augmentation(name), pictures(3, 1, 8, 8, dtype=torch.float64)
    w = pictures(8, 8, dtype=torch.float64).requires_grad_()

    def penalty(w: Tensor) -> Tensor:
        torch.manual_seed(5)
        return score_and_slope(lambda x: (augment(x) * w).flatten(1).sum(1).tanh().double(), x)[1].sum()

    (got,) = torch.autograd.grad(penalty(w), w)
    step = torch.zeros_like(w)
    step[2, 3] = 1e-2
    with torch.no_grad():
        wanted = (penalty(w + step) - penalty(w - step)) / 2e-2
    assert float(got[2, 3]) == pytest.approx(float(wanted), rel=0.05, abs=1e-3)


# ── strength ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if n.startswith("ada")])
def test_ada_starts_as_nothing_at_all(name: str) -> None:
    images = pictures(4, 3, 8, 8)
    before = torch.get_rng_state()
    assert augmentation(name)(images) is images
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["diffaugment", "ada:0.5", "ada-bgcfnc:1"])
def test_the_seed_decides(name: str) -> None:
    augment, images = augmentation(name), pictures(8, 3, 12, 12)

    def seen(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return augment(images)

    assert torch.equal(seen(1), seen(1)) and not torch.equal(seen(1), seen(2))


def test_p_rises_where_d_overfits_falls_where_not_and_stays_in_range() -> None:
    augment = ADA(("blit",), kimg=1)  # p moves by 1 in a thousand images
    history = []
    for sure in (1.0, 0.5, 1.0):  # E[sign] 1, 0, 1
        for _ in range(16):
            augment.observe(torch.where(torch.arange(40) < 40 * sure, 2.0, -0.1))
            augment.adapt()
            history.append(round(float(augment.p), 4))
    assert history[:8] == [0, 0, 0, 0.16, 0.16, 0.16, 0.16, 0.32]
    assert history[15] == 0.64 and history[31] == 0 and min(history) == 0
    for _ in range(40):
        augment.observe(torch.ones(40))
        augment.adapt()
    assert augment.p == 1


def test_p_rests_while_d_has_seen_nothing() -> None:
    augment = ADA(("blit",), kimg=1)
    augment.p.fill_(0.5)
    for _ in range(8):
        augment.adapt()
    assert augment.p == 0.5


def test_ranks_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (ADA(("blit",), kimg=1, interval=1) for _ in range(2))
    one.observe(torch.cat([torch.ones(10), torch.ones(10)]))
    one.adapt()
    monkeypatch.setattr("genloom.parallel.world", lambda: 2)
    monkeypatch.setattr("genloom.parallel.mean", lambda x: x)  # two ranks that hold the same rows
    two.observe(torch.ones(10))
    two.adapt()
    assert one.p == two.p == torch.tensor(0.02)


def test_a_given_p_stays() -> None:
    augment = augmentation("ada-bg:0.25")
    for _ in range(8):
        augment.observe(torch.ones(1000))
        augment.adapt()
    assert augment.p == 0.25


@pytest.mark.parametrize("name", ["gan", "dcgan"])
def test_a_gan_resumes_its_p_exactly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AUGMENTATIONS, "ada", lambda: ADA(("blit", "geom", "color"), target=-1.5, kimg=0.1))
    data = open_data("digits")
    options = {"recipe": "tiny", "quiet": True, "seed": 9, "decay": 0.0, "batch_size": 8, "config": {"augment": "ada"}}
    straight = genloom.fit(name, data, tmp_path / "straight", steps=11, **options)
    genloom.fit(name, data, tmp_path / "halves", steps=6, **options)
    halves = genloom.fit(name, data, tmp_path / "halves", steps=11, **options)
    (a, _), (b, _) = (run.load_tensors("state/latest.safetensors") for run in (straight, halves))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert float(a["model.augment.p"]) == pytest.approx(0.64) and float(a["model.augment.seen"]) == 24
    assert genloom.sample(halves, 2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ["gan", "dcgan"])
@pytest.mark.parametrize("augment", ["none", "diffaugment", "ada-bgcfnc:0.8"])
def test_a_gan_takes_an_augmentation(name: str, augment: str) -> None:
    torch.manual_seed(0)
    cls = find(name)
    model = build(cls, Spec("image", (3, 16, 16)), {**cls.recipes["tiny"].model, "augment": augment}).train()
    with torch.autocast("cpu", torch.bfloat16):
        for phase in model.phases():
            terms = model({"image": pictures(4, 3, 16, 16)}, phase.name)
            assert all(torch.isfinite(t).all() for t in terms.values())
            model.zero_grad()
            sum(t.mean() for t in terms.values()).backward()
            grads = [p.grad for p in model.get_submodule(phase.moves[0]).parameters()]
            assert all(torch.isfinite(g).all() for g in grads) and any(g.any() for g in grads)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_names_and_settings_that_do_not_fit() -> None:
    for name, message in {
        "adda": "Did you mean 'ada'",
        "ada:2": "from 0 to 1",
        "ada:much": "'much'",
        "diffaugment:colour": "Did you mean 'color'",
        "none:1": "no setting",
    }.items():
        with pytest.raises(UserError, match=message):
            augmentation(name)


def test_the_default_is_the_papers() -> None:
    assert (
        augmentation("ada").transforms == augmentation("ada-bgc").transforms == ALL - {"imgfilter", "noise", "cutout"}
    )
    assert augmentation("ada-bgcfnc").transforms == ALL


# ── DiffAugment ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_diffaugment_colour_keeps_the_mean_but_for_brightness() -> None:
    torch.manual_seed(0)
    images = pictures(64, 3, 8, 8)
    made = augmentation("diffaugment:color")(images)
    shift = made.mean((1, 2, 3)) - images.mean((1, 2, 3))
    assert shift.abs().max() <= 0.5 and shift.min() < -0.4 and shift.max() > 0.4
    ratio = (made.mean(1).flatten(1).std(1)) / (images.mean(1).flatten(1).std(1))  # contrast, on grey
    assert 0.5 <= ratio.min() < 0.6 and 1.4 < ratio.max() <= 1.5


def test_diffaugment_moves_by_up_to_an_eighth_and_lets_zeros_in() -> None:
    images = pictures(3, 2, 16, 24) + 2
    ends = translation(images, torch.tensor([[0.999, 0.999, 0], [0.0, 0.0, 0], [0.5, 0.5, 0]]))
    torch.testing.assert_close(ends[0, :, 2:, 3:], images[0, :, :-2, :-3], rtol=0, atol=0)
    torch.testing.assert_close(ends[1, :, :-2, :-3], images[1, :, 2:, 3:], rtol=0, atol=0)
    assert not ends[0, :, :2].any() and not ends[0, :, :, :3].any()
    assert torch.equal(ends[2], images[2])


def test_diffaugment_blanks_a_box_of_half_a_side() -> None:
    u = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    for height, width in ((16, 16), (9, 14)):
        blank = cutout(torch.ones(200, 1, height, width), u) == 0
        sizes = blank.flatten(2).sum(2)
        assert sizes.max() == int(height / 2 + 0.5) * int(width / 2 + 0.5) and sizes.min() > 0
        assert blank.any(0).all()  # everywhere, in time
