"""genloom detect: what files tell of their origin, one by one and in folders."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import genloom
from genloom.cli import main
from genloom.detect import Finding, detect, table
from genloom.errors import UserError
from genloom.generate import to_files
from genloom.provenance import keys, read_label, write_label

pytest.importorskip("c2pa")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> genloom.Run:
    folder = tmp_path_factory.mktemp("runs") / "digits-run"
    return genloom.fit("cvae", "digits", folder, recipe="tiny", quiet=True, steps=1)


@pytest.fixture
def folder(run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file of each fate."""
    out = tmp_path / "found"
    whole, changed, again, _ = to_files(run, 4, out, seed=2)
    raw = changed.read_bytes()
    at = raw.index(b"IDAT") + 12
    changed.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with Image.open(again) as image:
        image.save(again, "PNG")
    with monkeypatch.context() as patch:
        patch.setenv("GENLOOM_HOME", str(tmp_path / "elsewhere"))
        to_files(run, 1, out / "theirs", seed=3)
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/" '
        b'TC260:AIGC="{&quot;Label&quot;:&quot;1&quot;,&quot;ContentProducer&quot;:&quot;doubao&quot;}"/></rdf:RDF></x:xmpmeta>'
    )
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(out / "other.jpg", xmp=xmp)
    (out / "poem.txt").write_text("plain")
    (out / "weights.bin").write_bytes(b"no picture")
    (out / ".hidden.png").write_bytes(whole.read_bytes())
    return out


def test_each_fate_is_told(folder: Path) -> None:
    found = {f.file.relative_to(folder).as_posix(): f for f in detect([folder])}
    assert {k: (f.c2pa.state, bool(f.label), f.generated) for k, f in found.items()} == {
        "00000.png": ("valid", True, "proved"),
        "00001.png": ("invalid", True, "says so"),
        "00002.png": ("absent", False, "unknown"),
        "00003.png": ("valid", True, "proved"),
        "theirs/00000.png": ("foreign", True, "says so"),
        "other.jpg": ("absent", False, "says so"),
        "poem.txt": ("absent", False, "unknown"),
    }
    assert found["other.jpg"].aigc == {"Label": "1", "ContentProducer": "doubao"}
    assert found["00003.png"].origin and found["00003.png"].origin.index == 3
    assert found["00000.png"].run is None and "--run" in found["00000.png"].note


def test_the_run_is_found(folder: Path, run: genloom.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (given,) = detect([folder / "00000.png"], run.folder)
    assert given.run == str(run.folder) and not given.note
    monkeypatch.chdir(run.folder.parent)
    (found,) = detect([folder / "00000.png"])
    assert found.run == "digits-run"


def test_the_table_has_a_line_a_file_and_each_note_once(folder: Path) -> None:
    lines = table(detect([folder])).splitlines()
    assert len([line for line in lines if ".png" in line and "genloom" in line]) == 4
    assert next(line for line in lines if "00003.png" in line).split()[1:3] == ["valid", "genloom"]
    assert "digits-run #3 of seed 2" in table(detect([folder]))
    assert lines.count("the file was changed after it was signed") == 1
    assert any("doubao" in line for line in lines)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`genloom …` in this process: exit code, output, complaint."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        try:
            main(list(map(str, words)))
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_from_the_command_line(folder: Path, command: Any, here: Any) -> None:
    told = json.loads(command("detect", folder, "--json").stdout)
    first = next(f for f in told if f["file"].endswith("found/00000.png"))
    assert first["c2pa"]["state"] == "valid" and first["label"]["seed"] == 2 and first["watermark"] is None
    assert {"file", "generated", "c2pa", "label", "aigc", "watermark", "run", "note", "error"} == first.keys()
    assert "00001.png" in here("detect", folder)[1]
    for words, said in [((), "detect needs files"), (("nowhere.png",), "nowhere.png")]:
        code, _, complaint = here("detect", *words)
        assert code == 2 and said in complaint and len(complaint.splitlines()) == 1


def test_sample_like_from_the_command_line(run: genloom.Run, tmp_path: Path, command: Any, here: Any) -> None:
    path = to_files(run, 2, tmp_path / "out", seed=4)[1]
    done = command("sample", "--like", path, "--run", run.folder, "--out", "again")  # in a process of its own
    assert done.returncode == 0 and "exactly the same" in done.stdout, done.stderr
    with Image.open(tmp_path / "again" / path.name) as made, Image.open(path) as first:
        assert np.array_equal(np.asarray(made), np.asarray(first))
    code, _, complaint = here("sample", "--like", path)
    assert code == 2 and "digits-run" in complaint and len(complaint.splitlines()) == 1
    assert "exactly the same" in here("sample", run.folder, "--like", path)[1]
    assert here("sample", run.folder, "-n", 1, "--out", "bare", "--no-provenance")[0] == 0
    assert detect([tmp_path / "bare"])[0].generated == "unknown"
    assert here("sample", run.folder, "--seeds", "4", "--out", "seeds")[0] == 0
    assert {f.c2pa.state for f in detect([tmp_path / "seeds"])} == {"valid"}
    code, _, complaint = here("sample", run.folder, "-n", 1, "--visible-label")
    assert code == 2 and "64 pixels" in complaint


def test_a_watermark_is_looked_for_where_there_is_a_key(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"00002.png": (9.5, 1e-12)}
    monkeypatch.setattr(
        "genloom.provenance.watermark.score", lambda path, key, spec=None: scores.get(path.name, (0.1, 0.46))
    )
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    assert detect([folder / "00002.png"])[0].watermark is None  # no key has been made here, and looking makes none
    assert keys.existing_key() is None
    keys.installation_key()
    found = detect([folder / "00002.png", folder / "other.jpg"])
    assert [f.generated for f in found] == ["proved", "says so"]
    assert "9.50, p 1e-12" in table(found)


def test_among_many_files_some_have_a_watermark_by_chance_and_that_is_said() -> None:
    def files(*values: float) -> list[Finding]:
        return [Finding(Path(f"{i}.png"), watermark=(3.0, p)) for i, p in enumerate(values)]

    told = table(files(5e-4, *[0.5] * 1999))
    assert "Of 2,000 files without a label 1 show a watermark at p 0.001 or less, as about 2 would by chance" in told
    assert "has p 5e-07 or less" in told
    assert "by chance" not in table(files(5e-4)) + table(files(1e-9, 1e-12, 0.5)) + table(files(0.3, 0.5))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\xff\xffIHDR")
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing")
    found = detect([tmp_path / "a.png"])
    assert found[0].note and found[0].generated == "unknown"
    with pytest.raises(UserError, match=r"b\.png"):
        detect([tmp_path / "b.png"])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no file" in table(detect([empty]))
    (empty / "zero.png").write_bytes(b"")
    assert detect([empty / "zero.png"])[0].generated == "unknown"


def test_a_broken_key_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    shutil.copytree(keys.home(), home)
    (home / keys.KEY).write_bytes(b"short")
    monkeypatch.setenv("GENLOOM_HOME", str(home))
    with pytest.raises(UserError, match="has 5 bytes"):
        detect([folder])


def test_a_file_that_is_strange_is_one_row_and_the_others_are_told(folder: Path) -> None:
    (folder / "head.ogg").write_bytes(b"OggS")
    for name, producer in {"rows.jpg": "x\\nfake.png  valid  \\u001b[2J", "half.jpg": "\\ud800"}.items():
        xmp = (folder / "other.jpg").read_bytes().replace(b"doubao", producer.encode())
        before, after = len(b"doubao"), len(producer)
        at = xmp.index(b"http://ns.adobe.com/xap/1.0/") - 2
        size = int.from_bytes(xmp[at : at + 2], "big") + after - before
        (folder / name).write_bytes(xmp[:at] + size.to_bytes(2, "big") + xmp[at + 2 :])
    shown = table(detect([folder]))
    lines = shown.splitlines()
    assert all(any(name in line for line in lines) for name in ("00000.png", "head.ogg", "rows.jpg", "half.jpg"))
    assert not any(line.startswith("fake.png") for line in lines) and "\x1b" not in shown
    shown.encode()
    main(["detect", str(folder), "--json"])


def test_without_pyav_its_files_have_a_note_and_the_others_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.installation_key()
    for name in ("a.ogg", "b.webm", "c.flac"):
        head = {"a.ogg": b"OggS", "b.webm": b"\x1a\x45\xdf\xa3webm", "c.flac": b"fLaC\x80\0\0\0"}[name]
        (folder / name).write_bytes(head + bytes(60))
    told = {f.file.name: f.note for f in detect([folder])}
    assert "FFmpeg says" in told["a.ogg"] and "Errno" not in told["a.ogg"]
    monkeypatch.setitem(sys.modules, "av", None)
    found = {f.file.name: f for f in detect([folder])}
    assert all("pip install" in found[name].note for name in ("a.ogg", "b.webm", "c.flac"))
    assert found["00003.png"].c2pa.state == "valid" and not found["poem.txt"].error


def test_nothing_moves_about_on_the_screen_and_no_name_widens_the_table(folder: Path, here: Any) -> None:
    name = f"first\x7f\x9b2J\u202e{'名' * 60}last.jpg"
    long = folder / "deep" / ("x" * 200) / name
    long.parent.mkdir(parents=True)
    long.write_bytes((folder / "other.jpg").read_bytes())
    _, told, _ = here("detect", folder, "--json")
    assert all(c.isprintable() or c == "\n" for c in told) and "名" in told
    assert str(long) in [f["file"] for f in json.loads(told)]
    _, shown, _ = here("detect", folder)
    (line,) = [line for line in shown.splitlines() if "last.jpg" in line]
    assert "…" in line and len(line) < 160


def test_a_run_whose_name_is_too_long_for_a_folder_is_not_found(run: genloom.Run, tmp_path: Path) -> None:
    (path,) = to_files(run, 1, tmp_path / "one")
    origin = read_label(path)
    assert origin
    write_label(path, replace(origin, run="a" * 5000))
    assert detect([path])[0].label and main(["detect", str(path)]) in (None, 0)


def test_a_run_that_makes_no_text_cannot_read_one(run: genloom.Run, folder: Path) -> None:
    keys.installation_key()
    (found,) = detect([folder / "poem.txt"], run.folder)
    assert found.note == f"A text's watermark is read by a run that makes text: '{run.folder}' makes image."
    assert found.note in table([found])


def test_a_run_of_texts_without_a_tokenizer_is_told_from_one_of_pictures(tmp_path: Path) -> None:
    keys.installation_key()
    made = genloom.fit("gpt", "songci", tmp_path / "run", recipe="tiny", quiet=True, steps=1)
    info = json.loads((made.folder / "run.json").read_text())
    del info["spec"]["extra"]["tokenizer"]
    (made.folder / "run.json").write_text(json.dumps(info))
    (tmp_path / "poem.txt").write_text("plain")
    (found,) = detect([tmp_path / "poem.txt"], made.folder)
    assert found.note == (
        f"A text's watermark is read by tokens, and '{made.folder}' has no tokenizer: give a run that has one."
    )


def test_all_that_is_amiss_with_a_file_is_said(folder: Path) -> None:
    keys.installation_key()
    (folder / "poem.txt.genloom.json").write_text("{}")
    (found,) = detect([folder / "poem.txt"])
    assert "other contents" in found.note and "--run" in found.note
    assert all(note in table([found]) for note in found.notes)
