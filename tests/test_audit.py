"""The audit finds what was planted: copies, members, canaries, groups that are left out; and not what was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import Moving, saved
from torch import Tensor, nn

import genloom
from genloom import auditing, cli
from genloom.auditing import copies, coverage
from genloom.auditing.membership import Judge
from genloom.auditing.sides import sides
from genloom.core import Batch, Card, Model, Recipe, Spec, generator, register
from genloom.data import open_data
from genloom.data.canaries import TIMES, Planted
from genloom.errors import UserError
from genloom.metrics.chances import auc, tpr_at, wilson
from genloom.run import Run, read_json

SIDE, COUNT = 8, 60


@register("test_parrot")
class Parrot(Model):
    """Says what it was shown, word for word; or, when it is `honest`, what is like it."""

    modality = "image"
    card = Card("none", "none", 2026, "", "Repeats its training data.")
    recipes = {"cpu": Recipe(steps=1, batch_size=4)}
    looks_at = COUNT
    memory: Tensor

    def __init__(self, spec: Spec, *, honest: bool = False):
        super().__init__(spec)
        self.honest = honest
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("memory", torch.zeros(COUNT, *spec.shape))

    def prepare(self, batch: Batch) -> None:
        self.memory[: len(batch["image"])] = batch["image"]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        apart = torch.cdist(batch["image"].flatten(1), self.memory.flatten(1))
        near = apart.mean(1) if self.honest else apart.min(1).values
        return {"distance": near + 0 * self.bias}

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        if self.honest:
            return torch.stack([picture(generator(seed, 9, i)) for i in range(start, start + n)])
        return self.memory[torch.arange(start, start + n) % COUNT]


@register("test_tape")
class Tape(Model):
    """Makes silence."""

    modality = "audio"
    card = Card("none", "none", 2026, "", "Silent.")
    recipes = {"cpu": Recipe(steps=1, batch_size=4)}
    conditions = ("source",)

    def __init__(self, spec: Spec):
        super().__init__(spec)
        self.level = nn.Parameter(torch.zeros(1))

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return {"level": (batch["audio"] - self.level).square().mean((1, 2))}

    def sheet(self, samples: Tensor, *, seed: int = 0) -> Tensor:
        return torch.zeros(1, 1, 8, 8)

    def sample(self, n: int, *, seed: int = 0, start: int = 0, source: Tensor | None = None) -> Tensor:
        return torch.zeros(n, *self.spec.shape)


def picture(random: torch.Generator) -> Tensor:
    return torch.rand(1, SIDE, SIDE, generator=random) * 2 - 1


def folder(path: Path, seed: int, count: int = COUNT) -> Path:
    for i in range(count):
        group = path / ("dark" if i % 3 else "light")
        group.mkdir(parents=True, exist_ok=True)
        pixels = (picture(generator(seed, i)) / 4 + (-0.5 if i % 3 else 0.5) + 1) * 127.5
        Image.fromarray(pixels[0].round().to(torch.uint8).numpy()).save(group / f"{i:03}.png")
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("audited")
    return folder(root / "train", 1), folder(root / "other", 2)


@pytest.fixture(scope="module")
def parrot(pictures: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return genloom.fit("test_parrot", pictures[0], tmp_path_factory.mktemp("run") / "parrot", quiet=True)


class Pixels:
    """Sees pixels as they are: quicker than a network."""

    name = "pixels"

    def features(self, images: Tensor) -> tuple[Tensor, None]:
        return images.flatten(1), None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (copies, coverage):
        monkeypatch.setattr(module, "extractor", lambda name: Pixels())


def named(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f["name"]: f for f in result["findings"]}


def test_a_parrot_is_flagged_with_its_pairs(parrot: Run, pictures: tuple[Path, Path]) -> None:
    result = genloom.audit(parrot, holdout=pictures[1], n=40)
    found = named(result)
    assert found["copies"]["value"] >= 0.9 and found["copies"]["flagged"] and found["copies"]["low"] > 0.8
    assert found["membership-auc"]["value"] > 0.95 and found["membership-auc"]["flagged"]
    assert not result["passed"] and read_json(parrot.folder / "audit.json")["passed"] is False
    with Image.open(parrot.folder / "samples" / "copies.png") as sheet:
        rows = np.asarray(sheet.convert("L"), float)
    assert rows.std() > 0
    page = (parrot.folder / "report.html").read_text()
    assert "it copies what it was trained on" in page and "nearest to training items" in page
    assert "it copies what it was trained on" in (parrot.folder / "README.md").read_text()


@pytest.mark.usefixtures("quick")
def test_what_only_resembles_is_not_flagged(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    run = genloom.fit("test_parrot", pictures[0], tmp_path / "run", config={"honest": True}, quiet=True)
    found = named(genloom.audit(run, holdout=pictures[1], n=40))
    assert found["copies"]["value"] == 0 and not found["copies"]["flagged"]
    assert not found["membership-auc"]["flagged"] and abs(found["membership-auc"]["value"] - 0.5) < 0.15


@pytest.mark.usefixtures("quick")
def test_groups_that_are_left_out_are_named(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    run = genloom.fit("test_parrot", pictures[0], tmp_path / "run", quiet=True)

    def dark(self: Parrot, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        return self.memory[self.memory.mean((1, 2, 3)) < 0][:1].expand(n, -1, -1, -1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parrot, "sample", dark)
        result = genloom.audit(run, holdout=pictures[1], n=60)
    assert result["groups"]["light"]["state"] == "left out"
    told = named(result)["groups"]
    assert 0.15 < told["low"] < told["value"] <= told["high"]  # a third of the data is missing
    assert "light left out" in named(result)["groups"]["sentence"] and named(result)["groups"]["flagged"]


def test_groups_that_only_chance_keeps_apart_may_be_as_they_should() -> None:
    random, found = np.random.default_rng(0), auditing.Found([], [], {})
    votes = tuple(torch.from_numpy(random.integers(0, 10, 300)) for _ in range(2))
    spec = Spec("image", (1, 8, 8), tuple("0123456789"))
    coverage._judged(coverage._shares(*votes, spec), found, votes, "eye", False, 0)
    assert found.findings[0].low < 0.03 < found.findings[0].value and not found.findings[0].flagged


@pytest.mark.usefixtures("quick")
def test_without_a_holdout_it_says_what_cannot_be_concluded(
    parrot: Run, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    result = genloom.audit(parrot, n=20)
    assert (
        named(result)["copies"]["value"] == 1 and "training items is to the rest" in named(result)["copies"]["sentence"]
    )
    assert [s for s in result["cannot"] if "series of nearly the same" in s and "--holdout" in s]
    assert "membership-auc" not in named(result)
    assert [s for s in result["cannot"] if "cannot be told from losses" in s]
    honest = genloom.fit("test_parrot", pictures[0], tmp_path / "run", config={"honest": True}, quiet=True)
    assert named(genloom.audit(honest, n=40))["copies"]["value"] == 0


@pytest.mark.usefixtures("quick")
def test_copies_that_are_not_exact_are_found_where_items_lie_far_apart(tmp_path: Path) -> None:
    """Half of the data are common: nearly alike. A blurred copy of a rare one is farther from it than those are from each other."""

    def write(path: Path, seed: int) -> Path:
        path.mkdir()
        for i in range(COUNT):
            base = picture(generator(seed, i)) if i % 2 else picture(generator(5)) + 0.05 * picture(generator(seed, i))
            Image.fromarray(((base[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()).save(
                path / f"{i}.png"
            )
        return path

    run = genloom.fit("test_parrot", write(tmp_path / "train", 1), tmp_path / "run", quiet=True)

    def blurred(self: Parrot, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        rare = self.memory[self.memory.sub(picture(generator(5))).abs().mean((1, 2, 3)) > 0.2]
        return (rare + 0.1 * torch.randn(rare.shape, generator=generator(3))).repeat(2, 1, 1, 1)[start : start + n]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parrot, "sample", blurred)
        result = genloom.audit(run, holdout=write(tmp_path / "other", 2), n=30)
    assert named(result)["copies"]["value"] >= 0.9 and named(result)["copies"]["flagged"]
    assert {pair["view"].split(", ")[-1] for pair in result["pairs"]} == {"relative"}


@pytest.mark.usefixtures("quick")
def test_training_pictures_among_the_held_out_ones_hide_nothing(
    parrot: Run, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    leaked = folder(tmp_path / "leaked", 2, 30)
    for path in sorted(pictures[0].rglob("*.png"))[:10]:
        shutil.copy(path, leaked / path.parent.name / f"leak{path.name}")
    result = genloom.audit(parrot, holdout=leaked, n=40)
    assert named(result)["copies"]["value"] == 1 and named(result)["membership-auc"]["value"] == 1
    assert [s for s in result["cannot"] if "10 of 40 held-out pictures are training pictures too" in s]


def test_where_held_out_items_are_left_out_so_are_training_items_that_stand_twice(
    parrot: Run, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    both = shutil.copytree(pictures[0], tmp_path / "both")
    for path in sorted(both.rglob("*.png"))[:10]:
        shutil.copy(path, path.with_name(f"again{path.name}"))
    train, other = open_data(both, modality="image"), open_data(pictures[1], modality="image")
    assert len(auditing.Subject(parrot, train, other, 9, 0, 0.01, 0.6).inside(100)) == COUNT + 10
    shutil.copytree(pictures[1], tmp_path / "leaked")
    shutil.copy(next(both.rglob("again*.png")), tmp_path / "leaked" / "dark" / "leak.png")
    leaked = open_data(tmp_path / "leaked", modality="image")
    assert len(auditing.Subject(parrot, train, leaked, 9, 0, 0.01, 0.6).inside(100)) == COUNT - 10


@pytest.mark.usefixtures("quick")
def test_data_that_moved_is_read_as_it_was_and_changed_data_and_runs_are_told(
    pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    given = shutil.copytree(pictures[0], tmp_path / "given")
    run = genloom.fit("test_parrot", given, tmp_path / "run", data_options={"limit": 30}, quiet=True)
    moved = given.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"--data.*could not be opened"):
        genloom.audit(run, holdout=pictures[1], n=20)
    same = genloom.audit(run, moved, holdout=pictures[1], n=20)
    assert same["data"].endswith(" 30 items") and not [s for s in same["cannot"] if "as it was" in s]
    other = genloom.audit(run, pictures[1], holdout=pictures[0], n=20)
    assert [s for s in other["cannot"] if "not as it was at the training" in s]
    info = read_json(run.folder / "run.json")
    (run.folder / "run.json").write_text(json.dumps(info | {"started": "yesterday"}))
    edited = genloom.audit(run, moved, holdout=pictures[1], n=20)
    assert [s for s in edited["cannot"] if "run.json' was changed" in s and "may not be what was trained" in s]
    for wrong in ({"name": "x"}, info["data"] | {"canaries": {"count": "many"}}):
        (run.folder / "run.json").write_text(json.dumps(info | {"data": wrong}))
        with pytest.raises(UserError, match=r"run\.json' (lacks|should have a whole number under) 'data\."):
            genloom.audit(run.folder, moved, holdout=pictures[1], n=20)


@pytest.mark.usefixtures("quick")
def test_held_out_pictures_take_the_classes_of_the_run_by_name_or_are_tried_under_each(
    pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    three = shutil.copytree(pictures[0], tmp_path / "three")
    shutil.copytree(three / "light", three / "bright")
    run = genloom.fit("cvae", three, tmp_path / "run", recipe="tiny", steps=2, quiet=True)
    renamed, own = sides(run, None, pictures[1])[1], open_data(pictures[1], modality="image").labels()
    assert renamed is not None and own is not None and torch.equal(renamed.batch(np.arange(COUNT))["label"], own + 1)
    assert named(genloom.audit(run, holdout=pictures[1], n=20))["membership-auc"]["n"] == COUNT
    plain = shutil.copytree(pictures[1] / "light", tmp_path / "plain")
    result = genloom.audit(run, holdout=plain, n=20)
    assert named(result)["membership-auc"]["n"] == 20
    assert "the one of 3 classes that fits it best" in named(result)["membership-auc"]["method"]


def test_what_noise_does_to_a_loss_is_taken_off(parrot: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses a thousandth of their noise apart are told apart all the same."""
    shift = torch.linspace(0, 1, 200)
    monkeypatch.setattr(
        Parrot, "loss", lambda self, b, _: {"loss": b["x"] / 1000 + torch.rand(len(b["x"])) ** 2}, raising=True
    )
    judge = Judge(parrot, 0)
    low, high = judge.scores((200, lambda i: {"x": shift[i]}), (200, lambda i: {"x": 1.5 + shift[i]}))
    assert auc(low, high) > 0.95 and "draws of its noise" in judge.words


@pytest.mark.usefixtures("quick")
def test_the_command_ends_with_one_where_something_is_flagged(
    parrot: Run, pictures: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(parrot.folder), "--holdout", str(pictures[1]), "-n", "20"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 1 and "FLAG" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--max-membership", "1"])
    assert end.value.code == 1
    capsys.readouterr()
    cli.main([*words, "--max-copies", "1", "--max-membership", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["passed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--holdout", "TRAIN"], "is what the run was trained on"),
        (["--holdout", "EMPTY"], "holds no picture"),
        (["--attributes", "WRONG", "--holdout", "OTHER"], "nothing.png"),
        (["--attributes", ""], "--attributes is empty"),
        (["-n", "2"], "too few"),
        (["--max-membership", "60"], "a share, from 0 to 1"),
        (["--max-copies", "nan"], "a share, from 0 to 1"),
        (["--seed", "-1"], "give 0 or more"),
        (["--reference", "SELF"], "is the run itself"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_mistakes_are_one_sentence(
    words: list[str],
    said: str,
    parrot: Run,
    pictures: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = tmp_path / "groups.csv"
    wrong.write_text("file,label\nnothing.png,a\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"SELF": parrot.folder, "TRAIN": pictures[0], "OTHER": pictures[1], "EMPTY": empty, "WRONG": wrong}
    with pytest.raises(SystemExit) as end:
        cli.main(["audit", str(parrot.folder), *(str(places.get(w, w)) for w in words)])
    assert end.value.code == 2
    complaint = capsys.readouterr().err
    assert said in complaint and complaint.count("\n") == 1


@pytest.mark.usefixtures("quick")
def test_groups_of_a_file_of_attributes(parrot: Run, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    lines = [
        f"{p.relative_to(pictures[0])},{'first' if int(p.stem) < 30 else 'second'}" for p in pictures[0].rglob("*.png")
    ]
    table = tmp_path / "groups.csv"
    table.write_text("\n".join(["file,label", *lines]))
    result = genloom.audit(parrot, holdout=pictures[1], n=60, attributes=table)
    assert result["groups"].keys() == {"first", "second"}
    table.write_text("\n".join(["file,label", *lines[::2]]))
    assert [s for s in genloom.audit(parrot, n=60, attributes=table)["cannot"] if f"30 of {COUNT}" in s]
    table.write_text("\n".join(["file,label", *(line.replace("second", "first") for line in lines)]))
    alone = genloom.audit(parrot, holdout=pictures[1], n=60, attributes=table)
    assert "groups" not in alone and [s for s in alone["cannot"] if "one value, first" in s]


@pytest.mark.usefixtures("quick")
def test_a_reference_is_asked_of_the_same_items(
    parrot: Run, pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = genloom.fit("test_parrot", pictures[1], tmp_path / "other", quiet=True)
    mosts = iter((15, 20))
    monkeypatch.setattr(Judge, "most", lambda self: next(mosts))
    assert "membership-auc" in named(genloom.audit(parrot, holdout=pictures[1], n=20, reference=other))


@pytest.mark.usefixtures("quick")
def test_groups_are_judged_by_as_many_and_never_by_themselves(
    parrot: Run, pictures: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "ENOUGH", 10)
    result = genloom.audit(parrot, holdout=pictures[1], n=60)
    light, dark = result["groups"]["light"], result["groups"]["dark"]
    assert light["n"] != dark["n"] and result["judged"] == min(light["n"], dark["n"], light["n_data"], dark["n_data"])
    for group in (light, dark):
        assert group["recall_low"] <= group["recall"] <= group["recall_high"] and group["precision_high"] > 0.1
    page = (parrot.folder / "report.html").read_text()
    assert f"Precision and recall of {result['judged']} samples" in page
    seen: list[set[int]] = []
    voters_of = coverage.voters_of
    monkeypatch.setattr(
        coverage, "voters_of", lambda data, rows: (seen.append(set(rows.tolist())), voters_of(data, rows))[1]
    )
    told = auditing.Subject(parrot, sides(parrot, None, None)[0], None, 60, 0, 0.01, 0.6)
    voters, real, _ = coverage._split(told, told.data)
    assert len(voters) == COUNT - COUNT // 3 and not {*voters.tolist()} & {*real.tolist()}
    coverage.look(told, auditing.Found([], [], {}))
    assert seen == [{*voters.tolist()}]


@pytest.mark.usefixtures("quick")
def test_balanced_samples_are_as_many_of_each_group(
    pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = genloom.fit("test_parrot", pictures[0], tmp_path / "run", quiet=True)
    words = ["sample", str(run.folder), "--balance", "label"]
    cli.main([*words, "-n", "12", "--out", str(tmp_path / "made")])
    made = sorted((tmp_path / "made").glob("*.png"))
    light = [p for p in made if np.asarray(Image.open(p)).mean() > 127]
    assert len(made) == 12 and len(light) == 6  # of three that it makes one is light
    with pytest.raises(SystemExit):
        cli.main([*words, "--out", str(tmp_path / "made.png")])
    assert "give --out a folder" in capsys.readouterr().err
    alone = genloom.sample(run, int(made[-1].stem) + 1)[-1]
    assert np.array_equal(np.asarray(Image.open(made[-1])), ((alone[0] + 1) * 127.5).round().to(torch.uint8).numpy())
    monkeypatch.setattr(Parrot, "sample", lambda self, n, **_: torch.full((n, 1, SIDE, SIDE), -0.5))
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "-n", "4", "--out", str(tmp_path / "none")])
    assert end.value.code == 2 and "hardly makes them" in capsys.readouterr().err


def test_canaries_are_the_more_exposed_the_more_often_they_were_planted(tmp_path: Path) -> None:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "nine", "zebras", "yawn"]
    random = np.random.default_rng(0)
    text = tmp_path / "small.txt"
    text.write_text(" ".join(random.choice(words, 1500)))
    run = genloom.fit("gpt", text, tmp_path / "run", recipe="tiny", steps=120, lr=1e-2, canaries=10, quiet=True)
    assert run.info["data"]["canaries"] == {"count": 10, "seed": 0} and "--canaries 10" in run.info["command"]
    result = genloom.audit(run, n=10)
    bits = {int(t): float(np.mean(b)) for t, b in result["canaries"].items()}
    assert bits[16] > bits[1] + 1 and bits[16] > 4
    assert "canary-exposure" in named(result)


def test_canaries_are_planted_as_often_as_said_and_depend_on_their_number_alone(pictures: tuple[Path, Path]) -> None:
    data = genloom.data.open_data(pictures[0], modality="image")
    with_canaries = Planted(data, 7, 3)
    assert len(with_canaries) == len(data) + sum(TIMES) + sum(TIMES[:2])
    first = with_canaries.batch(np.array([0, len(data), len(data) + 1, len(data) + 2]))
    assert torch.equal(first["image"][:1], data.batch(np.array([0]))["image"])
    assert torch.equal(first["image"][2], first["image"][3]) and not torch.equal(first["image"][1], first["image"][2])
    assert len(with_canaries.labels()) == len(with_canaries)  # type: ignore[arg-type]
    assert with_canaries.fingerprint != data.fingerprint != Planted(data, 7, 4).fingerprint


def test_spans_longer_than_any_of_held_out_text_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    text = "".join(random.choice(list("abcdefgh "), 12_000))
    (tmp_path / "text.txt").write_text(text)
    run = genloom.fit("gpt", tmp_path / "text.txt", tmp_path / "run", recipe="tiny", steps=2, quiet=True)
    stolen = [text[100 + 80 * i :][:80] if i % 2 else "".join(random.choice(list("abcdefgh "), 80)) for i in range(20)]
    monkeypatch.setattr(copies.generate, "draw", lambda *_, **__: stolen)
    result = auditing.audit_run(run, n=20)
    found = named(result)["copies"]
    assert found["value"] == 0.5 and found["flagged"]
    assert result["spans"][0]["text"] in text and result["spans"][0]["length"] == 80
    other = "".join(random.choice(list("abcdefgh "), 6_000))
    (tmp_path / "half.txt").write_text(text[:6_000] + other)
    assert named(auditing.audit_run(run, n=20, holdout=tmp_path / "half.txt"))["copies"]["value"] == 0.5
    (tmp_path / "part.txt").write_text(text[:9_000])
    with pytest.raises(UserError, match="held-out window is a training window too"):
        auditing.audit_run(run, n=20, holdout=tmp_path / "part.txt")
    with pytest.raises(UserError, match="are counted in pictures and tables"):
        auditing.audit_run(run, n=20, attributes="groups.csv")


def test_statistics_have_known_values() -> None:
    low, high = wilson(0, 10)
    assert low == 0 and high == pytest.approx(0.2775, abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert auc(np.array([1.0, 2.0]), np.array([0.0, 1.0])) == 0.875
    outside = np.arange(100.0)
    assert tpr_at(np.array([98.5, 99.5, 50.0, 97.0]), outside, 0.01) == 0.5  # one of a hundred may be above


def test_sound_from_nothing_that_is_training_sound_is_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = genloom.fit("test_tape", "speech", tmp_path / "run", quiet=True)
    for clips, share in zip(sides(run, None, None), (1, 0), strict=True):
        monkeypatch.setattr(copies.measure_sound, "made", lambda model, data, n, seed, of=clips: clips_of(of, n))
        assert abs(named(genloom.audit(run, n=10))["copies"]["value"] - share) < 0.1


def test_held_out_sound_that_was_trained_on_is_known(tmp_path: Path) -> None:
    run = genloom.fit("test_tape", "speech", tmp_path / "run", quiet=True)
    train, held = sides(run, None, None)
    assert held is not None
    twins = auditing.Subject(run, train, held, 9, 0, 0.01, 0.6).twins
    assert twins is not None and twins.again(train, np.arange(20)).all() and not twins.again(held, np.arange(20)).any()
    assert twins.again(open_data("speech", modality="audio", held_out=0).still(), np.arange(20)).all()
    assert not twins.twice(np.arange(20)).any()


def clips_of(data: Any, n: int) -> list[Tensor]:
    """Two seconds out of the middle of each."""
    long = [torch.from_numpy(np.array(clip, np.float32)) for _, clip in data.clips() if len(clip) > 48_000]
    return [clip[8_000:40_000] for clip in long[:n]]


def test_clips_that_are_training_clips_are_flagged(tmp_path: Path) -> None:
    train, other = Moving(0, 40), Moving(40, 40)
    for shown, share in ((train, 1), (other, 0)):
        run = saved(tmp_path / str(share), "clips_for_test", train.spec, {"clips": shown.batch(np.arange(40))["video"]})
        found = auditing.Found([], [], {})
        copies.look(auditing.Subject(run, train, Moving(80, 40), 16, 0, 0.01, 0.6), found)
        assert abs(found.findings[0].value - share) < 0.1 and found.findings[0].flagged == bool(share)
        assert (run.folder / "samples" / "copies.png").is_file()
