"""Films from nothing: what a user would notice of their length, their first frames, their class and their movement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genloom.core import Batch, Model, Spec, build, find
from genloom.errors import UserError
from genloom.generate import draw
from genloom.models.video.videoflow import VideoFlow
from genloom.nn.spacetime import Attention, across, fold, turned, turns
from genloom.state import Options, State
from genloom.train import step

GREY = Spec("video", (1, 4, 16, 16), ("left", "right"))
COLOUR = Spec("video", (3, 5, 32, 48))
NAMES = ("mocogan", "videoflow")
every_model = pytest.mark.parametrize("name", NAMES)


def tiny(name: str, spec: Spec = GREY, **options: Any) -> Any:
    torch.manual_seed(0)
    cls = find(name)
    return build(cls, spec, {**cls.recipes["tiny"].model, **options})


def batch(spec: Spec = GREY, n: int = 6) -> Batch:
    made = {"video": torch.rand(n, *spec.shape) * 2 - 1}
    return made | ({"label": torch.arange(n) % len(spec.classes)} if spec.classes else {})


def squares(n: int, frames: int = 6, side: int = 16, seed: int = 0) -> Batch:
    """Clips [n, 1, T, side, side] of a square that goes left (label 0) or right (1), a pixel a frame."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=random)
    top, left = torch.randint(0, side - 5, (2, n), generator=random)
    clips = torch.full((n, 1, frames, side, side), -1.0)
    for i in range(n):
        for t in range(frames):
            x = int(left[i]) % (side - 5 - frames)
            x += t if labels[i] else frames - t
            clips[i, 0, t, top[i] : top[i] + 5, x : x + 5] = 1.0
    return {"video": clips, "label": labels}


def drift(clips: Tensor) -> Tensor:
    """[N] pixels a frame that what is bright goes to the right."""
    bright = (clips[:, 0] > 0).double()
    x = (bright * torch.arange(clips.shape[-1])).sum((2, 3)) / bright.sum((2, 3)).clamp_min(1)
    return (x[:, -1] - x[:, 0]) / (clips.shape[2] - 1)


def trained(name: str, make: Callable[[int], Batch], spec: Spec, *, steps: int, options: Options) -> State:
    torch.manual_seed(0)
    model = build(find(name), spec, options.model)
    model.prepare(make(0))
    state = State(model, options)
    for i in range(steps):
        step(state, make(i), options, i / steps)
    return state


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
@every_model
def test_losses_are_per_example_and_reach_every_parameter(name: str, spec: Spec) -> None:
    model = tiny(name, spec)
    reached = set()
    for phase in model.phases():
        for module in phase.moves or ("",):
            moved = dict(model.get_submodule(module).named_parameters(prefix=module))
            terms = model.loss(batch(spec), phase.name)
            assert all(v.shape == (6,) for v in terms.values())
            grads = torch.autograd.grad(sum(v.mean() for v in terms.values()), list(moved.values()), allow_unused=True)
            reached |= {k for k, g in zip(moved, grads, strict=True) if g is not None and bool(g.abs().max() > 0)}
    assert reached == {k for k, _ in model.named_parameters()}


@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
@every_model
def test_clips_are_as_the_data_are_and_item_i_is_of_seed_and_i_alone(name: str, spec: Spec) -> None:
    model = tiny(name, spec).eval()
    whole = draw(model, 5, seed=3, precision="fp32")
    assert whole.shape == (5, *spec.shape) and whole.abs().max() <= 1
    torch.testing.assert_close(model.sample(2, seed=3, start=3), whole[3:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.sample(2, seed=4, start=3), whole[3:], atol=1e-2)


@every_model
def test_longer_clips_begin_as_shorter_ones_and_shorter_ones_are_cut(name: str) -> None:
    model = tiny(name).eval()
    clip, length = model.sample(2, seed=1), GREY.shape[1]
    long = model.sample(2, seed=1, frames=3 * length + 1)
    assert long.shape[2] == 3 * length + 1
    torch.testing.assert_close(long[:, :, :length], clip)
    assert not torch.allclose(long[:, :, length : 2 * length], clip, atol=1e-2)  # it goes on, and does not begin again
    torch.testing.assert_close(model.sample(2, seed=1, frames=2), clip[:, :, :2])
    torch.testing.assert_close(model.sample(1, seed=1, start=1, frames=3 * length + 1), long[1:], rtol=1e-4, atol=1e-5)


@every_model
def test_a_label_is_a_class_of_the_data(name: str) -> None:
    model = tiny(name).eval()
    left, right = (model.sample(4, seed=2, label=i) for i in range(2))
    assert not torch.equal(left, right)
    torch.testing.assert_close(model.sample(4, seed=2, label=torch.tensor([0, 1, 0, 1]))[1::2], right[1::2])
    torch.testing.assert_close(model.sample(4, seed=2)[1::2], right[1::2])  # the classes in turn
    with pytest.raises(UserError, match="not one of the 2 classes"):
        model.sample(1, label=2)
    with pytest.raises(UserError, match="trained without"):
        tiny(name, COLOUR).sample(1, label=0)


@every_model
def test_what_cannot_be_made_is_said_in_a_sentence(name: str) -> None:
    with pytest.raises(UserError, match=r"divide by \d+, not 16x20"):
        tiny(name, Spec("video", (1, 4, 16, 20)))
    with pytest.raises(UserError, match="frames"):
        tiny(name).sample(1, frames=0)


# ── videoflow ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_prompt_is_what_a_clip_begins_with() -> None:
    model = tiny("videoflow").eval()
    prompt = batch(n=3)["video"][:, :, :2]
    clips = model.sample(3, seed=5, prompt=prompt)
    assert clips.shape == (3, *GREY.shape)
    torch.testing.assert_close(clips[:, :, :2], prompt)
    torch.testing.assert_close(model.sample(1, seed=5, start=2, prompt=prompt[2:]), clips[2:], rtol=1e-4, atol=1e-5)
    one = model.sample(3, seed=5, prompt=prompt[0])  # one for all
    torch.testing.assert_close(one[0], clips[0])
    torch.testing.assert_close(one[2, :, :2], prompt[0])


def test_a_long_prompt_goes_on_and_a_prompt_that_is_too_long_is_refused() -> None:
    model = tiny("videoflow").eval()
    film = batch(Spec("video", (1, 9, 16, 16)), 1)["video"][0]
    made = model.sample(2, prompt=film)
    assert made.shape == (2, 1, 9 + 2, 16, 16)
    torch.testing.assert_close(made[1, :, :9], film)
    assert model.sample(1, prompt=film, frames=14).shape[2] == 14
    last = film.clone()
    last[:, :7] = 0  # only half a clip is looked back on
    torch.testing.assert_close(model.sample(2, prompt=last)[:, :, 9:], made[:, :, 9:])
    with pytest.raises(UserError, match="9 frames already"):
        model.sample(1, prompt=film, frames=9)
    with pytest.raises(UserError, match=r"\[1, t, 16, 16\]"):
        model.sample(1, prompt=torch.zeros(3, 2, 16, 16))


def test_given_frames_are_seen_and_not_learnt() -> None:
    """With everything but the last two of four frames given, the loss is that of the two alone."""
    model = tiny("videoflow")
    some = batch(n=4)
    model._given = lambda count: torch.tensor([True, True, False, False]).expand(count, 4)
    torch.manual_seed(1)
    before = model.loss(some, "all")["flow"]
    for name, p in model.net.named_parameters():
        if name.startswith("head"):
            nn.init.zeros_(p)  # the network says nothing: what is left is the target itself
    torch.manual_seed(1)
    silent = model.loss(some, "all")["flow"]
    some["video"][:, :, :2] = 0
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(some, "all")["flow"], silent)
    assert not torch.allclose(before, silent)


def test_most_clips_are_learnt_from_nothing_and_none_is_given_whole() -> None:
    model = VideoFlow(Spec("video", (1, 8, 16, 16)), width=8, levels=2)
    given = model._given(4000)
    counts = given.sum(1)
    assert torch.equal(given, torch.arange(8) < counts[:, None])  # the first ones
    assert float((counts == 0).double().mean()) == pytest.approx(0.5, abs=0.03)
    shares = torch.bincount(counts, minlength=9).double()[1:] / len(counts)
    assert (shares[:4] > 0.03).all() and shares[0] > 2 * shares[1] and not shares[4:].any()
    assert VideoFlow(Spec("video", (1, 1, 16, 16)), width=8, levels=2)._given(50).sum() == 0


def test_videoflow_learns_which_way_a_square_goes() -> None:
    """In seconds: the loss falls by far, a class is a direction, and a given square goes on from where it is."""
    spec = Spec("video", (1, 6, 16, 16), ("left", "right"))
    options = Options(batch_size=16, lr=2e-2, optimiser="muon", ema=0.95, model={"width": 16, "levels": 2, "patch": 2})
    state = trained("videoflow", lambda i: squares(16, seed=i), spec, steps=200, options=options)
    with torch.no_grad():
        torch.manual_seed(0)
        loss = float(state.average.loss(squares(64, seed=999), "all")["flow"].mean())
    assert loss < 0.12, loss
    left, right = drift(state.average.sample(32, seed=1, label=torch.arange(32) % 2)).view(16, 2).mean(0)
    assert right - left > 0.6, (left, right)
    start = squares(8, seed=7)["video"][:, :, :1]
    on = state.average.sample(8, seed=2, label=1, prompt=start)
    torch.testing.assert_close(on[:, :, :1], start)
    moved = on[:, :, 1] > 0
    assert float((moved & (start.roll(1, -1)[:, :, 0] > 0)).sum() / moved.sum().clamp_min(1)) > 0.8


# ── mocogan ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_content_stays_while_motion_goes_on() -> None:
    model = tiny("mocogan").eval()
    codes = model.latents(1).repeat(2, 1)
    codes[1, model.latent :] = torch.randn(codes.shape[1] - model.latent)
    same, other = model.make(codes, torch.zeros(2, dtype=torch.int64))
    assert not torch.allclose(same, other)
    codes[1] = codes[0]
    codes[1, -model.motion :] += 1  # what pushes the last frame moves the last frame alone
    first, second = model.make(codes, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(first[:, :-1], second[:, :-1])
    assert not torch.allclose(first[:, -1], second[:, -1])


def test_a_window_is_a_part_of_the_clip_that_would_have_been_made() -> None:
    model = tiny("mocogan", window=2).eval()
    codes, labels = model.latents(4), torch.arange(4) % 2
    moments = model.moments(4)
    assert moments.shape == (4, 2) and int(moments.min()) >= 0 and int(moments.max()) < GREY.shape[1]
    whole, part = model.make(codes, labels), model.generator(codes, labels, moments)
    for i, numbers in enumerate(moments):
        torch.testing.assert_close(part[i], whole[i][:, numbers])


def test_one_critic_sees_frames_and_the_other_their_order() -> None:
    """Frames in another order are as good pictures, and another clip."""
    model: Model = tiny("mocogan").eval()
    critics: Any = model.discriminator
    clips, labels = batch(n=3)["video"], torch.zeros(3, dtype=torch.int64)
    assert not torch.allclose(critics.clips(clips, labels), critics.clips(clips.flip(2), labels))
    every = torch.stack([critics.pictures(clips[:1, :, t : t + 1], labels[:1]).flatten() for t in range(4)])
    seen = critics(clips[:1], labels[:1], 64)["pictures"]
    apart = (seen.flatten()[:, None] - every.flatten()).abs()
    assert max(apart.amin(1).max(), apart.amin(0).max()) < 1e-4  # each score is a frame's, and each frame was seen


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_layer_across_frames_is_a_convolution_over_time() -> None:
    clips = torch.randn(2, 3, 5, 4, 6)
    flat, deep = nn.Conv2d(3, 7, (3, 1), padding=(1, 0)), nn.Conv3d(3, 7, (3, 1, 1), padding=(1, 0, 0))
    deep.load_state_dict({"weight": flat.weight[..., None], "bias": flat.bias})
    frames = fold(clips).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(across(flat, frames, 5), fold(deep(clips)), rtol=1e-4, atol=1e-5)


def test_attention_knows_how_far_apart_places_are_and_not_where() -> None:
    q, k = torch.randn(2, 1, 1, 1, 32)
    angles = turns(4, 5, 6, 16, torch.device("cpu")).view(4, 5, 6, 16)

    def product(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        return float((turned(q, angles[a][None]) * turned(k, angles[b][None])).sum())

    near = product((0, 1, 2), (2, 2, 1))
    assert product((1, 3, 4), (3, 4, 3)) == pytest.approx(near, abs=1e-4)
    for other in ((3, 2, 1), (2, 3, 1), (2, 2, 2)):
        assert abs(product((0, 1, 2), other) - near) > 1e-4


def test_attention_lets_every_frame_see_every_other() -> None:
    layer = Attention(32)
    x = torch.randn(2 * 3, 32, 2, 2, requires_grad=True)  # two clips of three frames
    (grad,) = torch.autograd.grad(layer(x, 3)[0].square().sum(), x)
    reached = grad.flatten(1).abs().amax(1) > 0
    assert reached.tolist() == [True] * 3 + [False] * 3  # and no other clip
