"""Files say where they come from: labels that other programs read, manifests that the official library verifies."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import resource
import shutil
import stat
import subprocess
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

import genloom
from genloom.again import again, essence
from genloom.detect import detect
from genloom.errors import UserError
from genloom.generate import to_files
from genloom.origin import HASHED, Marks, weights_hash
from genloom.provenance import Origin, Signer, check, keys, label, manifest, mark, read_label, write_label

pytest.importorskip("c2pa")
av = pytest.importorskip("av")

ORIGIN = Origin(
    "gan",
    "gan-mnist",
    "ab" * 32,
    seed=3,
    index=5,
    of=64,
    conditions={"prompt": "苏轼 & <Su> 'Shi'", "label": "7", "truncation": 0.7},
    command="genloom sample runs/gan-mnist -n 64 --seed 3",
    created="2026-01-02T03:04:05Z",
)


# ── real files of every kind ─────────────────────────────────────────────────────────────────────────────────────
def pixels(height: int = 96, width: int = 80, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def picture(path: Path, frames: int = 1, **options: Any) -> Path:
    first, *rest = [Image.fromarray(pixels(seed=i)) for i in range(frames)]
    first.save(path, **({"save_all": True, "append_images": rest, "loop": 0} if rest else {}), **options)
    return path


def tone(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes((np.sin(np.arange(4001) / 7) * 9000).astype("<i2").tobytes())
    return path


def coded(path: Path, codec: str, form: str | None = None, **options: str) -> Path:
    """A sound, or a film of six frames, by FFmpeg."""
    with av.open(str(path), "w", format=form, options=options) as file:
        if av.Codec(codec, "w").type == "audio":
            track = file.add_stream(codec, rate=48_000, layout="mono")
            sound = (np.sin(np.arange(9600) / 40) * 9000).astype("<i2")[None]
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            frame.sample_rate = 48_000
            size = track.codec_context.frame_size or 4096
            frames = av.AudioResampler(track.codec_context.format, "mono", 48_000, frame_size=size).resample(frame)
        else:
            track = file.add_stream(codec, rate=8)
            track.width, track.height, track.pix_fmt = 80, 96, "yuv420p"
            frames = [av.VideoFrame.from_ndarray(pixels(seed=i), format="rgb24") for i in range(6)]
        for frame in [*frames, None]:
            for packet in track.encode(frame):
                file.mux(packet)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "still.png": picture,
    "grey.png": lambda p: (Image.fromarray(pixels()[..., 0]).save(p), p)[1],
    "film.png": lambda p: picture(p, 3),
    "still.jpg": picture,
    "still.webp": picture,
    "exact.webp": lambda p: picture(p, lossless=True),
    "clear.webp": lambda p: (Image.fromarray(pixels()).convert("RGBA").save(p, lossless=True), p)[1],
    "film.webp": lambda p: picture(p, 3),
    "still.gif": picture,
    "film.gif": lambda p: picture(p, 3),
    "tone.wav": tone,
    "tone.flac": lambda p: coded(p, "flac"),
    "tone.mp3": lambda p: coded(p, "libmp3lame"),
    "bare.mp3": lambda p: coded(p, "libmp3lame", id3v2_version="0", write_xing="0"),
    "old.mp3": lambda p: coded(p, "libmp3lame", id3v2_version="3"),
    "tone.m4a": lambda p: coded(p, "aac", "ipod"),
    "tone.opus": lambda p: coded(p, "libopus", "ogg"),
    "film.mp4": lambda p: coded(p, "libx264"),
    "quick.mp4": lambda p: coded(p, "libx264", movflags="+faststart"),
    "film.mov": lambda p: coded(p, "libx264", "mov"),
    "film.mkv": lambda p: coded(p, "libx264", "matroska"),
    "film.webm": lambda p: coded(p, "libvpx", "webm"),
}
UNSIGNED = (".opus", ".mkv", ".webm")  # C2PA has no place in these


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for name, make in MAKERS.items():
        make(folder / name)
    return folder


@pytest.fixture
def copy(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copy(originals / name, tmp_path / name))


def decoded(path: Path) -> np.ndarray:
    """All that a person sees or hears of a file, by Pillow or FFmpeg."""
    if path.suffix in (".png", ".jpg", ".webp", ".gif"):
        with Image.open(path) as image:
            return np.stack([np.asarray(f.convert("RGBA")) for f in ImageSequence.Iterator(image)])
    with av.open(str(path)) as file:
        return np.concatenate([f.to_ndarray().ravel() for f in file.decode(file.streams[0])])


def told_elsewhere(path: Path) -> dict[str, str]:
    """The two texts as Pillow or FFmpeg gives them."""
    if path.suffix in (".png", ".jpg", ".webp"):
        with Image.open(path) as image:
            packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
        tree = ElementTree.fromstring(packet if isinstance(packet, bytes) else packet.encode())
        found = {name: tree.find(f".//{{{space}}}{tag}") for name, (space, tag) in PROPERTIES.items()}
        return {name: node.text or "" for name, node in found.items() if node is not None}
    with av.open(str(path)) as file:
        told = {**file.metadata, **file.streams[0].metadata}
    return {"AIGC": told.get("AIGC", ""), "GENLOOM": told.get("GENLOOM") or told.get("comment", "")}


PROPERTIES = {
    "AIGC": ("http://www.tc260.org.cn/ns/AIGC/1.0/", "AIGC"),
    "GENLOOM": ("urn:genloom:origin/1.0/", "Origin"),
    "kind": ("http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "DigitalSourceType"),
}


# ── marking ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", MAKERS)
def test_a_marked_file_says_where_it_is_from_and_looks_and_sounds_as_before(name: str, copy: Any) -> None:
    path = copy(name)
    before, told = decoded(path), label.texts(path)
    assert told == {} and check(path).state == "absent"
    mark([path], [ORIGIN], Signer())
    assert read_label(path) == ORIGIN
    assert np.array_equal(decoded(path), before)
    found = check(path)
    if path.suffix in UNSIGNED:
        assert found.state == "absent"
    else:
        assert (found.state, found.origin, found.program) == ("valid", ORIGIN, "genloom")
    later = replace(ORIGIN, seed=4)
    mark([path], [later], Signer())  # anew: one label, one manifest
    assert read_label(path) == later and check(path).state in ("valid", "absent")
    assert np.array_equal(decoded(path), before)
    assert path.read_bytes().count(b'"ContentProducer"') == 1
    assert os.listdir(path.parent) == [name]


@pytest.mark.parametrize("name", [n for n in MAKERS if not n.endswith(".gif")])
def test_other_programs_read_the_labels(name: str, copy: Any) -> None:
    path = copy(name)
    mark([path], [ORIGIN], Signer())
    told = told_elsewhere(path)
    assert Origin.from_json(told["GENLOOM"]) == ORIGIN
    if path.suffix != ".wav":  # of a WAV they read the comment alone, not the chunk that China's guide asks for
        assert json.loads(told["AIGC"])["ContentProducer"] == "genloom"
    if "kind" in told:
        assert told["kind"].endswith("/trainedAlgorithmicMedia")


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
def test_exiftool_reads_the_labels(originals: Path, tmp_path: Path) -> None:
    names = [n for n in MAKERS if n != "bare.mp3"]
    paths = [Path(shutil.copy(originals / n, tmp_path / n)) for n in names]
    mark(paths, [ORIGIN] * len(paths), Signer())
    asked = ["exiftool", "-a", "-G1", "-Aigc", "-UserDefinedText", "-Comment", "-Warning", "-Error", *map(str, paths)]
    seen = subprocess.run(asked, capture_output=True, text=True).stdout.split("======== ")[1:]
    for name, told in zip(names, seen, strict=True):
        assert ('"run":"gan-mnist"' if name.endswith(".wav") else '"ContentProducer":"genloom"') in told, told
        doubts = [line for line in told.splitlines() if "Warning" in line or "Error" in line]
        assert all("Invalid ID3 frame size" in d for d in doubts), told  # it says so of every tag that c2pa-rs writes


def test_the_official_library_verifies_without_knowing_us(copy: Any) -> None:
    import c2pa

    path = copy("still.png")
    mark([path], [ORIGIN], Signer())
    with c2pa.Reader(str(path)) as reader:
        assert reader.get_validation_state() == "Valid"
        failures = reader.get_validation_results()["activeManifest"]["failure"]
        assert [f["code"] for f in failures] == ["signingCredential.untrusted"]
        (action,) = reader.get_active_manifest()["assertions"][0]["data"]["actions"]
    assert action["action"] == "c2pa.created" and action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["parameters"]["genloom"]["run_hash"] == ORIGIN.run_hash


def test_the_label_of_gb_45438(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy("tone.wav")
    monkeypatch.setenv("GENLOOM_PRODUCER", "001191110102EXAMPLE00000001")
    write_label(path, ORIGIN)
    raw = path.read_bytes()
    at = raw.index(b"AIGC")
    told = raw[at + 8 : at + 8 + int.from_bytes(raw[at + 4 : at + 8], "little")].decode()
    assert list(json.loads(told).items()) == [
        ("Label", "1"),
        ("ContentProducer", "001191110102EXAMPLE00000001"),
        ("ProduceID", ORIGIN.number),
        ("ReservedCode1", ""),
        ("ContentPropagator", ""),
        ("PropagateID", ""),
        ("ReservedCode2", ""),
    ]
    assert all(0x21 <= ord(c) <= 0x7E for value in json.loads(told).values() for c in value)  # annex E j
    assert replace(ORIGIN, index=6).number != ORIGIN.number == replace(ORIGIN, created="").number
    monkeypatch.setenv("GENLOOM_PRODUCER", "某公司 Ltd")
    with pytest.raises(UserError, match="GENLOOM_PRODUCER"):
        write_label(path, ORIGIN)
    assert path.read_bytes() == raw


def test_texts_and_unknown_kinds_have_theirs_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("明月几时有")
    Image.fromarray(pixels()).save(tmp_path / "b.bmp")
    paths = [tmp_path / "a.txt", tmp_path / "b.bmp"]
    before = [p.read_bytes() for p in paths]
    mark(paths, [ORIGIN, ORIGIN], Signer())
    assert [p.read_bytes() for p in paths] == before
    assert [read_label(p) for p in paths] == [ORIGIN, ORIGIN]
    beside = json.loads((tmp_path / "a.txt.genloom.json").read_text("utf-8"))
    (tmp_path / "a.txt").write_text("另一首")  # written anew without a label: the old one is not of it
    with pytest.raises(label.BrokenError, match="other contents"):
        read_label(tmp_path / "a.txt")
    assert beside["AIGC"]["Label"] == "1" and beside["genloom"]["conditions"]["prompt"] == ORIGIN.conditions["prompt"]


def test_metadata_of_others_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    theirs = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )
    Image.fromarray(pixels()).save(path, xmp=theirs)
    for _ in range(2):
        write_label(path, ORIGIN)
    with Image.open(path) as image:
        assert image.info["xmp"].count(b"dc:format") == 1 == image.info["xmp"].count(b"TC260:AIGC>{")
    sound = coded(tmp_path / "a.flac", "flac")
    with av.open(str(sound)) as file:
        encoder = file.metadata["encoder"]
    write_label(sound, ORIGIN)
    with av.open(str(sound)) as file:
        assert file.metadata["encoder"] == encoder


# ── what can go wrong ────────────────────────────────────────────────────────────────────────────────────────────
def test_a_changed_file_is_told(copy: Any) -> None:
    path = copy("still.png")
    mark([path], [ORIGIN], Signer())
    raw = path.read_bytes()
    at = raw.index(b"IDAT") + 40
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    assert (check(path).state, check(path).reason) == ("invalid", "the file was changed after it was signed")
    path.write_bytes(raw.replace(b'"seed":3', b'"seed":4'))  # another recipe: the label is part of what was signed
    assert read_label(path).seed == 4 and check(path).state == "invalid"  # type: ignore[union-attr]


def test_saved_anew_nothing_is_left(copy: Any) -> None:
    for name in ("still.png", "still.jpg", "film.webp"):
        path = copy(name)
        mark([path], [ORIGIN], Signer())
        with Image.open(path) as image:
            image.convert("RGB").save(path)
        assert read_label(path) is None and check(path).state == "absent"


def test_signed_by_others_and_a_lost_certificate(copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy("tone.wav")
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "other"))
    mark([path], [ORIGIN], Signer())
    assert check(path).state == "valid"
    shutil.rmtree(tmp_path / "other")
    found = check(path)
    assert found.state == "foreign" and "not by this installation" in found.reason and found.origin == ORIGIN
    keys.signing()  # a new certificate does not sign for the old one
    assert check(path).state == "foreign"


def test_the_key_of_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    assert keys.existing_key() is None and not (tmp_path / "home").exists()
    key = keys.installation_key()
    assert len(key) == 32 and keys.installation_key() == key == keys.existing_key()
    path = tmp_path / "home" / keys.KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(os.listdir(path.parent)) == 1
    path.write_bytes(key[:31])
    with pytest.raises(UserError, match="has 31 bytes"):
        keys.installation_key()
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="restore it from a copy"):
        keys.installation_key()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "file" / "home"))
    for keep in (keys.signing, keys.installation_key):
        with pytest.raises(UserError, match=r"cannot be written \(Not a directory\): .*GENLOOM_HOME=FOLDER"):
            keep()


def test_a_certificate_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    keys.signing()
    path = tmp_path / "home" / keys.SIGNING
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    whole = path.read_text()
    for broken, words in [
        (whole[whole.index("-----BEGIN CERT") :], "no private key"),
        (whole[: whole.index("-----BEGIN CERT")], "no certificate"),
        (whole.replace("\n", "\né", 1), "not PEM"),
    ]:
        path.write_text(broken, "utf-8")
        with pytest.raises(UserError, match=words):
            Signer()
    first, _, rest = whole.partition("-----BEGIN CERT")
    path.write_text(first + "-----BEGIN CERT" + rest.replace("M", "N", 9))
    with pytest.raises(UserError, match="cannot be used"):
        Signer()
    path.unlink()
    keys.signing()  # another key, under the first one's certificate
    path.write_text(path.read_text().partition("-----BEGIN CERT")[0] + "-----BEGIN CERT" + rest)
    with pytest.raises(UserError, match="cannot be used"):
        Signer()


def test_a_certificate_of_one_s_own(copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    root, theirs = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    chain = [
        keys._certificate(name, key.public_key(), "CA", root, authority=name == "CA")
        for name, key in (("studio", theirs), ("CA", root))
    ]
    old_form = form.PrivateFormat.TraditionalOpenSSL
    private = theirs.private_bytes(form.Encoding.PEM, old_form, form.NoEncryption())
    own = tmp_path / "own.pem"
    whole = private + b"".join(c.public_bytes(form.Encoding.PEM) for c in chain)
    own.write_bytes(whole)
    monkeypatch.setenv(keys.OWN, str(own))
    path = copy("still.png")
    mark([path], [ORIGIN], Signer())
    assert (check(path).state, check(path).signer) == ("valid", "studio")
    other = ec.generate_private_key(ec.SECP384R1())  # of the same root: not us
    leaf = keys._certificate("another", other.public_key(), "CA", root, authority=False)
    own.write_bytes(private + leaf.public_bytes(form.Encoding.PEM) + chain[1].public_bytes(form.Encoding.PEM))
    assert check(path).state == "foreign"
    monkeypatch.setenv(keys.OWN, str(tmp_path / "gone.pem"))
    for reads in (Signer, lambda: check(path)):  # to call one's own files another's would be wrong
        with pytest.raises(UserError, match=rf"{keys.OWN} names '.*gone\.pem'"):
            reads()
    monkeypatch.delenv(keys.OWN)
    monkeypatch.setenv("GENLOOM_HOME", str(own.parent))
    own.with_name(keys.SIGNING).write_bytes(whole)  # as an installation of before may have one
    mark([path], [ORIGIN], Signer())
    assert check(path).state == "valid"


@pytest.mark.parametrize("name", ["still.png", "tone.wav", "film.mp4"])
def test_a_file_is_marked_or_as_it_was(name: str, copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, signer = copy(name), Signer()
    before = path.read_bytes()

    def unchanged() -> None:
        assert path.read_bytes() == before and os.listdir(path.parent) == [name]

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # as full as a disk can be made here
    try:
        with pytest.raises(UserError, match="cannot be written"):
            mark([path], [ORIGIN], signer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    unchanged()
    monkeypatch.setattr("genloom.provenance.MEMORY", 100)  # what is signed on the disk finds it full too

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(UserError, match="disk is full"):
            mark([path], [ORIGIN], signer)
    unchanged()
    mark([path], [ORIGIN], signer)
    assert check(path).state == "valid"


def test_a_huge_file_is_labelled_alone(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genloom.provenance.LARGEST", 4000)
    monkeypatch.setattr("genloom.provenance.label.IN_MEMORY", 10)  # mapped, not read
    path = copy("tone.wav")
    mark([path], [ORIGIN], Signer())
    assert read_label(path) == ORIGIN and check(path).state == "absent"


def test_a_full_disk_while_signing(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy("still.png")

    class Full:
        def __init__(self, file: Any):
            self.file = file

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    watched, signer = manifest._Watched, Signer()
    monkeypatch.setattr(manifest, "_Watched", lambda file: watched(Full(file)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="disk is full"):
        mark([path], [ORIGIN], signer)
    assert read_label(path) is None and len(os.listdir(path.parent)) == 1


def test_what_cannot_be_marked_is_said(copy: Any, tmp_path: Path) -> None:
    cut = copy("still.png")
    cut.write_bytes(cut.read_bytes()[:-300])
    pieces = coded(tmp_path / "pieces.mp4", "libx264", movflags="frag_keyframe+empty_moov")
    for path in (cut, pieces):
        before = path.read_bytes()
        with pytest.raises(UserError, match="stays as it was"):
            mark([path], [ORIGIN], Signer())
        assert path.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        mark([copy("tone.wav")], [ORIGIN], None, [tmp_path / "file" / "tone.wav"])


@pytest.mark.parametrize("name", [n for n in MAKERS if Path(n).suffix not in UNSIGNED])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_broken_files_are_said_to_be_broken(name: str, originals: Path, tmp_path: Path, data: st.DataObject) -> None:
    marked = tmp_path / name
    if not marked.exists():
        shutil.copy(originals / name, marked)
        write_label(marked, ORIGIN)
    raw = bytearray(marked.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 3000) - 1))] = data.draw(st.integers(0, 255))
    broken = tmp_path / f"broken-{name}"
    broken.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        found = read_label(broken)
        assert found is None or isinstance(found, Origin)
    except label.BrokenError as error:
        assert str(error)
    if label.kind_of(broken) and not label.kind_of(broken).form:  # type: ignore[union-attr]
        try:
            label.labelled(broken, label.contents(broken), ORIGIN, label.kind_of(broken))  # type: ignore[arg-type]
        except UserError as error:
            assert "stays as it was" in str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.dictionaries(st.text(max_size=8), st.text(max_size=40) | st.floats(allow_nan=False) | st.booleans()))
def test_any_condition_comes_back(told: dict[str, Any], originals: Path, tmp_path: Path) -> None:
    origin = replace(ORIGIN, conditions=told)
    for name in ("still.png", "still.gif", "tone.wav", "tone.flac", "tone.mp3", "film.mp4"):
        path = Path(shutil.copy(originals / name, tmp_path / name))
        write_label(path, origin)
        assert read_label(path) == origin


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_what_no_genloom_wrote_is_no_origin(value: Any) -> None:
    assert Origin.from_json(json.dumps(value)) is None
    assert Origin.from_json(json.dumps({"model": value, "run": "r", "run_hash": "h"})) is None or isinstance(value, str)


def test_hostile_xml_is_not_read(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", xmp=b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>')
    with pytest.raises(label.BrokenError, match="entities"):
        read_label(path)


def test_nothing_of_a_person_s_machine_is_told(tmp_path: Path) -> None:
    assert label.condition(str(tmp_path)) == tmp_path.name == label.condition(tmp_path)
    assert label.condition("photos/a.png") == "photos/a.png" and label.condition("/no/such/path") == "/no/such/path"
    assert set(label.condition("x" * 9000)) == {"digest"}
    assert label.condition(np.ones(3)) == label.condition(np.ones(3)) != label.condition(np.zeros(3))


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> genloom.Run:
    folder = tmp_path_factory.mktemp("runs") / "digits-run"
    return genloom.fit("cvae", "digits", folder, recipe="tiny", quiet=True, steps=2)


def test_samples_are_marked_unless_told_not_to(run: genloom.Run, tmp_path: Path) -> None:
    paths = to_files(run, 3, tmp_path / "out", seed=7, label="3")
    plain = to_files(run, 3, tmp_path / "plain", seed=7, label="3", provenance=False)
    for i, (marked, bare) in enumerate(zip(paths, plain, strict=True)):
        found = check(marked)
        assert found.state == "valid" and found.origin is not None
        told = found.origin
        assert (told.run, told.seed, told.index, told.of, told.conditions) == ("digits-run", 7, i, 3, {"label": "3"})
        assert told.run_hash == weights_hash(run) and told.model == "cvae"
        assert told.command == "genloom sample digits-run -n 3 --seed 7 --label 3"
        assert str(tmp_path.parent.name).encode() not in marked.read_bytes()
        assert read_label(bare) is None and check(bare).state == "absent"
        assert np.array_equal(essence(marked), essence(bare))
    assert sorted(os.listdir(tmp_path / "out")) == [p.name for p in paths]


def test_what_labels_cannot_say_is_told_before_the_work(
    run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLOOM_PRODUCER", "某公司 Ltd")
    monkeypatch.setattr("genloom.generate.draw", None)
    with pytest.raises(UserError, match="GENLOOM_PRODUCER"):
        to_files(run, 1, tmp_path / "out")


def test_the_weights_are_hashed_once(run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    (folder / HASHED).unlink(missing_ok=True)
    first = weights_hash(genloom.Run.open(folder))
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", None)
        assert weights_hash(genloom.Run.open(folder)) == first
    with open(folder / "weights.safetensors", "ab") as file:
        file.write(b"\0")
    assert weights_hash(genloom.Run.open(folder)) != first


def test_without_the_extra_labels_are_written_and_it_is_said_once(
    run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(manifest, "find_spec", lambda name: None if name == "c2pa" else find(name))
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    for _ in range(2):
        (path,) = to_files(run, 1, tmp_path / "out")
    assert capsys.readouterr().err.count("genloom[provenance]") == 1
    assert read_label(path) and b"c2pa" not in path.read_bytes()
    assert check(path).state == "unchecked" and "genloom[provenance]" in check(path).reason


def test_a_file_is_made_again(run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = to_files(run, 4, run.folder / "samples" / "four", seed=9)
    made, difference = again(paths[2])  # the run is found above the file
    assert difference == "" and np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(paths[2])))
    assert replace(read_label(made), created="") == replace(read_label(paths[2]), created="")  # type: ignore[type-var]
    sent = Path(shutil.copy(paths[3], tmp_path / "sent.png"))
    with pytest.raises(UserError, match=r"digits-run.*--run"):
        again(sent)
    assert again(sent, run=run.folder, out=tmp_path / "x") == (tmp_path / "x" / "sent.png", "")
    monkeypatch.chdir(run.folder.parent)
    assert again(sent, out=tmp_path / "y")[1] == ""
    with pytest.raises(UserError, match="replaced by itself"):
        again(paths[0], out=paths[0].parent)


def test_a_text_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat. " * 60)
    run = genloom.fit("gpt", tmp_path / "a.txt", tmp_path / "run", recipe="tiny", quiet=True, steps=1)
    paths = to_files(run, 3, tmp_path / "out", prompt="the", length=12)
    made, difference = again(paths[-1], run=run.folder)
    assert difference == "" and made.read_text() == paths[-1].read_text()
    to_files(run, 3, tmp_path / "out", prompt="the", length=9, provenance=False)
    assert sorted(os.listdir(tmp_path / "out")) == [p.name for p in paths]  # and what lay beside the older ones is gone


def test_why_a_file_is_not_the_same_is_said(run: genloom.Run, tmp_path: Path) -> None:
    path, changed = to_files(run, 2, tmp_path / "out", seed=9)
    out, told = tmp_path / "again", read_label(path)
    assert told
    with Image.open(path) as image:
        levels = 255 - np.asarray(image)
        Image.fromarray(levels).save(tmp_path / "a.jpg", xmp=image.info["XML:com.adobe.xmp"].encode())
    made, difference = again(tmp_path / "a.jpg", run.folder, out)
    assert (made.name, "JPEG now" in difference) == ("a.png", True) and label.kind_of(made) is label.PNG
    Image.fromarray(levels).save(tmp_path / "b.png")
    write_label(tmp_path / "b.png", told)
    assert "saved anew by another program; else this machine" in again(tmp_path / "b.png", run.folder, out)[1]
    write_label(changed, replace(told, seed=8))
    assert "changed after it was signed" in again(changed, run.folder, out)[1]
    mark([tmp_path / "b.png"], [told], Signer())
    assert again(tmp_path / "b.png", run.folder, out)[1].endswith(
        ". This machine rounds otherwise, or its libraries are others"
    )


@pytest.mark.parametrize("name", ["film.mkv", "film.webm", "tone.opus"])
def test_two_files_of_the_same_packets_are_the_same(name: str, copy: Any) -> None:
    one = copy(name)
    two = Path(shutil.copy(one, one.with_name(f"two-{name}")))
    write_label(one, ORIGIN), write_label(two, ORIGIN)
    assert one.read_bytes() != two.read_bytes() and np.array_equal(essence(one), essence(two))


def test_no_key_is_made_for_a_file_without_a_watermark(
    run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = to_files(run, 1, tmp_path / "out")
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    made, difference = again(path, run.folder, tmp_path / "again")
    assert difference == "" and "--no-watermark" not in read_label(made).command and keys.existing_key() is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"index": -1}, "sample -1 of 1"),
        ({"index": 10**20, "of": 10**21}, "sample 1000"),
        ({"conditions": {"label": 3.5}}, "'label' cannot be 3.5"),
        ({"conditions": {"label": ["3"]}}, "'label' cannot be"),
        ({"conditions": {"label": {"a": 1}}}, "'label' cannot be"),
        ({"conditions": {"labels": "3"}}, "no condition 'labels'"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_not_followed(
    changes: dict[str, Any], words: str, run: genloom.Run, tmp_path: Path
) -> None:
    path = picture(tmp_path / "a.png")
    write_label(path, replace(ORIGIN, run_hash=weights_hash(run), **{"index": 0, "of": 1, "conditions": {}, **changes}))
    with pytest.raises(UserError, match=words):
        again(path, run.folder, tmp_path / "again")
    assert detect([path])[0].label


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="is no file"):
        again(tmp_path / "pipe.png")
    (tmp_path / "a.txt").write_text("plain")
    os.mkfifo(tmp_path / "a.txt.genloom.json")
    assert read_label(tmp_path / "a.txt") is None
    assert [f.error for f in detect([tmp_path / "pipe.png"])] == ["it is no file"]
    assert [f.file.name for f in detect([tmp_path])] == ["a.txt"]


def test_what_cannot_be_made_again_is_said(run: genloom.Run, tmp_path: Path) -> None:
    from genloom.latents import verbs

    (path,) = to_files(run, 1, tmp_path / "out")
    changed = Path(shutil.copytree(run.folder, tmp_path / "changed" / "digits-run"))
    with open(changed / "weights.safetensors", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="other weights"):
        again(path, run=changed)
    picture(tmp_path / "mine.png")
    with pytest.raises(UserError, match=r"carries no recipe: .*--no-provenance"):
        again(tmp_path / "mine.png")
    with pytest.raises(UserError, match="gone"):
        again(tmp_path / "gone.png")
    (tmp_path / "changed.png").write_bytes(
        path.read_bytes().replace(b"trainedAlgorithmicMedia", b"trainedAlgorithmicmedia")
    )
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        again(tmp_path / "changed.png", run=run.folder)
    (seed,) = verbs.seeds_to_files(run, "5", tmp_path / "seeds")
    assert {check(p).state for p in (tmp_path / "seeds").iterdir()} == {"valid"}
    with pytest.raises(UserError, match="sample digits-run --seeds 5"):
        again(seed)
    verbs.interpolate_to_file(run, "1,2", tmp_path / "walk.webp", 2)
    assert read_label(tmp_path / "walk.webp").how == "interpolate"  # type: ignore[union-attr]


def test_a_visible_label(run: genloom.Run, tmp_path: Path) -> None:
    from genloom.generate import marks_of

    for mode in ("RGB", "L", "RGBA"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(np.full((200, 256, 3), 128, np.uint8)).convert(mode).save(path)
        mark([path], [replace(ORIGIN, visible=True)], Signer())
        with Image.open(path) as image:
            assert image.mode == mode and check(path).state == "valid"
            grey = np.asarray(image.convert("L"))
        assert grey[-14:, -50:].max() == 255 and grey[-14:, -50:].min() < 80  # white on dark, at the lower right
        assert (grey[:100] == 128).all() and (grey[:, :128] == 128).all()
    with pytest.raises(UserError, match="64 pixels"):
        to_files(run, 1, tmp_path / "small", visible_label=True)
    assert not list((tmp_path / "small").rglob("*"))
    with pytest.raises(UserError, match="not both"):
        marks_of(run, False, True)
    with pytest.raises(UserError, match="pictures alone"):
        mark([tone(tmp_path / "a.wav")], [replace(ORIGIN, visible=True)], None)


def test_a_film_as_pictures_is_marked_each(tmp_path: Path, run: genloom.Run) -> None:
    marks = Marks(run, how="films")
    folder = tmp_path / "film"

    def write(into: Path) -> list[Path]:
        (into / "film").mkdir()
        for i in range(3):
            picture(into / "film" / f"{i:05d}.png")
        return [into / "film"]

    assert marks.written(write, tmp_path) == [folder]
    assert {check(p).state for p in folder.iterdir()} == {"valid"} and len(list(folder.iterdir())) == 3


def test_the_picture_of_a_seed_says_which(tmp_path: Path) -> None:
    from genloom.detect import detect, table
    from genloom.latents import verbs

    run = genloom.fit("gan", "digits", tmp_path / "run", recipe="tiny", quiet=True, steps=1, data_options={"size": 64})
    out = tmp_path / "seeds"
    paths = verbs.seeds_to_files(run, "3,7", out, visible_label=True)
    told = [read_label(p) for p in (*paths, out / "grid.png")]
    assert [(o.how, o.seed, o.index, o.of) for o in told if o] == [
        ("seeds", 3, 0, 1),
        ("seeds", 7, 0, 1),
        ("sheet", 0, 0, 1),
    ]
    assert all(o and o.visible and o.command.endswith("sample run --seeds 3,7 --visible-label") for o in told)
    assert len({o.number for o in told if o}) == 3
    shown = table(detect([out]))
    assert "run #0 of seed 3" in shown and "run #0 of seed 7" in shown and "run sheet" in shown
    verbs.interpolate_to_file(run, "1,2", tmp_path / "walk.webp", 2)
    assert "run interpolate" in table(detect([tmp_path / "walk.webp"]))
