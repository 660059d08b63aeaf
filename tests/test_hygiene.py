"""What is looked for before training is found, nothing is found where there is nothing, and no value is shown whole."""

from __future__ import annotations

import csv
import importlib
import io
import json
import random
import sys
import time
import wave
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import genloom
from genloom.data import hygiene, open_data, resolve, unsafe
from genloom.data.alike import LIKE, SIDE, Alike, correlation
from genloom.data.decode import Plan, decode
from genloom.data.files import streams
from genloom.data.personal import ADDRESS, CARD, IBAN, MAIL, NAME, PHONE, RESIDENT, SOCIAL, Names, find, hidden
from genloom.errors import UserError
from genloom.request import terms

DIGITS = st.integers(0, 9).map(str)
BEFORE, AFTER = st.sampled_from(["", "id ", "号：", "(", "No.\t"]), st.sampled_from(["", " end", "，谢谢", ")", "."])


def kinds(text: str, names: Names | None = None) -> list[str]:
    return [f.kind for f in find(text, names)]


# ── personal data ────────────────────────────────────────────────────────────────────────────────────────────────
def luhn(digits: str) -> str:
    """The digit that completes a card's number: every second one from the right is doubled, and its own digits added."""
    total = sum(sum(map(int, str(int(d) * (2 - i % 2)))) for i, d in enumerate(reversed(digits)))
    return str(-total % 10)


@st.composite
def cards(draw: Callable[..., Any]) -> str:
    start, length = draw(st.sampled_from([("4", 16), ("55", 16), ("2221", 16), ("37", 15), ("6217", 19), ("3530", 16)]))
    body = start + "".join(draw(DIGITS) for _ in range(length - len(start) - 1))
    return body + luhn(body)


@st.composite
def residents(draw: Callable[..., Any]) -> str:
    day = date(1930, 1, 1) + timedelta(draw(st.integers(0, 90 * 365)))
    body = (
        draw(st.sampled_from(["110105", "440304", "650102"])) + f"{day:%Y%m%d}" + "".join(draw(DIGITS) for _ in "123")
    )
    value = sum(int(d) * (2 ** (17 - i) % 11) for i, d in enumerate(body)) % 11
    return body + "10X98765432"[value]


@st.composite
def ibans(draw: Callable[..., Any]) -> str:
    country, length = draw(st.sampled_from([("DE", 22), ("GB", 22), ("FR", 27), ("NO", 15)]))
    body = "".join(draw(DIGITS) for _ in range(length - 4))
    value = int(body + "".join(str(ord(c) - 55) for c in country) + "00")
    return f"{country}{98 - value % 97:02d}{body}"


def grouped(number: str, sign: str) -> str:
    return sign.join(number[i : i + 4] for i in range(0, len(number), 4))


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(*(st.tuples(st.just(k), n) for k, n in ((CARD, cards()), (RESIDENT, residents()), (IBAN, ibans())))),
    BEFORE,
    AFTER,
    st.data(),
)
def test_numbers_with_check_digits_are_found_and_one_digit_wrong_is_none(
    number: tuple[str, str], before: str, after: str, data: st.DataObject
) -> None:
    kind, value = number
    assert kinds(f"{before}{value}{after}") == [kind]
    if kind == IBAN:
        assert kinds(f"{before}{grouped(value, ' ')}{after}") == [kind]
    if kind == CARD and len(value) == 16:
        assert kinds(f"{before}{grouped(value, '-')}{after}") == [kind]
    place = data.draw(st.integers(2, len(value) - 1))
    if value[place].isdigit():
        wrong = value[:place] + str((int(value[place]) + data.draw(st.integers(1, 9))) % 10) + value[place + 1 :]
        assert kind not in kinds(f"{before}{wrong}{after}")


def test_digits_within_an_account_number_are_no_card() -> None:
    assert kinds("DE91300000000000002000") == kinds(grouped("DE91300000000000002000", " ")) == [IBAN]


@settings(max_examples=60, deadline=None)
@given(st.one_of(cards(), residents(), ibans()), BEFORE, AFTER)
def test_values_are_never_shown_whole(value: str, before: str, after: str) -> None:
    (found,) = find(f"{before}{value}{after}")
    shown = found.masked.replace("***", "")
    assert "***" in found.masked and len(shown) <= 4
    assert (found.start, found.end) == (len(before), len(before + value))
    assert hidden(f"{before}{value}{after} ada@x.com") == f"{before}{found.masked}{after} a***@x.com"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to ada.l+x@mail.example.co.uk.", MAIL),
        ("<o'neil@x.org>", MAIL),
        ("电话：13800138000。", PHONE),
        ("+86 138 0013 8000", PHONE),
        ("call (212) 555-0123", PHONE),
        ("212-555-0123", PHONE),
        ("+44 20 7946 0958", PHONE),
        ("SSN 078-05-1120", SOCIAL),
        ("from 8.8.8.8 today", ADDRESS),
        ("2001:4860:4860::8888", ADDRESS),
    ],
)
def test_what_has_no_check_digit_is_found_by_its_form(text: str, kind: str) -> None:
    assert kinds(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png",
        "@ada said so",
        "ada@localhost",
        "12800138000",  # no prefix of Chinese mobiles
        "138001380001",
        "000-12-3456, 666-12-3456, 123-00-4567, 987-65-4321",  # never given out
        "version 8.8.8.8",
        "192.168.0.1 127.0.0.1 999.1.1.1",  # everybody's, and nobody's
        "at 12:34:56 on 2024-05-06 10:20",
        "ISBN 978-3-16-148410-0",
        "3.14159265358979323846",
        "110105194902310025 440304203001010018",  # the 31st of February, a day to come
        "1234 5678 9012 3456",  # of no issuer
        "0xdeadbeef00000000 1111111111111111111111111",
    ],
)
def test_what_only_looks_like_it_is_not_found(text: str) -> None:
    assert kinds(text) == []


@pytest.mark.parametrize("name", ["shakespeare", "songci"])
def test_literature_holds_no_personal_data(name: str) -> None:
    texts = resolve(name).load("train")[0]
    assert hygiene.personal(hygiene.Block(text, str) for _, text in texts) == {}


def test_a_random_number_is_rarely_taken_for_a_card() -> None:
    """Of sixteen random digits one in eleven begins as cards do, and a tenth of these fits by chance: no more are found."""
    rng = random.Random(0)
    found = sum(kinds("".join(rng.choices("0123456789", k=16))) == [CARD] for _ in range(4000))
    assert found / 4000 < 0.035


@pytest.mark.parametrize("piece", ["1", "1 ", "1(((((((((", "@", "a@a.", "GB82 ", "4111 ", "+1 ", "1:", "a.", "ab12 "])
def test_time_grows_with_the_text_and_no_faster(piece: str) -> None:
    def cost(size: int) -> float:
        text = (piece * size)[:size]
        times = []
        for _ in range(3):
            start = time.process_time()
            find(text)
            times.append(time.process_time() - start)
        return min(times)

    assert cost(80_000) < 0.02 + 20 * cost(8_000)  # 64 or more where it grows with the square


def test_names_are_whole_words_and_chinese_ones_stand_anywhere(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Ada Lovelace\nMay\n李清照\n\n", encoding="utf-8")
    names = Names.read(tmp_path / "names.txt")
    found = find("Ada Lovelace and May met 李清照; maybe Mayfair, may, Adamant.", names)
    assert [(f.kind, f.masked) for f in found] == [(NAME, "A***e"), (NAME, "M***"), (NAME, "李***")]


def test_a_list_without_names_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no name"):
        Names.read(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read"):
        Names.read(tmp_path / "other.txt")


def test_places_are_files_lines_and_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing\nwrite to ada@x.com\n" + "x\n" * 10)
    (tmp_path / "b.jsonl").write_text('{"who": {"mail": "bob@y.org"}}\n{"n": 4111111111111111}\nno json eve@z.net\n')
    (tmp_path / "c.csv").write_text('name,mail\n"a, b\nc",dan@x.com\n')
    (tmp_path / "d.tsv").write_bytes("名\t电话\n某\t13800138000\n".encode("gb18030"))
    made = genloom.inspect(tmp_path, audit=True)["audit"]
    places = {p["place"]: p["value"] for entry in made["personal"].values() for p in entry["places"]}
    assert places == {
        "a.txt:2": "a***@x.com",
        "b.jsonl:1 (who.mail)": "b***@y.org",
        "b.jsonl:2 (n)": "41***11",
        "b.jsonl:3 (no JSON)": "e***@z.net",
        "c.csv:3 (mail)": "d***@x.com",
        "d.tsv:2 (电话)": "13***00",
    }
    assert made["personal"][MAIL]["count"] == 4 and made["looked_at"] == {"texts": 4}
    assert any("e-mail addresses 4" in s and "remove or replace" in s for s in made["sentences"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_column_is_named_whatever_parts_it(tmp_path: Path, delimiter: str) -> None:
    rows = (["note", "mail", "x"], ["a, b and c", "ada@x.com", "1"], ["d; e", "bob@y.org", "2"])
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([[], *rows])
    found = genloom.inspect(tmp_path / "a.csv", audit=True)["audit"]["personal"][MAIL]["places"]
    assert [p["place"] for p in found] == ["a.csv:3 (mail)", "a.csv:4 (mail)"]


def test_parquet_is_looked_at_too(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"x": [1, 2], "mail": [None, "ada@x.com"]}), tmp_path / "a.parquet")
    made = genloom.inspect(tmp_path / "a.parquet", audit=True)["audit"]
    assert made["personal"][MAIL]["places"] == [{"place": "a.parquet:2 (mail)", "value": "a***@x.com"}]


def test_a_table_of_nothing_but_personal_data_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"Person {i},user{i}@example.com\n" for i in range(40))
    (tmp_path / "a.csv").write_text(f"name,mail\n{rows}")
    importlib.import_module("genloom.cli_data").inspect([str(tmp_path / "a.csv"), "--audit"])
    out = capsys.readouterr().out
    assert "e-mail addresses 40" in out and "PROBLEM      No column can be learnt" in out
    with pytest.raises(UserError, match="holds no column that can be learnt"):
        open_data(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "counts"),
    [
        ("a.jsonl", '{"mail": "ada@x.com"}\n{"mail": "bob@x.com"}\n', {MAIL: 2}),  # no text to learn from
        ("a.csv", "Ada,ada@x.com\n", {MAIL: 1}),  # no row below what would be names
        ("a.txt", "", {}),
    ],
)
def test_what_nobody_can_learn_from_is_looked_at_too(
    tmp_path: Path, name: str, content: str, counts: dict[str, int]
) -> None:
    (tmp_path / name).write_text(content)
    facts = genloom.inspect(tmp_path, audit=True)
    assert {kind: entry["count"] for kind, entry in facts["audit"]["personal"].items()} == counts
    assert "can be used, such as" in facts["notes"][0] and "ada@x.com" not in json.dumps(facts)
    with pytest.raises(UserError, match="can be used, such as"):
        genloom.inspect(tmp_path)
    with pytest.raises(UserError, match=r"held.out"):
        genloom.inspect(tmp_path, audit=True, held_out=7.0)


def test_the_preflight_of_a_table_masks_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "ada@first.org": ["ada@x.com", "bob@y.org", "eve@z.net"],
        "phone": ["13800138000", "13912345678", "13700137000"],
        "card": ["4111111111111111", "5500005555555559", "4012888888881881"],
        "account": ["DE89370400440532013000", "GB82WEST12345698765432", "ada of 078-05-1120"],
        "text": [f"eve{i}@z.net" for i in range(60)],
    }
    table, card = tmp_path / "people.csv", tmp_path / "card.md"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([values, *([v[i % len(v)] for v in values.values()] for i in range(60))])
    inspect = importlib.import_module("genloom.cli_data").inspect
    inspect([str(table), "--card", str(card)])
    inspect([str(table), "--json"])
    inspect([str(table), "--audit"])
    told = capsys.readouterr().out + card.read_text(encoding="utf-8")
    assert "a***@x.com" in told and "DE***00" in told and "ada of 07***20" in told and "1.37e+10 to 1.39e+10" in told
    for value in ("ada@first.org", "078-05-1120", "@z.net is", *(v for own in values.values() for v in own)):
        assert value not in told, value


def test_a_lone_file_is_looked_at_whatever_it_is(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes((9000 * np.sin(np.arange(8000) / 9)).astype("<i2").tobytes())
    film = importlib.import_module("films")
    film.save(tmp_path / "a.mp4", film.moving(20))
    for name in ("a.txt", "a.html"):
        (tmp_path / name).write_text("ada@x.com")
    looked_at = {"a.wav": {"sounds": 1}, "a.mp4": {}, "a.txt": {"texts": 1}, "a.html": {"texts": 1}}
    for name, counts in looked_at.items():
        assert genloom.inspect(tmp_path / name, audit=True)["audit"]["looked_at"] == counts, name
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="is one picture: give a folder"):
        genloom.inspect(tmp_path / "a.png", audit=True)


def test_of_many_findings_all_are_counted_and_few_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"line {i}: user{i}@example.com\n" for i in range(50_000)))  # over several blocks
    entry = hygiene.audit(path, "text", {})["personal"][MAIL]
    assert entry["count"] == 50_000 and len(entry["places"]) == hygiene.SHOWN


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
def picture(seed: int, side: int = 96) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def test_pictures_that_were_resized_compressed_or_made_grey_are_nearly_the_same(tmp_path: Path) -> None:
    for i in range(8):
        picture(i).save(tmp_path / f"p{i}.png")
    picture(0).resize((40, 40)).save(tmp_path / "small.png")
    picture(1).save(tmp_path / "worse.jpg", quality=25)
    picture(2).convert("L").save(tmp_path / "grey.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "p3.png").read_bytes())  # a copy: inspect names those itself
    (tmp_path / "broken.png").write_bytes(b"none")
    facts = genloom.inspect(tmp_path, audit=True)
    made = facts["audit"]
    assert sorted(made["near"]) == [["grey.png", "p2.png"], ["p0.png", "small.png"], ["p1.png", "worse.jpg"]]
    assert facts["duplicates"] == [["copy.png", "p3.png"]] and list(made["unreadable"]) == ["broken.png"]
    assert made["leaks"] == [] and made["looked_at"] == {"pictures": 12}
    assert [s for s in made["sentences"] if "exact copies" in s or "nearly the same" in s] == [
        "1 pictures are exact copies of others: a model learns by heart what it sees often. Keep one of each.",
        "3 pictures are nearly the same as others: look at the groups, and keep one of each.",
    ]


def test_held_out_pictures_that_are_in_the_training_part_are_a_leak(tmp_path: Path) -> None:
    for part, seeds in (("train", range(6)), ("test", range(6, 10))):
        (tmp_path / part).mkdir()
        for i in seeds:
            picture(i).save(tmp_path / part / f"{i}.png")
    assert genloom.inspect(tmp_path, audit=True)["audit"]["leaks"] == []
    picture(0).save(tmp_path / "test" / "same.png")
    picture(1).save(tmp_path / "test" / "nearly.jpg", quality=50)
    Image.new("RGB", (9, 9)).save(tmp_path / "test" / "flat.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "flat.png")
    made = genloom.inspect(tmp_path, audit=True)["audit"]
    assert sorted(made["leaks"]) == [
        ["test/flat.png", "train/flat.png"],
        ["test/nearly.jpg", "train/1.png"],
        ["test/same.png", "train/0.png"],
    ]
    assert made["held_out_leaked"] == 3 and any("3 held-out pictures" in s for s in made["sentences"])


def test_a_source_and_its_target_may_be_alike(tmp_path: Path) -> None:
    for side in ("source", "target"):
        (tmp_path / side).mkdir()
        for i in range(3):
            picture(i, 96 if side == "source" else 48).save(tmp_path / side / f"{i}.png")
    assert genloom.inspect(tmp_path, audit=True)["audit"]["near"] == []


def test_pairs_are_found_among_many_as_if_all_were_compared() -> None:
    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.integers(0, 256, (300, 8, 8)), SIDE // 8, 1).repeat(SIDE // 8, 2).astype(np.float32)
    changed = pictures + rng.normal(0, 1, (300, 1, 1)) * rng.normal(0, 9, pictures.shape)
    every = np.concatenate([pictures, changed]).clip(0, 255).astype(np.uint8)
    alike = Alike(len(every))
    for i, pixels in enumerate(every):
        alike.add(i, pixels)
    hashes, same = alike.hashes, set()
    for i in range(len(every)):
        near = np.flatnonzero(np.bitwise_count(hashes ^ hashes[i]) <= 4)
        own = np.broadcast_to(alike.small[i], (len(near), alike.small.shape[1]))
        same |= {(min(i, int(j)), max(i, int(j))) for j in near[correlation(own, alike.small[near]) >= LIKE] if j != i}
    found = {(min(i, j), max(i, j)) for a, b in alike.pairs(np.arange(len(every))) for i, j in zip(a, b, strict=True)}
    assert found == same and 100 < len(same) < 300


# ── unsafe pictures ──────────────────────────────────────────────────────────────────────────────────────────────
def test_without_a_filter_the_audit_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsafe, "find_spec", lambda name: None)
    picture(0).save(tmp_path / "a.png")
    made = genloom.inspect(tmp_path, audit=True)["audit"]
    assert made["unsafe"]["judge"] is None and "pip install" in made["sentences"][-1]


def test_the_filter_sees_the_middle_blue_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that answers by how red a picture is stands in for the real one."""
    seen: list[np.ndarray] = []

    class Session:
        def __init__(self, path: str, options: Any, providers: list[str]):
            assert Path(path).is_file()

        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="input")]

        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(given["input"])
            red = float(given["input"][0, :, :, 2].mean() + 123) / 255
            return [np.array([[1 - red, red]])]

    runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / unsafe.FILE).write_bytes(b"weights")
    place = SimpleNamespace(submodule_search_locations=[str(tmp_path / "package")])
    monkeypatch.setattr(unsafe, "find_spec", lambda name: place)
    for name, colour in (("red", (255, 0, 0)), ("dark", (100, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (50, 30), colour).save(tmp_path / "pictures" / f"{name}.png")
    made = genloom.inspect(tmp_path / "pictures", audit=True)["audit"]
    assert made["unsafe"]["unsafe"] == {"red.png": pytest.approx(1.0, abs=0.01)} and made["unsafe"]["doubtful"] == 1
    assert seen[0].shape == (1, 224, 224, 3) and seen[0].dtype == np.float32
    assert seen[0][0, 0, 0] == pytest.approx([255 - 104, -117, -123], abs=2)  # blue.png, the first by name
    assert any(s.startswith("1 of 3 pictures that open_nsfw") for s in made["sentences"])


@pytest.mark.skipif(unsafe.weights() is None, reason="the filter is not installed")
def test_the_real_filter_finds_nothing_in_blurs(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    _, score = unsafe.judge(unsafe.weights())  # type: ignore[arg-type]
    assert 0 <= score(streams(tmp_path, frozenset({".png"})), "a.png") < unsafe.DOUBTFUL


# ── sounds ───────────────────────────────────────────────────────────────────────────────────────────────────────
def save(path: Path, samples: np.ndarray, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def test_a_quieter_sound_at_another_rate_is_nearly_the_same(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from genloom.data.sound import read

    speech = streams(Path(str(resolve("speech").load("train"))), frozenset({".g722"}))
    for name in speech.names[:6]:
        with speech.open(name) as stream:
            sound = read(stream, name)
        save(tmp_path / f"{Path(name).stem}.wav", sound.samples, sound.rate)
    first = sorted(tmp_path.iterdir())[0]
    with first.open("rb") as stream:
        low = read(stream, first.name, 8000)
    save(tmp_path / "zz.wav", low.samples * 0.3, 8000)
    assert genloom.inspect(tmp_path, audit=True)["audit"]["near"] == [[first.name, "zz.wav"]]


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_verb_prints_sentences_json_and_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect = importlib.import_module("genloom.cli_data").inspect
    (tmp_path / "names.txt").write_text("Ada\n")
    table, card = tmp_path / "people.csv", tmp_path / "card.md"
    table.write_text("who,mail\nAda,ada@x.com\n")
    with pytest.raises(UserError, match="--audit"):
        inspect([str(table), "--audit", "--names", str(tmp_path / "names.txt"), "--no-audit"])
    inspect([str(table), "--audit", "--names", str(tmp_path / "names.txt"), "--card", str(card)])
    out = capsys.readouterr().out
    assert "people.csv:2 (mail): a***@x.com" in out and "names 1" in out and "ada@x.com" not in out
    said = card.read_text(encoding="utf-8")
    assert "## Audit" in said and "e-mail addresses 1" in said and "people.csv:2" not in said
    inspect([str(table), "--audit", "--json"])
    assert json.loads(capsys.readouterr().out)["audit"]["personal"][MAIL]["count"] == 1


def test_without_audit_nothing_changes(tmp_path: Path) -> None:
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    assert "audit" not in genloom.inspect(tmp_path)


def test_licence_and_consent_are_kept_shown_and_stay(tmp_path: Path) -> None:
    note = tmp_path / "consent.txt"
    note.write_text("All of them *signed* on 3 May.")
    fit = {"recipe": "tiny", "quiet": True}
    run = genloom.fit(
        "vae", open_data("digits"), tmp_path / "run", licence="CC BY 4.0", consent=str(note), steps=1, **fit
    )
    kept = json.loads((run.folder / "run.json").read_text())["data"]
    assert kept["licence"] == "CC BY 4.0"
    assert kept["consent"]["text"] == "All of them *signed* on 3 May." and len(kept["consent"]["sha256"]) == 64
    for name in ("README.md", "report.html"):
        page = (run.folder / name).read_text(encoding="utf-8")
        assert "CC BY 4.0" in page and "on 3 May." in page
    again = genloom.fit("vae", open_data("digits"), tmp_path / "run", steps=2, **fit)  # the same run, with nothing said
    assert json.loads((again.folder / "run.json").read_text())["data"]["licence"] == "CC BY 4.0"


def test_a_note_may_be_a_scan_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(b"\xff\xfe\x00binary")
    assert terms(consent=str(tmp_path / "scan.pdf"))["consent"].keys() == {"file", "sha256"}
    assert terms(consent="They agreed.") == {"consent": {"text": "They agreed."}} and terms() == {}
    for wrong in ({"consent": "consent.pdf"}, {"licence": " "}, {"consent": ""}):
        with pytest.raises(UserError):
            terms(**wrong)


def test_pictures_are_hashed_as_they_are_decoded(tmp_path: Path) -> None:
    """A transparent copy on white is the same picture."""
    buffer = io.BytesIO()
    picture(5).convert("RGBA").save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    picture(5).save(tmp_path / "b.png")
    files = streams(tmp_path, frozenset({".png"}))
    a, b = (decode(files, name, Plan(SIDE, 1, "stretch", (255, 255, 255))) for name in files.names)
    assert np.array_equal(a, b)
    assert genloom.inspect(tmp_path, audit=True)["audit"]["near"] == [["a.png", "b.png"]]
