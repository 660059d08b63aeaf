"""Folders of sound to items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_sound import tone, wav

import genloom
from genloom.cli import main
from genloom.data import open_data
from genloom.data.audio import AudioSet
from genloom.errors import UserError


def folder(path: Path, **files: bytes) -> Path:
    for name, raw in files.items():
        file = path / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(raw)
    return path


def ramp(rate: int, seconds: float) -> np.ndarray:
    return np.linspace(-0.9, 0.9, int(rate * seconds), dtype=np.float32)


def test_segments_cover_a_file_and_move_by_seed_and_number(tmp_path: Path) -> None:
    data = open_data(folder(tmp_path, a_wav=wav(ramp(8000, 3.5), 8000).getvalue()), seconds=0.5, held_out=0)
    assert isinstance(data, AudioSet) and len(data) == 7 and data.spec.shape == (1, 4000)
    assert data.spec.extra == {"rate": 8000} and data.held_out() is None
    items = data.batch(np.arange(7), seed=1)["audio"]
    assert items.shape == (7, 1, 4000) and items.dtype == torch.float32
    assert torch.equal(items[3], data.batch(np.array([3]), seed=1)["audio"][0])
    assert not torch.equal(items, data.batch(np.arange(7), seed=2)["audio"])
    assert (items.diff(dim=2) > -1e-4).all()  # each is a piece of the ramp, and none goes over the file's end


def test_files_are_held_out_whole_sub_folders_are_classes_and_short_ones_are_filled_up(tmp_path: Path) -> None:
    files = {
        f"{kind}__{i}_wav": wav(tone(8000, 0.3, pitch), 8000).getvalue()
        for kind, pitch in (("high", 900), ("low", 200))
        for i in range(10)
    }
    data = open_data(folder(tmp_path, **files), seconds=0.5, held_out=0.1)
    assert data.spec.classes == ("high", "low") and len(data) == 18 and len(data.held_out()) == 2
    batch = data.batch(np.arange(18))
    assert torch.equal(batch["label"], data.labels()) and data.labels().tolist() == [0] * 9 + [1] * 9
    assert (batch["audio"][..., 2400:] == 0).all() and (batch["audio"][..., :2400].abs().amax(2) > 0.4).all()
    assert data.summary["notes"] == ["20 files are shorter than an item, and are filled up with silence."]
    assert torch.equal(open_data(tmp_path, seconds=0.5, held_out=0.1, split="test").labels(), torch.tensor([0, 1]))


def test_of_a_few_long_files_a_stretch_of_each_is_held_out(tmp_path: Path) -> None:
    folder(tmp_path, a_wav=wav(ramp(8000, 12), 8000).getvalue(), b_wav=wav(tone(8000, 2), 8000).getvalue())
    data = open_data(tmp_path, seconds=0.5)  # 5 % of 12 s is more than an item, of 2 s less
    held = data.held_out()
    assert isinstance(held, AudioSet) and len(data) == 11 + 11 + 4 and len(held) == 1 and data.summary["items"] == 2
    (middle,), (before, after, _) = [wave for _, wave in held.clips()], [wave for _, wave in data.clips()]
    assert len(middle) == 4800 and before[-1] <= middle[0] < middle[-1] <= after[0]
    said = "Too few files to keep whole ones out of training: 5 % of it is, from the middle."
    assert data.summary["notes"] == [said]
    assert open_data(tmp_path, seconds=0.5, split="test").fingerprint == data.fingerprint
    assert open_data(tmp_path, seconds=2).held_out() is None


def test_the_commonest_rate_is_taken_and_another_may_be_asked_for(tmp_path: Path) -> None:
    one, two = wav(tone(8000), 8000).getvalue(), wav(tone(44_100), 44_100).getvalue()
    folder(tmp_path, a_wav=one, b_wav=one, c_wav=two, d_txt=b"words")
    data = open_data(tmp_path, held_out=0)
    assert data.spec.extra["rate"] == 8000 and len(data) == 3
    assert open_data(tmp_path, rate=16_000, held_out=0).spec.shape == (1, 16_000)
    assert open_data(folder(tmp_path / "x", a_wav=two), held_out=0).spec.extra["rate"] == 24_000
    assert open_data(tmp_path, like=open_data(tmp_path, rate=11_025, seconds=0.2).spec).spec.shape == (1, 2205)


def test_what_is_odd_is_said_and_files_can_be_brought_to_one_level(tmp_path: Path) -> None:
    quiet, square = tone(8000) / 10, np.sign(tone(8000)) * 1.0
    folder(tmp_path, a_wav=wav(quiet, 8000).getvalue(), b_wav=wav(quiet * 0, 8000).getvalue())
    folder(tmp_path, c_wav=wav(square.astype(np.float32), 8000).getvalue(), d_wav=b"no sound", e_wav=b"")
    data = open_data(tmp_path, held_out=0, level=True)
    assert data.summary["skipped"] == {
        "count": 2,
        "files": {"d.wav": "no sound that can be read", "e.wav": "no sound that can be read"},
    }
    assert data.summary["notes"] == [
        "1 files are silent, such as b.wav.",
        "1 files are clipped, for they reach full scale, such as c.wav.",
    ]
    peaks = data.batch(np.arange(3))["audio"].abs().amax((1, 2))
    assert peaks.tolist() == pytest.approx([0.95, 0.0, 0.95], abs=1e-3)


def test_long_sound_is_read_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, a_wav=wav(tone(8000, 2), 8000).getvalue(), b_wav=wav(tone(8000, 2, 300), 8000).getvalue())
    whole = open_data(tmp_path, seconds=0.5)
    monkeypatch.setattr("genloom.data.growing.IN_MEMORY", 1000)
    assert torch.equal(
        open_data(tmp_path, seconds=0.5).batch(np.arange(8))["audio"], whole.batch(np.arange(8))["audio"]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seconds": 0}, "seconds must be from 0.01 to 600, not 0"),
        ({"rate": 10}, "rate must be from 1,000"),
        ({"secnds": 1}, "Did you mean 'seconds'"),
        ({"split": "train"}, r"No sound in '.*' can be used, such as 'a.wav': no sound that can be read"),
        ({"split": "tset"}, "Did you mean 'test'"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_data(folder(tmp_path, a_wav=b"words"), **options)


def test_a_model_of_other_data_says_so(tmp_path: Path) -> None:
    folder(tmp_path, a_wav=wav(tone(8000), 8000).getvalue())
    with pytest.raises(UserError, match=r"holds no picture, but 1 other file, such as a.wav"):
        genloom.fit("gan", tmp_path, tmp_path / "run", steps=1)


def test_the_preflight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = wav(tone(8000), 8000).getvalue()
    folder(
        tmp_path, a_wav=sound, b_wav=sound, c_wav=wav(tone(44_100, 3) * 0, 44_100, 2).getvalue(), d_wav=b"", e_txt=b"a"
    )
    facts = genloom.inspect(tmp_path)
    assert facts["files"] == 3 and facts["shortest"] == 1 and facts["longest"] == 3
    assert facts["rates"] == {"8000": 2, "44100": 1} and facts["channels"] == {"1": 2, "2": 1}
    assert facts["levels"] == [-120.0, -9.0, -9.0]  # a sine of half of full scale: 20 log 0.5 - 3
    assert facts["silent"] == ["c.wav"] and facts["clipped"] == [] and facts["duplicates"] == [["a.wav", "b.wav"]]
    assert facts["unreadable"] == {"d.wav": "no sound that can be read"}
    main(["data", "inspect", str(tmp_path)])
    assert "a.wav = b.wav" in capsys.readouterr().out
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("some words")
    assert genloom.inspect(tmp_path / "words")["documents"] == 1
