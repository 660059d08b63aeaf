"""What people do with a trained generator: walks, grids of seeds, projection, directions, style mixing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import genloom
from genloom import UserError, generate
from genloom.cli import main
from genloom.data.draw import picture
from genloom.data.labels import class_number
from genloom.latents import directions, projection, space
from genloom.metrics import perceptual
from genloom.run import Run

GANS = ("dcgan", "biggan", "stylegan2", "stylegan3")
OPTIONS: dict[str, dict[str, Any]] = {"biggan": {"attention": "none"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Untuned, but alive: another seed is another picture."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: genloom.fit(
            name, "digits", folder / name, recipe="tiny", quiet=True, steps=4, config=OPTIONS.get(name, {})
        )
        for name in (*GANS, "flow", "vae", "infogan")
    }


@pytest.fixture
def pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the weights of lite0 are not installed."""

    def absent(name: str) -> None:
        raise UserError("not here")

    monkeypatch.setattr(perceptual, "extractor", absent)


def label_of(run: Run, seed: int) -> dict[str, Any]:
    model = generate.load(run)
    if "code" in model.conditions:
        return {"code": seed % 10}
    return {"label": seed % 10} if "label" in model.conditions else {}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `genloom …` prints, in a folder of its own; a refusal is one line."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, refused: bool = False) -> str:
        try:
            main([str(w) for w in words])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, said = capsys.readouterr()
        assert code == (2 if refused else 0) and len(said.strip().splitlines()) == refused, said
        return said if refused else out

    return run


# ── seeds and walks ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", (*GANS, "flow", "vae", "infogan"))
def test_a_seed_is_its_first_sample_and_a_walk_passes_through_it(name: str, runs: dict[str, Run]) -> None:
    seeds = [3, 12, 7]
    images = genloom.sample(runs[name], seeds=seeds)
    assert isinstance(images, torch.Tensor) and len({x.numpy().tobytes() for x in images}) == 3
    for image, seed in zip(images, seeds, strict=True):
        alone = genloom.sample(runs[name], 1, seed=seed, **label_of(runs[name], seed))
        torch.testing.assert_close(image[None], alone, atol=2e-2, rtol=0)  # bf16 may round otherwise in a batch
    frames = genloom.interpolate(runs[name], seeds, frames=4)
    assert frames.shape == (12, *images.shape[1:])
    torch.testing.assert_close(frames[::4], images, atol=2e-2, rtol=0)
    assert not torch.equal(frames[1], frames[0]) and not torch.equal(frames[11], frames[0])


def test_seeds_take_ranges_labels_and_truncation(runs: dict[str, Run]) -> None:
    run = runs["stylegan2"]
    assert torch.equal(genloom.sample(run, seeds="3,5-6"), genloom.sample(run, seeds=[3, 5, 6]))
    sevens = genloom.sample(run, seeds="3-4", label="7")
    torch.testing.assert_close(sevens[:1], genloom.sample(run, 1, seed=3, label=7), atol=2e-2, rtol=0)
    same = genloom.sample(run, seeds="3-4", label=7, truncation=0.0)
    torch.testing.assert_close(same[0], same[1])
    truncated = genloom.sample(runs["biggan"], seeds=[2], truncation=0.5)
    alone = genloom.sample(runs["biggan"], 1, seed=2, truncation=0.5, label=2)
    torch.testing.assert_close(truncated, alone, atol=2e-2, rtol=0)


def test_classes_blend_where_the_model_blends_them(runs: dict[str, Run]) -> None:
    made = space.space_of(generate.load(runs["biggan"]))
    halfway = space.walk(made, made.points([3, 7]), 2)[torch.tensor([1])]
    assert halfway.labels is not None
    wanted = torch.zeros(1, 10)
    wanted[0, [3, 7]] = 0.5
    torch.testing.assert_close(halfway.labels.cpu(), wanted)


def test_an_arc_keeps_the_length_of_latents() -> None:
    a, b = torch.randn(5, 400), torch.randn(5, 400)
    a, b = (20 * x / x.norm(dim=1, keepdim=True) for x in (a, b))
    middle = space.slerp(a, b, torch.full((5,), 0.5))
    torch.testing.assert_close(middle.norm(dim=1), torch.full((5,), 20.0))
    torch.testing.assert_close(space.slerp(a, a, torch.full((5,), 0.5)), a)


@pytest.mark.parametrize("text", ["", "a", "3-", "5-3", "3,,4", "-3", "0-99999999"])
def test_lists_that_make_no_sense(text: str) -> None:
    with pytest.raises(UserError, match="--seeds"):
        space.numbers("seeds", text)


# ── projection ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["stylegan2", "stylegan3"])
@pytest.mark.parametrize("kind", ["w", "w+"])
def test_the_generator_s_own_picture_is_found_again(name: str, kind: str, runs: dict[str, Run], pixels: None) -> None:
    made = space.styles_of(generate.load(runs[name]), "A test", label=4)
    target = made.paint(made.points([5]))[0]
    found = projection.project(made, target, kind=kind, steps=60, seed=1)
    start, end = found.report["distance"].values()
    assert found.report["measure"].startswith("pixels") and end < start / 2
    assert found.styles.shape == (made.layers, 8) and bool((found.styles == found.styles[:1]).all()) == (kind == "w")
    again = projection.project(made, target, kind=kind, steps=60, seed=1)
    assert torch.equal(again.styles, found.styles) and torch.equal(again.picture, found.picture)


def test_a_projection_s_files_are_an_edit_s_start(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["stylegan2"]
    picture(genloom.sample(run, seeds=[5])[0]).resize((20, 12)).convert("RGB").save(tmp_path / "face.jpg")
    report = genloom.project(run, tmp_path / "face.jpg", tmp_path / "found", space="w+", steps=3)
    assert json.loads((tmp_path / "found/projection.json").read_text()) | {"folder": report["folder"]} == report
    assert "lite0" in report["measure"] and report["noise maps"] > 0
    with Image.open(tmp_path / "found/film.webp") as film:
        assert film.n_frames >= 3
    target, projected = (np.asarray(Image.open(tmp_path / f"found/{n}.png"), float) for n in ("target", "projected"))
    assert target.shape == projected.shape == (8, 8)
    start = tmp_path / "found/w.safetensors"
    genloom.edit(run, tmp_path / "edit", directions=1, columns=3, start=start)
    made = space.styles_of(generate.load(run), "A test")
    w, made.maps = projection.load_styles(start, made)
    torch.testing.assert_close(  # unmoved it is the projected picture again
        (made.paint(space.Points(w))[0, 0] + 1) * 127.5, torch.tensor(projected).float(), atol=3, rtol=0
    )
    with pytest.raises(UserError, match="no styles of this model"):
        genloom.edit(runs["stylegan3"], tmp_path / "other", start=start)
    with pytest.raises(UserError, match="needs a generator with styles"):
        genloom.edit(runs["dcgan"], tmp_path / "other", start=start)


def test_distances_tell_pictures_apart(pixels: None) -> None:
    a, b = torch.rand(1, 3, 24, 16) * 2 - 1, torch.rand(2, 3, 24, 16) * 2 - 1
    name, apart = perceptual.likeness(a)
    assert float(apart(a)) == 0 and bool((apart(b) > 0.01).all()) and "pixels" in name


def test_noise_without_structure_costs_nothing() -> None:
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    stripes = torch.ones(64, 64)
    assert float(projection.structure([noise])) < 0.2 < 1 < float(projection.structure([stripes]))


# ── directions and mixing ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("method", directions.METHODS)
@pytest.mark.parametrize("name", (*GANS, "vae"))
def test_directions_are_orthonormal_and_move_the_picture(name: str, method: str, runs: dict[str, Run]) -> None:
    made = space.space_of(generate.load(runs[name]))
    found = directions.find(made, method, 4)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4), atol=1e-5, rtol=0)
    assert bool((found.shares.diff() <= 1e-6).all()) and 0 < float(found.shares.sum()) <= 1 + 1e-6
    points = made.points([1, 2])
    images = made.paint(directions.moved(points, found, 0, torch.tensor([-2.0, 0.0, 2.0]))).unflatten(0, (2, 3))
    torch.testing.assert_close(images[:, 1], made.paint(points), atol=2e-2, rtol=0)
    assert float((images[:, 0] - images[:, 2]).abs().amax()) > 1e-3


def test_sefa_reads_the_affine_weights_of_the_layers(runs: dict[str, Run]) -> None:
    """The first direction changes the layers' modulation more than any other of the same length."""
    made = space.styles_of(generate.load(runs["stylegan2"]), "A test")
    block = made.model.generator.synthesis.get_submodule("b4")
    first = directions.find(made, "sefa", 1, [0]).vectors[0]
    weight = block.get_submodule("conv1.affine").weight.cpu() / 8**0.5  # [O, W], rate equalised
    torch.testing.assert_close((weight @ first).norm(), torch.linalg.matrix_norm(weight, 2))
    assert len(directions.affines(made, range(made.layers))) == len(
        [n for n, _ in made.model.generator.synthesis.named_modules() if n.endswith("affine")]
    )


def test_layers_alone_are_moved(runs: dict[str, Run]) -> None:
    made = space.styles_of(generate.load(runs["stylegan3"]), "A test")
    points = made.points([1])
    found = directions.find(made, "ganspace", 1, [1, 2])
    moved = directions.moved(points, found, 0, torch.tensor([2.0]))
    changed = (moved.values != points.values).any(2)[0].tolist()
    assert changed == [i in (1, 2) for i in range(made.layers)]


@pytest.mark.parametrize("name", ["stylegan2", "stylegan3"])
def test_mixing_all_layers_is_the_column_s_own_picture(name: str, runs: dict[str, Run]) -> None:
    own = genloom.sample(runs[name], seeds=[4, 5, 6])
    layers = generate.load(runs[name]).generator.layers
    all_of_them = genloom.mix(runs[name], [1, 2], [4, 5, 6], range(layers))
    assert all_of_them.shape == (2, 3, 1, 8, 8)
    for row in all_of_them:
        torch.testing.assert_close(row, own, atol=2e-2, rtol=0)
    some = genloom.mix(runs[name], [1, 2], [4, 5, 6], "0-1")
    rows = genloom.sample(runs[name], seeds=[1, 2])
    assert not torch.equal(some, all_of_them) and not torch.equal(some[:, 0], rows)


def test_a_class_by_name_or_by_number() -> None:
    assert class_number("0", ("3", "0")) == 1 and class_number("1", ("cat", "dog")) == 1


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_models_and_options_that_do_not_fit(runs: dict[str, Run], tmp_path: Path) -> None:
    face, run = tmp_path / "face.png", runs["stylegan2"]
    Image.new("RGB", (8, 8)).save(face)
    for name in ("vae", "flow", "dcgan", "biggan"):
        with pytest.raises(UserError, match=f"'{name}' has none: fit stylegan2"):
            genloom.project(runs[name], face)
        with pytest.raises(UserError, match=f"'{name}' has none: fit stylegan2"):
            genloom.mix(runs[name], [1], [2], [0])
    for words, call in {
        "starts from noise as large": lambda: genloom.edit(runs["flow"]),
        "no layers": lambda: genloom.edit(runs["dcgan"], layers="0"),
        "--directions must lie in 1 to 8": lambda: genloom.edit(run, directions=9),
        "--directions must lie in": lambda: genloom.edit(runs["dcgan"], directions=0),
        "no method 'pca'": lambda: genloom.edit(run, method="pca"),
        "--strength": lambda: genloom.edit(run, strength=-1),
        "--columns": lambda: genloom.edit(run, columns=1),
        "--layers 4 is out of range": lambda: genloom.edit(run, layers="4"),
        "0 to 3 in this model": lambda: genloom.mix(run, [1], [2], "2-9"),
        "Truncation must lie": lambda: genloom.sample(run, seeds=[1], truncation=3),
        "truncation of 2 is out of range": lambda: genloom.sample(runs["biggan"], seeds=[1], truncation=2.0),
        "no condition 'truncation'": lambda: genloom.interpolate(runs["dcgan"], [1, 2], truncation=0.5),
        "two seeds or more": lambda: genloom.interpolate(run, [1]),
        "240,000 pictures is too long": lambda: genloom.interpolate(run, range(10_000)),
        "--frames is 0": lambda: genloom.interpolate(run, [1, 2], frames=0),
        "--steps is 0": lambda: genloom.project(run, face, steps=0),
        "no space 'z'": lambda: genloom.project(run, face, space="z"),
        "no class '11'": lambda: genloom.project(run, face, label="11"),
        "trained without classes": lambda: class_number("1", ()),
        "no class '1'.*Known: 3, 0": lambda: class_number("1", ("3", "0")),
        "cannot be used as a picture": lambda: genloom.project(run, run.folder / "run.json"),
        "the file is gone": lambda: genloom.project(run, tmp_path / "nothing.png"),
        "no file": lambda: genloom.edit(run, start=tmp_path / "nothing"),
        "not a whole safetensors": lambda: genloom.edit(run, start=face),
    }.items():
        with pytest.raises(UserError, match=words):
            call()


def test_the_commands(runs: dict[str, Run], tmp_path: Path, told: Callable[..., str]) -> None:
    run = runs["stylegan2"].folder
    assert "4 samples in some" in told("sample", run, "--seeds", "3,5-7", "--out", "some", "--truncation", 0.7)
    names = {p.name for p in (tmp_path / "some").iterdir()}
    assert names == {"00003.png", "00005.png", "00006.png", "00007.png", "grid.png"}
    for name in ("walk.gif", "walk.webp", "walk.png"):
        model = runs["dcgan"].folder if name == "walk.gif" else run
        assert "12 frames" in told("sample", model, "--interpolate", 3, "--frames", 4, "--seed", 9, "--out", name)
        with Image.open(tmp_path / name) as film:
            assert film.n_frames > 1 and film.width == 256  # formats join frames that are alike
    assert "walk-1-8.webp" in told("sample", run, "--interpolate", "1,5,8", "--frames", 1)
    assert "lite0" in told("project", run, tmp_path / "some/00003.png", "--steps", 2, "--label", 3)
    start = run / "samples/projection-00003/w.safetensors"
    assert set(load_file(start)) >= {"w"}
    told("edit", run, "--method", "ganspace", "--directions", 2, "--start", start, "--out", "edits")
    names = {p.name for p in (tmp_path / "edits").iterdir()}
    assert names == {"direction00.png", "direction01.png", "directions.safetensors", "sliders.json"}
    sliders = json.loads((tmp_path / "edits/sliders.json").read_text())["sliders"]
    assert sliders[0]["range"] == [-3, 3] and sliders[0]["variance_explained"] >= sliders[1]["variance_explained"]
    told("mix", run, "--rows", "1,2", "--columns", "3-5", "--layers", "0-1", "--label", 7)
    assert (run / "samples/mix.png").is_file()


def test_commands_that_do_not_fit(runs: dict[str, Run], told: Callable[..., str]) -> None:
    run = runs["stylegan2"].folder
    assert ".webp" in told("sample", run, "--interpolate", "3", "--out", "walk.mp4", refused=True)
    for count in (99999, 9 * 10**18, 10**20, "3,0-99999999999999999999"):
        assert "more than 10,000 numbers" in told("sample", run, "--interpolate", count, refused=True)
    assert "--interpolate" in told("sample", run, "--interpolate", "3", "--seeds", "4", refused=True)
    assert "two seeds" in told("sample", run, "--interpolate", "1", refused=True)
    assert "no directions" in told("edit", runs["flow"].folder, refused=True)
    assert ".png" in told("mix", run, "--rows", "1", "--columns", "2", "--out", "sheet.jpg", refused=True)
    told("mix", run, "--rows", "1", "--columns", "2", "--out", "sheet.png")
    told("mix", run, "--rows", "1", "--columns", "2", "--layers", "0-3", "--out", "same.png", "--no-provenance")
    assert np.array_equal(np.asarray(Image.open("sheet.png")), np.asarray(Image.open("same.png")))
    assert "w+" in told("project", run, "face.png", "--space", "z", refused=True)


def test_an_option_that_a_way_of_sampling_does_not_hear_is_refused(
    runs: dict[str, Run], told: Callable[..., str], tmp_path: Path
) -> None:
    run, options = runs["dcgan"].folder, {"-n": 5, "--seed": 4, "--form": "gif", "--beside": "", "--frames": 2}
    deaf = {
        ("--seeds", "3,7"): ("-n", "--seed", "--form", "--beside", "--frames"),
        ("--interpolate", "3"): ("-n", "--form", "--beside", "--visible-label"),
        ("--interpolate", "3,7"): ("-n", "--seed"),
        ("--stream",): ("-n", "--seed", "--form", "--beside", "--frames", "--visible-label"),
        ("--balance", "label"): ("--form", "--beside", "--frames"),
    }
    for way, names in deaf.items():
        for name in names:
            words = [w for w in (*way, name, options.get(name, "")) if w != ""]
            said = told("sample", run, *words, "--out", "made", refused=True)
            assert f"{name} does not go with {way[0]}" in said, said
    assert "--seeds and --balance" in told("sample", run, "--seeds", 3, "--balance", "label", refused=True)
    assert "--frames is 0" in told("sample", run, "--interpolate", 2, "--frames", 0, refused=True)
    assert "a folder" in told("sample", run, "--seeds", 3, "--out", "made.png", refused=True)
    said = told("sample", run, "--seeds", 3, "--visible-label", "--out", "small", refused=True)
    assert "64 pixels" in said  # and no empty folder is left, as the last line says
    assert "--seeds takes numbers" in told("sample", run, "--seeds", "", refused=True)
    assert "--interpolate takes numbers" in told("sample", run, "--interpolate", "", refused=True)
    assert not [*tmp_path.iterdir()]
