"""vid2vid: the authors' networks to the number, what its losses see, and films made frame by frame."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from genloom import core, generate
from genloom.core import Spec
from genloom.errors import UserError
from genloom.models.video.vid2vid import Vid2Vid
from genloom.nn.norm import InstanceNorm
from genloom.nn.vid2vid import CompositeGenerator, Frame, LocalGenerator
from genloom.nn.warp import warp
from genloom.nn.weights import load_exactly
from genloom.objectives.film_critics import matched, moving
from genloom.objectives.films import explained, halved, sure_error, warped, window

GOLDEN = Path(__file__).parent / "golden"
MODES = ("eval", "train")
AT = {"image": "img_final", "raw": "img_raw", "flow": "flow", "weight": "weight", "image_features": "img_feat"}


def golden(case: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """Weights, inputs and outputs, and the arguments of one case."""
    path = GOLDEN / f"vid2vid_{case}.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    return {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}, tensors, config


def make(channels: int = 3, source: int = 3, height: int = 16, width: int = 32, **config: object) -> Vid2Vid:
    torch.manual_seed(0)
    extra = {"source_channels": source, "serves": ["films"], "rate": 25.0}
    cls = core.find("vid2vid")
    options = {**cls.recipes["tiny"].model, **config}
    return core.build(cls, Spec("video", (channels, int(options["frames"]), height, width), extra=extra), options)


def clips(model: Vid2Vid, n: int = 2) -> core.Batch:
    g = torch.Generator().manual_seed(1)
    c, t, h, w = model.spec.shape
    shapes = {
        "video": (c, t, h, w),
        "source": (int(model.spec.extra["source_channels"]), t, h, w),
        "flow": (2, t - 1, h, w),
    }
    made = {k: torch.rand(n, *s, generator=g) * 2 - 1 for k, s in shapes.items()}
    return made | {"confidence": torch.ones(n, 1, t - 1, h, w)}


def same_frame(frame: Frame, io: dict[str, Tensor], mode: str) -> None:
    for ours, theirs in AT.items():
        torch.testing.assert_close(getattr(frame, ours), io[f"{mode}.{theirs}"], rtol=0, atol=2e-5)
    torch.testing.assert_close(frame.flow_features, io[f"{mode}.flow_feat"], rtol=0, atol=2e-5)


# ── the authors' numbers ─────────────────────────────────────────────────────────────────────────────────────────
def test_the_coarsest_generator_is_the_authors() -> None:
    weights, io, config = golden("composite_bn")
    model = Vid2Vid.from_reference(weights, config)
    assert not model.training
    generator = model.generators[0]
    for mode in MODES:
        generator.train(mode == "train")
        with torch.no_grad():
            same_frame(generator(io["input"], io["img_prev"]), io, mode)


def test_the_coarsest_generator_with_a_foreground_is_the_authors() -> None:
    weights, io, config = golden("composite_fg_instance")
    sizes = (config[k] for k in ("input_nc", "output_nc", "prev_output_nc", "ngf", "n_downsample", "n_blocks"))
    generator = CompositeGenerator(*sizes, norm="tracked", fg=True)
    load_exactly(generator, weights, "the generator")
    for mode in MODES:
        generator.train(mode == "train")
        with torch.no_grad():
            same_frame(generator(io["input"], io["img_prev"], mask=io["mask"]), io, mode)
    with pytest.raises(UserError, match="8 channels"):
        Vid2Vid.from_reference(weights, config)


def test_a_finer_generator_is_the_authors() -> None:
    weights, io, config = golden("composite_local_bn")
    sizes = (config[k] for k in ("input_nc", "output_nc", "prev_output_nc", "ngf", "n_blocks_local", "scale"))
    generator = LocalGenerator(*sizes, norm="batch")
    load_exactly(generator, weights, "the finer generator")
    below = Frame(*[torch.empty(0)] * 4, io["img_feat_coarse"], io["flow_feat_coarse"])
    for mode in MODES:
        generator.train(mode == "train")
        with torch.no_grad():
            same_frame(generator(io["input"], io["img_prev"], below), io, mode)


@pytest.mark.parametrize("case", ["disc_bn_feat", "disc_instance_nofeat"])
def test_the_critics_are_the_authors(case: str) -> None:
    weights, io, config = golden(case)
    critic = Vid2Vid.from_reference(weights, config).critics["image"]
    for mode in MODES:
        critic.train(mode == "train")
        with torch.no_grad():
            found = critic(io["img"])
        for scale, features in enumerate(found):
            wanted = [io[k] for k in sorted(io) if k.startswith(f"{mode}.scale{scale}.")]
            for a, b in zip(features[-len(wanted) :], wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_several_networks_of_the_authors_are_one_model_and_sample_with_the_statistics_of_the_frame() -> None:
    weights, io, config = golden("composite_bn")
    critic, _, critic_config = golden("disc_bn_feat")
    both = {f"G0.{k}": v for k, v in weights.items()} | {f"D.{k}": v for k, v in critic.items()}
    model = Vid2Vid.from_reference(both, {"G0": config, "D": critic_config})
    kept = {k: v.clone() for k, v in model.generators.state_dict().items()}
    shown = model.stream(iter([io["input"][:, i : i + 3] for i in (0, 3, 6)]))
    with torch.inference_mode():
        frames = list(shown)
    assert len(frames) == 3 and all(f.abs().max() <= 1 for f in frames)
    assert all(torch.equal(v, kept[k]) for k, v in model.generators.state_dict().items() if "tracked" not in k)
    model.statistics = "running"
    with torch.inference_mode():
        others = list(model.stream(iter([io["input"][:, i : i + 3] for i in (0, 3, 6)])))
    assert not torch.allclose(frames[-1], others[-1], atol=1e-3)


def test_import_reads_the_authors_checkpoint(tmp_path: Path) -> None:
    from genloom.api import import_, load

    weights, io, config = golden("composite_bn")
    torch.save(weights, tmp_path / "latest_net_G0.pth")
    run = import_("vid2vid", tmp_path / "latest_net_G0.pth", tmp_path / "run", config=config)
    with torch.no_grad():
        frame = load(run).generators[0](io["input"], io["img_prev"])  # type: ignore[operator]
    same_frame(frame, io, "eval")


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    weights, _, config = golden("composite_bn")
    with pytest.raises(UserError, match="model_res_flow"):
        Vid2Vid.from_reference({k: v for k, v in weights.items() if "res_flow" not in k}, config)
    with pytest.raises(UserError, match="n_blocks"):
        Vid2Vid.from_reference(weights, {**config, "n_block": 3})


# ── what the losses see ──────────────────────────────────────────────────────────────────────────────────────────
def test_the_right_flow_costs_nothing_and_hidden_pixels_do_not_count() -> None:
    video = torch.rand(2, 3, 3, 12, 16)
    flow = torch.zeros(2, 2, 2, 12, 16)
    flow[:, 0] = 2.0
    for t in range(2):
        video[:, :, t + 1] = warp(video[:, :, t], flow[:, :, t])
    assert (warped(video, flow) - video[:, :, 1:]).abs().max() < 1e-5
    assert explained(video, flow).min() == 1
    off, sure = torch.ones(2, 2, 2, 4, 4), torch.ones(2, 1, 2, 4, 4)
    assert sure_error(off, sure).tolist() == [1.0, 1.0]
    sure[:, :, :, 2:] = 0
    off[:, :, :, 2:] = 100.0
    assert sure_error(off, sure).tolist() == [1.0, 1.0]  # half the pixels, the same mean
    assert sure_error(off, sure * 0).tolist() == [0.0, 0.0]


def test_critics_of_motion_see_frames_and_the_flow_between_them() -> None:
    frames = torch.arange(7.0)[None, None, :, None, None].expand(2, 1, 7, 8, 8)
    flow = torch.full((2, 2, 6, 8, 8), 0.5)
    near, far = moving(frames, flow, 1), moving(frames, flow, 3)
    assert near.shape == (10, 7, 8, 8) and far.shape == (2, 7, 8, 8)
    assert near[:5, :3, 0, 0].tolist() == [[i, i + 1, i + 2] for i in range(5)]
    assert far[0, :, 4, 4].tolist() == [0, 3, 6, 1.5, 1.5, 1.5, 1.5]  # three steps at once


def test_features_of_equals_match() -> None:
    features = [[torch.rand(2, 3, 4, 4), torch.rand(2, 1, 2, 2)]]
    assert matched(features, features).tolist() == [0.0, 0.0]
    other = [[features[0][0] + 1, features[0][1] + 5]]  # logits do not count
    torch.testing.assert_close(matched(other, features), torch.ones(2))


def test_sources_before_the_first_are_the_first() -> None:
    source = torch.arange(4.0)[None, None, :, None, None]
    assert window(source, 0, 2).flatten().tolist() == [0, 0, 0]
    assert window(source, 3, 2).flatten().tolist() == [1, 2, 3]


def test_half_the_size_is_half_the_flow() -> None:
    small = halved(clips(make()))
    assert small["video"].shape[3:] == (8, 16) and small["flow"].shape[3:] == (8, 16)
    still = halved({"flow": torch.full((1, 2, 1, 8, 8), 4.0), "confidence": torch.ones(1, 1, 1, 8, 8)})
    assert still["flow"].unique().tolist() == [2.0] and still["confidence"].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    "config", [{}, {"raw": True}, {"norm": "batch"}, {"levels": 2, "coarse": 0.5}, {"detach": False}]
)
def test_all_terms_are_there_and_move_what_they_should(config: dict) -> None:
    model = make(reconstruction=1.0, **config)
    batch = clips(model)
    for progress in (0.0, 1.0):
        model.after_step(progress)
        torch.manual_seed(2)
        terms = model.loss(batch, "generator")
        assert {"image", "image_features", "l1", "flow", "warp", "steady", "trust"} <= set(terms)
        assert all(v.shape == (2,) and v.isfinite().all() for v in terms.values())
        judged = model.loss(batch, "critics")
        assert {"image_critic", "time0_critic"} <= set(judged) and ("raw_critic" in judged) == ("raw" in config)
    model.zero_grad()
    torch.stack([v.mean() for v in terms.values()]).sum().backward()
    used = {
        k: p
        for k, p in model.generators.named_parameters()
        if len(model.generators) == 1 or not k.startswith("0.model_final")
    }
    assert all(p.grad is not None and p.grad.isfinite().all() for p in used.values())


def test_critics_judge_the_frames_that_the_generator_just_made() -> None:
    model = make(blank=0.0)
    batch = clips(model)
    model.loss(batch, "generator")
    kept = dict(model.made)
    with torch.no_grad():
        for p in model.generators.parameters():
            p.add_(1.0)  # as a step would
    after = model.loss(batch, "critics")
    assert kept and not model.made
    again = model.loss(batch, "critics")  # without them they are made anew, by what the generator is now
    assert not torch.equal(after["image_critic"], again["image_critic"])


def test_clips_grow_with_training() -> None:
    model = make(frames=8, growth=0.5, blank=0.0)
    lengths = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        model.after_step(progress)
        lengths.append(model.cut(clips(model), 2)["video"].shape[2])
    assert lengths == [4, 6, 8, 8]


def test_frames_painted_at_once_are_those_painted_after_the_same_ones() -> None:
    model = make(at_once=0.5, blank=1.0, growth=0.0).eval()
    model.after_step(0.0)
    batch = clips(model)
    windows = [window(batch["source"], t, 2) for t in range(5)]
    blank = [torch.zeros_like(batch["video"][:, :, 0])] * 2
    with torch.no_grad():
        made = model.roll(batch, 0, 1)
        guesses = [model.paint(x, blank, warps=False, used=1).image for x in windows]
        third = model.paint(windows[3], guesses[1:3], warps=True, used=1)
        torch.testing.assert_close(made.images[:, :, 0], guesses[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.images[:, :, 3], third.image, rtol=1e-4, atol=1e-5)
        assert made.moved == [1, 2, 3, 4] and made.flow is not None
        torch.testing.assert_close(made.flow[:, :, 2], third.flow, rtol=1e-4, atol=1e-4)
        model.after_step(0.5)  # from now on, one after another
        rolled = model.roll(batch, 0, 1).images
    torch.testing.assert_close(rolled[:, :, :2], made.images[:, :, :2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(rolled[:, :, 3], made.images[:, :, 3])
    one = make(at_once=1.0, frames=3)  # a clip of which one frame is made
    one.after_step(0.0)
    assert one.roll(one.cut(clips(one), 2), 2, 1).images.shape[2] == 1


def test_memory_comes_in_once_frames_are_painted_well_by_themselves() -> None:
    model = make(alone=0.4, at_once=0.8, blank=1.0)
    batch = clips(model)
    model.prepare(batch)
    model.zero_grad()
    terms = model.loss(batch, "generator")
    torch.stack([v.mean() for v in terms.values()]).sum().backward()
    assert not {"flow", "warp", "time0"} & set(terms)
    assert all(p.grad is None for p in model.generators[0].model_down_img.parameters())
    shares = []
    for progress in (0.3, 0.5, 0.6, 1.0):
        model.after_step(progress)
        shares.append(round(model.course.memory(), 6))
    assert shares == [0.0, 0.5, 1.0, 1.0] and {"flow", "warp", "time0"} <= set(model.loss(batch, "generator"))
    model.prepare(batch)  # of another run, that starts from this one
    assert model.course.memory() == 1.0


def test_the_raw_picture_is_held_to_the_real_one_too() -> None:
    model = make(reconstruction=1.0, blank=1.0)
    torch.manual_seed(0)
    model.generators[0].model_final_w[1].bias.data.fill_(-50.0)  # all of a frame is moved from the last
    terms = model.loss(clips(model), "generator")
    model.zero_grad()
    terms["raw_l1"].mean().backward()
    assert model.generators[0].model_final_img[1].weight.grad.abs().sum() > 0


def test_without_memory_each_frame_is_made_by_itself() -> None:
    model = make(previous=0, time_scales=0)
    assert (
        Vid2Vid.asks({"frames": 5, "teacher": "dis", "previous": 0, "flow": True, "time_scales": 1})["flow"] == "none"
    )
    batch = {k: v for k, v in clips(model).items() if k in ("video", "source")}
    assert "flow" not in model.loss(batch, "generator")
    whole = model.eval().sample(2, source=batch["source"])
    alone = model.sample(2, source=batch["source"][:, :, 3:4])
    torch.testing.assert_close(whole[:, :, 3:4], alone)


def test_an_unknown_perceptual_loss_and_one_whose_weights_are_not_there(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match="lite0"):
        make(perceptual="lite")
    monkeypatch.setenv("GENLOOM_VGG19", str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="there is no such file"):
        make(perceptual="vgg19")


def test_vgg19_is_used_where_its_weights_are(tmp_path: Path, monkeypatch) -> None:
    from genloom.metrics.vgg import Vgg19

    torch.manual_seed(0)
    net = Vgg19()
    names = [k for k in net.state_dict() if k.endswith("weight")]
    assert (
        names[:3] == ["features.0.weight", "features.2.weight", "features.5.weight"]
        and names[-1] == "features.28.weight"
    )
    torch.save(net.state_dict() | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg19-test.pth")
    monkeypatch.setenv("GENLOOM_VGG19", str(tmp_path / "vgg19-test.pth"))
    model = make(perceptual="vgg19", height=32)
    assert model.loss(clips(model), "generator")["likeness"].min() > 0
    assert not any("look" in k for k in model.state_dict())
    maps = net.scales(torch.zeros(1, 1, 32, 32))
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512, 512]


# ── films ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_film_comes_out_frame_by_frame_and_as_a_clip_alike() -> None:
    model = make(frames=6).eval()
    source = clips(model)["source"]
    with torch.inference_mode():
        whole = model.sample(1, source=source[:1])
        frames = list(model.stream(source[:1, :, t] for t in range(6)))
    torch.testing.assert_close(whole, torch.stack(frames, 2))
    assert whole.abs().max() <= 1


def test_a_first_frame_is_kept_and_shapes_the_next() -> None:
    model = make().eval()
    source = clips(model)["source"]
    first = torch.rand(3, 16, 32) * 2 - 1
    with torch.inference_mode():
        given, plain = model.sample(2, source=source, first=first), model.sample(2, source=source)
    assert torch.equal(given[0, :, 0], first) and torch.equal(given[1, :, 0], first)
    assert not torch.allclose(given[:, :, 1], plain[:, :, 1], atol=1e-4)


def test_a_first_picture_s_file_begins_a_film(tmp_path: Path) -> None:
    model = make().eval()
    Image.new("RGB", (32, 16), (255, 0, 0)).save(tmp_path / "first.png")
    given = generate.checked(model, {"first": tmp_path / "first.png"})
    frames = list(generate.streamed(model, torch.zeros(3, 1, 3, 16, 32), **given))
    assert [f.shape for f in frames] == [(1, 3, 16, 32)] * 3
    assert frames[0].mean((0, 2, 3)).tolist() == [1, -1, -1]


def test_a_still_model_that_makes_no_frames_of_sources_is_refused() -> None:
    model = make().eval()
    unconditional = core.build(core.find("dcgan"), Spec("image", (3, 16, 16)), core.find("dcgan").recipes["tiny"].model)
    for still in (unconditional, model):
        with pytest.raises(UserError, match="fit pix2pix"):
            next(model.stream(iter(torch.zeros(2, 1, 3, 16, 32)), still=still))


def test_no_more_frames_are_kept_than_it_looks_back_at() -> None:
    model, alive, most = make(height=16, width=16).eval(), weakref.WeakSet[Tensor](), 0

    def frames(n: int) -> Iterator[Tensor]:
        for _ in range(n):
            frame = torch.zeros(1, 3, 16, 16)
            alive.add(frame)
            yield frame

    with torch.inference_mode():
        for image in model.stream(frames(40)):
            alive.add(image)
            most = max(most, len(alive))
    assert most <= 2 * (model.previous + 2)


def test_sources_of_another_shape_are_refused() -> None:
    model = make().eval()
    with pytest.raises(UserError, match=r"\[2, 3, T, H, W\]"):
        model.sample(2, source=torch.zeros(2, 1, 5, 16, 32))
    with pytest.raises(UserError, match="--source"):
        make().eval().sample(1)


def test_a_foreground_is_painted_by_its_own_branch() -> None:
    model = make(source=2, foreground=(1,)).eval()
    source = torch.full((1, 2, 2, 16, 32), -1.0)
    source[:, 1, :, :, 16:] = 1.0
    with torch.inference_mode():
        before = model.sample(1, source=source)
        model.generators[0].indv_final[1].bias.add_(0.5)  # type: ignore[union-attr, operator]
        after = model.sample(1, source=source)
    assert torch.equal(before[..., :16][:, :, 0], after[..., :16][:, :, 0])
    assert (after[..., 16:] - before[..., 16:]).abs().min() > 0
    with pytest.raises(UserError, match=r"--model\.levels"):
        make(source=2, foreground=(1,), levels=2)


def test_instance_norm_is_the_same_in_both_layouts() -> None:
    x = torch.randn(3, 5, 9, 7, requires_grad=True)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    norm, grad = InstanceNorm(5), torch.randn(3, 5, 9, 7)
    a, b = norm(x), norm(last)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert b.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        *(torch.autograd.grad(y, z, grad)[0] for y, z in ((a, x), (b, last))), rtol=1e-4, atol=1e-5
    )


def test_a_generator_says_which_sizes_it_takes() -> None:
    generator = CompositeGenerator(3, 3, 6, 4, 3, 2)
    with pytest.raises(UserError, match="divide by 8"):
        generator(torch.zeros(1, 3, 20, 16), torch.zeros(1, 6, 20, 16))


def test_a_checkpoint_in_safetensors_tells_its_networks_apart(tmp_path: Path) -> None:
    from genloom.api import import_, load

    weights, _, config = golden("composite_bn")
    save_file({f"G0.{k}": v for k, v in weights.items()}, tmp_path / "both.safetensors")
    run = import_("vid2vid", tmp_path / "both.safetensors", tmp_path / "run", config={"G0": config})
    assert load(run).config["previous"] == 2
