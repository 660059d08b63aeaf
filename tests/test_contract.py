"""Every model keeps every promise. A new model is tested by being registered."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import av
import films
import numpy as np
import pytest
import torch
from conftest import same_tensors, save_pairs

import genloom
from genloom import core, private
from genloom.api import resolve_options
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.data.schema import Column
from genloom.data.sound import read
from genloom.data.table import numbers_of
from genloom.errors import UserError
from genloom.generate import draw
from genloom.state import State
from genloom.train import some, step, update

MODELS = {k: m for k, m in core.models().items() if m.__module__.startswith("genloom.")}  # not those of other tests
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """A real data set, small, of each modality and each kind that a model may need."""
    digits = open_data("mnist", limit=512)
    pairs = save_pairs(open_data("mnist", limit=96, size=32), tmp_path_factory.mktemp("pairs"))
    verses = tmp_path_factory.mktemp("text") / "verses.txt"
    verses.write_text("".join(f"{i} bottles of beer on the wall\n" for i in range(200)))
    text = open_data(verses, context=16)
    sounds = open_data("speech", rate=8000, seconds=0.3)
    speech = open_data("speech", modality="audio", needs="speech", rate=8000, seconds=2.0)
    carphone = open_data("carphone", modality="video", needs="films", size=16, frames=5, flow="dis")
    clips = tmp_path_factory.mktemp("films")
    for kind, seed in (("fast", 0), ("fast", 1), ("slow", 2), ("slow", 3)):
        films.save(clips / kind / f"{seed}.mp4", films.moving(24, 32, 32, seed=seed))
    video = open_data(clips, size=16, frames=4)
    moving = {"video": video, "films": carphone}
    rows = open_data("credit", target="Status")
    return (
        {"image": digits, "text": text, "audio": sounds, "speech": speech, "table": rows}
        | moving
        | {needs: open_data(pairs, modality="image", needs=needs) for needs in ("pairs", "domains")}
    )


@pytest.fixture(scope="module")
def fitted(data: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], genloom.Run]:
    """The run that a model's tiny recipe makes, trained when it is first asked for."""

    @cache
    def run(name: str) -> genloom.Run:
        folder = tmp_path_factory.mktemp(name) / "run"
        return genloom.fit(name, data_for(name, data), folder, recipe="tiny", quiet=True)

    return run


def data_for(name: str, data: dict[str, Dataset]) -> Dataset:
    return data[MODELS[name].needs or MODELS[name].modality]


def tiny(name: str, data: dict[str, Dataset], **overrides: object) -> tuple[State, Dataset, object]:
    cls = MODELS[name]
    options = resolve_options(cls, "tiny", {"seed": 3, **overrides})
    torch.manual_seed(0)
    dataset = data_for(name, data)
    net = core.build(cls, dataset.spec, options.model)
    net.prepare(some(dataset, 128))
    return State(net, options), dataset, options


@every_model
def test_private_training_learns_from_the_data_or_is_refused(name: str, data: dict[str, Dataset]) -> None:
    pytest.importorskip("opacus")
    state, dataset, options = tiny(name, data, batch_size=4, dp_epsilon=8.0, dp_delta=1e-6)
    try:
        found = private.check(state.model, dataset, options, learnt=False)
    except UserError as error:
        assert "private" in str(error) and ("fit " in str(error) or "--" in str(error))
    else:
        assert len([p for p in state.phases if p.name not in found.free]) == 1


@every_model
def test_card_says_whose_idea_it_is(name: str) -> None:
    card = MODELS[name].card
    assert card.paper and card.authors and card.summary and card.source and card.licence
    assert card.url.startswith("https://") and 1900 < card.year < 2100
    assert all(r.metric and r.data and r.where for r in card.results)


@every_model
def test_recipes_name_real_options(name: str) -> None:
    cls = MODELS[name]
    assert {"tiny", "cpu", "default"} <= set(cls.recipes)
    for recipe in cls.recipes:
        assert set(resolve_options(cls, recipe, {}).model) == set(core.hyper_parameters(cls))


@every_model
def test_tiny_recipe_trains_samples_and_writes(
    name: str, data: dict[str, Dataset], fitted: Callable[[str], genloom.Run]
) -> None:
    dataset, run = data_for(name, data), fitted(name)
    made = genloom.sample(run, 3)
    files = ["run.json", "log.jsonl", "weights.safetensors", "report.html", "README.md"]
    if dataset.spec.modality == "image":
        assert made.shape == (3, *dataset.spec.shape)
        assert torch.isfinite(made).all() and made.min() >= -1.001 and made.max() <= 1.001
        files += ["samples/grid.png", "samples/progress.webp"]
    elif dataset.spec.modality == "video":
        assert made.shape == (3, *dataset.spec.shape)
        assert torch.isfinite(made).all() and made.abs().max() <= 1.001
    elif MODELS[name].needs == "speech":
        assert all(w.shape[0] == 1 and torch.isfinite(w).all() and w.abs().max() <= 1.001 for w in made)
        files += ["samples/grid.png", "samples/progress.webp"]
    elif dataset.spec.modality == "audio":
        assert made.shape[:2] == (3, 1) and 0 < made.shape[2] <= dataset.spec.shape[1]
        assert torch.isfinite(made).all() and made.abs().max() <= 1.001
        files += ["samples/grid.png", "samples/progress.webp"]
    elif dataset.spec.modality == "table":
        assert made.shape == (3, *dataset.spec.shape)
    else:
        assert len(made) == 3 and all(isinstance(text, str) for text in made)
    for file in files:
        assert (run.folder / file).stat().st_size > 0, file


@every_model
def test_a_sample_file_holds_what_was_sampled(name: str, fitted: Callable[[str], genloom.Run], tmp_path: Path) -> None:
    from PIL import Image

    from genloom.generate import to_files

    run = fitted(name)
    paths = to_files(run, 3, tmp_path / "out", seed=5, watermark=False)  # a mark is meant to differ
    if run.spec.modality == "text":
        assert [p.read_text("utf-8") for p in paths] == genloom.sample(run, 3, seed=5)
        return
    if run.spec.modality == "table":
        (path,) = paths
        rows = list(csv.reader(path.open()))
        assert len(rows) == 4 and rows[0] == [c["name"] for c in run.spec.extra["columns"]]
        made = numbers_of(genloom.sample(run, 3, seed=5), run.spec)
        columns = [Column.from_json(c) for c in run.spec.extra["columns"]]
        assert [
            list(row) for row in zip(*(c.words(x) for c, x in zip(columns, made, strict=True)), strict=True)
        ] == rows[1:]
        return
    if run.spec.modality == "audio":
        heard = [read(io.BytesIO(p.read_bytes()), p.name) for p in paths]
        assert all(sound.rate == run.spec.extra["rate"] for sound in heard)
        for sound, made in zip(heard, genloom.sample(run, 3, seed=5), strict=True):
            assert np.abs(sound.samples - made[0].numpy()).max() <= 0.51 / 32767 + 1e-4
        return
    if run.spec.modality == "video":  # but for what a film codec takes off: fine colour above all
        for path, made in zip(paths, genloom.sample(run, 3, seed=5), strict=True):
            with av.open(str(path)) as film:
                frames = np.stack([f.to_ndarray(format="gray") for f in film.decode(video=0)])  # [T, H, W]
            bright = (made * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(0).numpy()
            assert frames.shape == bright.shape and np.abs(frames - (bright + 1) * 127.5).mean() < 12
        return
    pixels = np.stack([np.asarray(Image.open(p)) for p in paths]).astype(np.float32)
    expected = (genloom.sample(run, 3, seed=5).squeeze(1).numpy() + 1) * 127.5
    assert np.abs(pixels - expected).max() <= 0.51


@every_model
def test_gradients_reach_a_phase_s_parameters_and_no_other(name: str, data: dict[str, Dataset]) -> None:
    state, dataset, options = tiny(name, data, weight_decay=0.0)
    batch = dataset.batch(np.arange(8))
    torch.manual_seed(1)
    for _ in range(3):  # zero-initialised layers let gradients through after a step or two
        step(state, batch, replace(options, batch_size=8))
    reached: dict[tuple[str, ...], set[str]] = {}
    for phase in state.phases:
        before = {k: v.detach().clone() for k, v in state.model.named_parameters()}
        update(state, phase, batch, replace(options, batch_size=8))
        changed = {k for k, v in state.model.named_parameters() if not torch.equal(v, before[k])}
        ids = {id(p) for p in state.moved[phase.moves]}
        assert changed <= {k for k, v in state.model.named_parameters() if id(v) in ids}, phase.name
        reached[phase.moves] = reached.get(phase.moves, set()) | changed
    for moves, changed in reached.items():  # a penalty alone need not move every bias: phases that share parameters do
        ids = {id(p) for p in state.moved[moves]}
        still = {k for k, v in state.model.named_parameters() if id(v) in ids} - changed
        # a loss of differences cannot see the critic's last bias: a single number
        assert all(state.model.get_parameter(k).numel() == 1 for k in still), (moves, sorted(still))


@every_model
def test_losses_are_per_example_or_one_number(name: str, data: dict[str, Dataset]) -> None:
    state, dataset, _ = tiny(name, data)
    for phase in state.phases:
        terms = state.model.loss(dataset.batch(np.arange(6)), phase.name)
        assert terms and all(v.shape in ((), (6,)) for v in terms.values()), {k: v.shape for k, v in terms.items()}


@every_model
def test_item_i_depends_on_seed_and_i_alone(name: str, data: dict[str, Dataset]) -> None:
    state, _, _ = tiny(name, data)
    whole = draw(state.average, 7, seed=11, precision="fp32")
    pieces = draw(state.average, 7, seed=11, precision="fp32", batch_size=3)
    state.average.eval()
    with torch.inference_mode():
        fifth = state.average.sample(1, seed=11, start=5)
    other = draw(state.average, 7, seed=12, precision="fp32")
    if isinstance(whole, list) and isinstance(whole[0], torch.Tensor):  # sounds, each of its own length
        whole, pieces, fifth, other = (
            torch.nn.utils.rnn.pad_sequence([w[0] for w in waves], batch_first=True)[:, :2000]
            for waves in (whole, pieces, fifth, other)
        )
        fifth = torch.nn.functional.pad(fifth, (0, whole.shape[1] - fifth.shape[1]))
    if isinstance(whole, list):
        assert whole == pieces and fifth == whole[5:6] and whole != other
        return
    atol = 2e-4 if MODELS[name].needs == "films" else 1e-5  # frames made of frames: rounding moves on along the flow
    torch.testing.assert_close(whole, pieces, rtol=1e-4, atol=atol, equal_nan=True)
    torch.testing.assert_close(fifth[0].cpu(), whole[5], rtol=1e-4, atol=atol, equal_nan=True)
    assert not torch.equal(whole, other)


@every_model
def test_resume_is_bit_exact(name: str, data: dict[str, Dataset], tmp_path: Path) -> None:
    dataset = data_for(name, data)
    options = {"recipe": "tiny", "quiet": True, "seed": 9, "decay": 0.0, "batch_size": 8}
    straight = genloom.fit(name, dataset, tmp_path / "straight", steps=5, **options)
    genloom.fit(name, dataset, tmp_path / "halves", steps=2, **options)
    halves = genloom.fit(name, dataset, tmp_path / "halves", steps=5, **options)
    a, numbers_a = straight.load_tensors("state/latest.safetensors")
    b, numbers_b = halves.load_tensors("state/latest.safetensors")
    assert numbers_a["step"] == numbers_b["step"] == 5
    assert same_tensors(a, b)


@every_model
def test_a_loaded_model_is_the_one_that_was_saved(name: str, fitted: Callable[[str], genloom.Run]) -> None:
    run = fitted(name)
    model = genloom.load(run)
    assert isinstance(model, torch.nn.Module) and not model.training
    saved, _ = run.load_tensors("weights.safetensors")
    assert same_tensors({k: model.state_dict()[k].cpu() for k in saved}, saved)
