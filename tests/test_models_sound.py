"""Quantisers, the codec and what writes its codes: official numbers, and what each promises."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_data_audio import folder
from test_data_sound import tone, wav
from torch import Tensor

import genloom
from genloom.cli import main
from genloom.core import Phase, build, find
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.data.sound import read
from genloom.errors import UserError
from genloom.models.audio.codec import TINY, Codec
from genloom.models.audio.sound import Sound, delayed, joined, undelayed
from genloom.nn.quantise import Codebook, MovingCodebook, Quantised, Residual
from genloom.text.logits import Sampling

GOLDEN = Path(__file__).parent / "golden"
CLOSE = {"atol": 2e-5, "rtol": 1e-5}
FACTOR = 0.25  # of the commitment, in all goldens


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"vq_{name}.safetensors")


# ── quantisers ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_learnt_codebook_chooses_and_learns_as_pythae_s() -> None:
    io = golden("learnt")
    book, z = Codebook(16, 6), io["z"].requires_grad_()  # [B, H, W, C]
    with torch.no_grad():
        book.vectors.copy_(io["embeddings.weight"])
    found = book(z)
    assert torch.equal(found.codes[:, None], io["eval.indices"])
    out = found.values.permute(0, 3, 1, 2)
    torch.testing.assert_close(out, io["eval.quantized"], **CLOSE)
    loss = (FACTOR * found.commitment + found.codebook).sum() * z[0].numel()  # theirs are sums
    torch.testing.assert_close(loss, io["eval.loss"][0], **CLOSE)
    slopes = torch.autograd.grad(loss + (out * io["upstream"]).sum(), [z, book.vectors])
    torch.testing.assert_close(slopes[0], io["eval.grad_z"], **CLOSE)
    torch.testing.assert_close(slopes[1], io["eval.grad_embeddings"], **CLOSE)


def moving(io: dict[str, Tensor]) -> MovingCodebook:
    book = MovingCodebook(16, 6, decay=0.99, restart=0)
    theirs = {"vectors": "embeddings", "counts": "cluster_size", "sums": "ema_embed"}
    book.load_state_dict({ours: io[name] for ours, name in theirs.items()})
    return book


def same_as(found: Quantised, io: dict[str, Tensor], at: str) -> None:
    assert torch.equal(found.codes[:, None], io[f"{at}.indices"])
    torch.testing.assert_close(found.values.permute(0, 3, 1, 2), io[f"{at}.quantized"], **CLOSE)
    loss = FACTOR * found.commitment.sum() * found.values[0].numel()
    torch.testing.assert_close(loss, io[f"{at}.loss"][0], **CLOSE)


def test_a_moving_codebook_moves_as_pythae_s() -> None:
    io = golden("moving")
    book, z = moving(io).eval(), io["z"].clone().requires_grad_()
    found = book(z)
    same_as(found, io, "eval")
    whole = FACTOR * found.commitment.sum() * z[0].numel()
    (slope,) = torch.autograd.grad(whole + (found.values.permute(0, 3, 1, 2) * io["upstream"]).sum(), z)
    torch.testing.assert_close(slope, io["eval.grad_z"], **CLOSE)
    assert torch.equal(book.vectors, io["embeddings"])  # looking moves nothing
    book.train()
    for i, name in enumerate(("z", "z2", "z")):
        same_as(book(io[name]), io, f"train{i}")
        for ours, theirs in (("counts", "cluster_size"), ("sums", "ema_embed"), ("vectors", "embeddings")):
            torch.testing.assert_close(getattr(book, ours), io[f"train{i}.after.{theirs}"], **CLOSE)


def test_both_weightings_of_the_two_losses_as_taming_s() -> None:
    io, book = golden("taming"), Codebook(24, 8)
    with torch.no_grad():
        book.vectors.copy_(io["embedding"])
    found = book(io["pre_quant"].permute(0, 2, 3, 1))
    assert torch.equal(found.codes.flatten(), io["indices"])
    torch.testing.assert_close(found.values.permute(0, 3, 1, 2), io["quant"], **CLOSE)
    torch.testing.assert_close(book.vectors[found.codes].permute(0, 3, 1, 2), io["codebook_entry"], **CLOSE)
    legacy = found.commitment + FACTOR * found.codebook  # what is published weighs the wrong one
    torch.testing.assert_close(legacy.mean(), io["quant_loss"][0], **CLOSE)
    right = FACTOR * found.commitment + found.codebook
    torch.testing.assert_close(right, legacy)  # in numbers the two are one; in slopes they are not


def test_the_first_batch_fills_a_book_and_codes_that_die_begin_again() -> None:
    torch.manual_seed(0)
    book = MovingCodebook(32, 4)
    near = torch.randn(1, 500, 4) / 100 + 5
    for _ in range(3):
        book(near)
    assert (book.vectors - 5).abs().max() < 0.1 and len(book(near).codes.unique()) > 24
    far = torch.randn(1, 500, 4) / 100 - 5
    for _ in range(400):
        book(torch.cat([near[:, :8], far], 1))
    assert len(book.eval()(far).codes.unique()) > 16  # codes have gone over to where the data now is


def test_each_stage_halves_what_is_left_and_codes_say_it_all() -> None:
    torch.manual_seed(0)
    net, x = Residual([MovingCodebook(64, 4) for _ in range(3)]), torch.randn(2, 400, 4)
    for _ in range(60):
        net(x)
    net.eval()
    codes = net.codes(x)
    errors = [float((net.values(codes[:, :k]) - x).square().mean()) for k in (1, 2, 3)]
    assert codes.shape == (2, 3, 400) and errors[0] < 0.3 and errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2
    z = x.clone().requires_grad_()
    found = net(z)
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.values, net.values(codes))
    (slope,) = torch.autograd.grad(found.values.sum(), z)
    assert torch.equal(slope, torch.ones_like(z))  # straight through, once


# ── the codec ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tones of two classes, 8 kHz, 0.4 s."""
    files = {
        f"{kind}__{i}_wav": wav(tone(8000, 1.0, pitch * (1 + i / 20)), 8000).getvalue()
        for kind, pitch in (("high", 900), ("low", 200))
        for i in range(6)
    }
    return open_data(folder(tmp_path_factory.mktemp("tones"), **files), seconds=0.4)


def make(cls: type, data: Dataset, **options: object) -> Codec:
    torch.manual_seed(0)
    extra = {} if cls is Codec else {"depth": 2, "breadth": 32, "heads": 2}
    model = build(cls, data.spec, TINY | extra | options)
    model.prepare(data.batch(np.arange(8)))
    model.loss(data.batch(np.arange(8)), "generator")  # fills the codebooks
    return model.eval()


def test_a_wave_s_codes_are_a_frame_each_and_its_pieces_stream(music: Dataset) -> None:
    model, wave = make(Codec, music), music.batch(np.arange(2))["audio"]
    codes = model.encode(wave)
    assert codes.shape == (2, 2, 3200 // 64) and codes.dtype == torch.int64 and 0 <= codes.min() <= codes.max() < 16
    with torch.no_grad():
        made = model.decode(codes)
        assert made.shape == (2, 1, 3200)
        torch.testing.assert_close(made, model.vocode(model.mel(wave)).clamp(-1, 1))
        pieces = torch.cat([*model.stream(wave[:1].split(700, 2), waves=True)], 2)
        torch.testing.assert_close(pieces, model.vocode(model.mel(wave[:1])), atol=1e-5, rtol=1e-4)
    (again,) = model.sample(1, source=wave[0])
    torch.testing.assert_close(again, made[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (Codec, {"stages": 0}, "1 or more --model.stages"),
        (Codec, {"mel": TINY["mel"] + ",edges=centre"}, "edges=same"),
        (Sound, {"learn": 1.0}, "from 0 to below 1, not 1.0"),
        (Sound, {"breadth": 30, "heads": 4}, "--model.breadth 30 must share out to 4 heads"),
    ],
)
def test_what_cannot_be_built_says_what_to_give(music: Dataset, cls: type, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(cls, music, **options)


# ── what writes codes ────────────────────────────────────────────────────────────────────────────────────────────
def test_later_stages_come_later() -> None:
    codes = torch.arange(12).view(1, 3, 4)
    columns = delayed(codes, -1)
    assert columns[0].T.tolist() == [[0, 1, 2, 3, -1, -1], [-1, 4, 5, 6, 7, -1], [-1, -1, 8, 9, 10, 11]]
    assert torch.equal(undelayed(columns), codes)


def test_the_codec_comes_first_then_the_transformer(music: Dataset) -> None:
    phases = {p.name: p for p in make(Sound, music, learn=0.5, alone=0.4).phases()}
    assert [*phases] == ["next", "similar", "generator", "discriminator"]
    assert phases["similar"].span == (0, 0.2) and phases["generator"].span == (0.2, 0.5)
    assert phases["next"].span == (0.5, 1.0) and phases["next"].rate_at(0.99) == 1
    fall = [phases["generator"].rate_at(p) for p in (0.2, 0.35, 0.425, 0.5)]
    assert fall == pytest.approx([1, 1, 0.5, 0]) and Phase("all").rate_at(1.0) == 1


def test_the_loss_is_that_of_each_code_after_those_before_it(music: Dataset) -> None:
    model = make(Sound, music, learn=0.5)
    batch = music.batch(np.arange(4))
    fresh = model.loss(batch, "next")["nats"]
    assert fresh.shape == (4,) and fresh.detach().numpy() == pytest.approx(math.log(17), abs=0.2)
    codes = model.encode(batch["audio"])
    columns = delayed(codes, model.codes)
    with torch.no_grad():
        whole = model.scores(model.network.features(model.begun(columns[:, :-1], batch["label"])))
        changed = columns.clone()
        changed[:, 20, 1] = (changed[:, 20, 1] + 1) % 16
        other = model.scores(model.network.features(model.begun(changed[:, :-1], batch["label"])))
    assert torch.equal(whole[:, :21], other[:, :21]) and not torch.equal(whole[:, 21], other[:, 21])


def test_writing_looks_at_what_learning_looked_at(music: Dataset) -> None:
    model, labels = make(Sound, music), torch.tensor([0, 1])
    prompt = model.encode(music.batch(np.array([0, 9]))["audio"])[:, :, :10]
    greedy = Sampling(temperature=0.0)
    codes = model.write(prompt, 12, labels, greedy, seed=0, start=0)
    assert codes.shape == (2, 2, 22) and torch.equal(codes[:, :, :10], prompt) and codes.max() < 16
    columns = delayed(codes, model.codes)
    with torch.no_grad():
        scores = model.scores(model.network.features(model.begun(columns[:, :-1], labels)))[..., :-1]
    assert torch.equal(undelayed(scores.argmax(3))[:, :, 10:], codes[:, :, 10:])


def test_a_clip_may_be_longer_than_what_is_seen_at_once(music: Dataset) -> None:
    model = make(Sound, music)
    made = model.sample(2, seed=3, seconds=1.2)  # of 0.4
    assert made.shape == (2, 1, 9600) and torch.isfinite(made).all()
    alone = model.sample(1, seed=3, start=1, seconds=1.2)
    torch.testing.assert_close(alone[0], made[1], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        model.network.tokens.weight.mul_(100)  # so that it minds what it is told, as a trained one does
    shorter = model.sample(2, seed=3, seconds=0.1, label=1)
    assert shorter.shape == (2, 1, 832) and not torch.equal(shorter, model.sample(2, seed=3, seconds=0.1, label=0))


def test_a_continuation_begins_with_its_prompt_itself(music: Dataset) -> None:
    model = make(Sound, music)
    prompts = [music.batch(np.array([i]))["audio"][0, :, :n] for i, n in ((0, 3200), (7, 1500))]
    made = model.sample(2, seed=1, source=prompts, seconds=0.2)
    assert [tuple(m.shape) for m in made] == [(1, 3200 + 1600), (1, 1500 // 64 * 64 + 1600)]
    for prompt, whole in zip(prompts, made, strict=True):
        told = prompt.shape[1] // 64 * 64 - 64
        torch.testing.assert_close(whole[:, :told], prompt[:, :told])
    (alone,) = model.sample(1, seed=1, start=1, source=prompts[1], seconds=0.2)
    torch.testing.assert_close(alone, made[1], atol=1e-5, rtol=1e-4)
    assert not torch.equal(alone, model.sample(1, seed=2, start=1, source=prompts[1], seconds=0.2)[0])


def test_a_join_is_heard_nowhere() -> None:
    prompt, made = torch.ones(1, 1, 70), torch.zeros(1, 1, 64 + 32)
    whole = joined(prompt, made, 16, 2)[0, 0]
    assert (whole[:48] == 1).all() and (whole[64:] == 0).all() and (whole[48:64].diff() <= 0).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seconds": 0}, "seconds must be 0.008 or more, not 0"),
        ({"source": torch.zeros(40, 9)}, "goes on from sounds, not from mel spectrograms"),
        ({"source": [torch.zeros(1, 900)] * 3}, "2 samples need 2 sources or one for all, not 3"),
        ({"source": torch.zeros(1, 5)}, "needs more than"),
        ({"temperature": -1}, "temperature is 0"),
        ({"label": 2}, "Label 2 is not one of the 2 classes"),
    ],
)
def test_a_condition_that_cannot_be_is_one_sentence(music: Dataset, given: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(Sound, music).sample(2, **given)


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_run_of_the_codec_becomes_sound_and_stands_alone(music: Dataset, tmp_path: Path) -> None:
    codec = genloom.fit("codec", music, tmp_path / "codec", recipe="tiny", steps=3, quiet=True)
    longer = open_data(tmp_path.parent / next(p.name for p in tmp_path.parent.glob("tones*")), seconds=0.6)
    sound = genloom.fit("sound", longer, tmp_path / "sound", recipe="tiny", init=codec, steps=3, quiet=True)
    before, after = genloom.load(codec), genloom.load(sound)
    assert isinstance(after, Sound) and after.config["width"] == 16
    for name, value in before.generator.state_dict().items():
        assert torch.equal(value, after.generator.state_dict()[name]), name
    (tmp_path / "codec").rename(tmp_path / "away")
    prompt = tmp_path / "prompt.wav"
    prompt.write_bytes(wav(tone(8000, 0.5), 8000).getvalue())
    out = tmp_path / "out"
    main(["sample", str(sound.folder), "--source", str(prompt), "--seconds", "0.3", "--out", str(out)])
    with (out / "prompt.wav").open("rb") as file:
        assert len(read(file, "prompt.wav").samples) == 4000 // 64 * 64 + -(-2400 // 64) * 64
    with pytest.raises(UserError, match="holds a 'sound'"):
        genloom.fit("codec", music, tmp_path / "other", recipe="tiny", init=sound, steps=1)


def test_one_fit_learns_both(music: Dataset, tmp_path: Path) -> None:
    run = genloom.fit(
        "sound", music, tmp_path / "run", recipe="tiny", config={"learn": 0.5}, steps=6, decay=0.0, quiet=True
    )
    state, _ = run.load_tensors("state/latest.safetensors")
    steps = {k.split(".")[1]: float(v) for k, v in state.items() if k.startswith("optimiser") and ".step." in k}
    assert steps == {"network": 3.0, "generator": 3.0, "discriminator": 3.0}
    assert find("sound").asks({"mel": "hifigan@16000", "seconds": 4.0}) == {"rate": 16_000, "seconds": 4.0}
