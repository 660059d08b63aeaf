"""Clips that say a description in one of its languages, as Tux Paint's stamps have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_sound import tone, wav

import genloom
from genloom.data import find_modality, open_data
from genloom.data.base import Dataset
from genloom.data.transcripts import among, read_languages, tidy
from genloom.errors import UserError

STAMPS = {
    "coin": {"es": "Una moneda (de 1 centavo).", "fr": "Une pièce.", "pt_BR": "Uma moeda."},
    "cat": {"es": "Un gato.", "fr": "Un chat."},
    "dog": {"es": "Un perro.", "fr": "Un chien."},
}


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Each in a folder of its own; beside it what a cat sounds like, a clip in English and one in no language told."""
    for i, (name, texts) in enumerate(STAMPS.items()):
        folder = tmp_path / "stamps" / f"kind{i}"
        folder.mkdir(parents=True)
        lines = [f"A {name}.", "af.utf8='n Ding.", *(f"{code}.utf8={text}" for code, text in texts.items())]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", "utf-8")
        for j, ending in enumerate(("", "_desc", "_desc_da", *(f"_desc_{code}" for code in texts))):
            (folder / f"{name}{ending}.wav").write_bytes(
                wav(tone(8000, 1 + (3 * i + j) / 40, 200 + 30 * j), 8000).getvalue()
            )
    return tmp_path / "stamps"


def speech(path: Path, **options: object) -> Dataset:
    return open_data(path, modality="audio", needs="speech", **{"held_out": 0, **options})


def texts(data: Dataset) -> list[str]:
    return [u[1] for u in data.utterances()]


def test_each_clip_says_its_language_and_languages_are_the_classes(stamps: Path) -> None:
    data = speech(stamps)
    assert data.spec.classes == ("en", "es", "fr", "pt-br") and data.spec.extra["language"] == "en,es,fr,pt-br"
    said = {name.rpartition("/")[2]: (text, data.spec.classes[label]) for name, text, _, label in data.utterances()}
    assert said["cat_desc_es.wav"] == ("un gato.", "es") and said["coin_desc.wav"] == ("a coin.", "en")
    assert len(said) == 10 and said["coin_desc_pt_BR.wav"] == ("uma moeda.", "pt-br")
    assert data.summary["notes"] == ["6 clips have no text, and are left out, such as kind0/coin.wav."]


def test_one_language_is_asked_for_or_told_by_the_names(stamps: Path) -> None:
    data = speech(stamps, language="es")
    assert texts(data) == ["una moneda .", "un gato.", "un perro."] and data.spec.classes == ()
    assert data.spec.extra["language"] == "es" and "ñ" not in data.spec.extra["alphabet"]
    assert data.summary["notes"][0].startswith("7 clips are in another language (--data.language), and are left out")
    both = speech(stamps, language="es, pt")
    assert both.spec.classes == ("es", "pt-br") and len(both) == 4
    for path in stamps.rglob("*.wav"):
        if "_desc_es" not in path.name:
            path.unlink()
    alone = speech(stamps)
    assert texts(alone) == texts(data) and alone.spec.extra["language"] == "es" and alone.spec.classes == ()
    assert speech(stamps, label="folder").spec.classes == ("kind0", "kind1", "kind2")


def test_a_model_of_one_language_is_measured_on_that_language(stamps: Path) -> None:
    spanish = speech(stamps, language="es")
    assert len(speech(stamps, like=spanish.spec)) == 3


def test_bad_input_is_one_sentence(stamps: Path) -> None:
    with pytest.raises(
        UserError, match=r"is in 'de': give --data.language of en \(3\), es \(3\), fr \(3\), pt-br \(1\)"
    ):
        speech(stamps, language="de")
    with pytest.raises(UserError, match="Phonemes are of one language, and these clips are in en,es,fr,pt-br"):
        speech(stamps, units="phonemes")
    (stamps / "kind0" / "coin.txt").write_bytes(b"A coin.\nes.utf8=\xff\n")
    with pytest.raises(UserError, match=r"'kind0/coin.txt' is not UTF-8 text"):
        speech(stamps)
    for path in stamps.rglob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match="None of the 16 sounds"):
        speech(stamps)


def test_folders_without_such_names_have_no_languages(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(wav(tone(8000, 1.0), 8000).getvalue())
        (tmp_path / f"{name}.txt").write_text("Good morning.")
    assert speech(tmp_path).spec.extra["language"] == "en-us"
    with pytest.raises(UserError, match=r"tells its language, as cat_desc_es.ogg does: give another --data.label"):
        speech(tmp_path, label="language")


def test_the_preflight_counts_languages(stamps: Path) -> None:
    facts = genloom.inspect(stamps)
    assert facts["notes"] == [
        "For text to speech: 10 of 16 sounds have their text, in en 3, es 3, fr 3, pt-br 1: "
        "choose by --data.language en (tts)."
    ]
    for path in stamps.rglob("*.wav"):
        if "_desc_es" not in path.name:
            path.unlink()
    for extra in "abcde":
        (stamps / "kind0" / f"{extra}.txt").touch()
        (stamps / "kind0" / f"{extra}_desc_es.wav").write_bytes(wav(tone(8000, 1.0), 8000).getvalue())
    assert find_modality(stamps) == "audio"  # though there are as many texts
    assert genloom.inspect(stamps)["notes"][0].startswith(
        "For text to speech: 3 of 8 sounds have their text, in es, '.adegmnoprtu'"
    )


def test_copies_of_a_clip_are_held_out_together(tmp_path: Path) -> None:
    for i in range(24):
        (tmp_path / f"{i:02}.wav").write_bytes(wav(tone(8000, 1.0, 200 + 20 * (i % 8)), 8000).getvalue())
        (tmp_path / f"{i:02}.txt").write_text(f"Number {'abcdefgh'[i % 8]}.")
    data = speech(tmp_path, held_out=0.25)
    assert set(texts(data)).isdisjoint(texts(data.held_out())) and len(data.held_out()) == 6


# ── the format ───────────────────────────────────────────────────────────────────────────────────────────────────
CODES = st.from_regex(r"[a-z]{2,3}(_[A-Z]{2})?(@[a-z]{3,8})?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(first=TEXTS, told=st.dictionaries(CODES, TEXTS, min_size=1, max_size=8), end=st.sampled_from(["\n", "\r\n", ""]))
def test_what_is_written_is_read(first: str, told: dict[str, str], end: str) -> None:
    lines = [first, *(f"{code}.utf8={text}" for code, text in told.items())]
    found = read_languages((end or "\n").join(lines) + end)
    expected = {tidy(code): text for code, text in reversed(told.items())}
    assert found == {"en": first} | expected if "utf8" not in first else expected.items() <= found.items()


PIECES = st.sampled_from(["es", "pt_BR", ".utf8", "=", "\n", "\r\n", "\ufeff", " ", "Un gato.", "@", "-", "é", "\x00"])


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=20).map("".join))
def test_any_text_is_read_or_is_none(text: str) -> None:
    found = read_languages(text)
    assert all(k == tidy(k) and v and v == v.strip() and v in text for k, v in found.items())
    assert not found or ".utf8" in text


def test_languages_are_named_as_people_do() -> None:
    assert read_languages("A cat.") == read_languages("") == read_languages("e = mc²\nutf8=no\n=.utf8=no") == {}
    assert read_languages("\ufeffA cat.\nes.utf8 = Un gato.\nes.utf8=No.\nfr.utf8=\n") == {
        "es": "Un gato.",
        "en": "A cat.",
    }
    assert read_languages("es.utf8=Un gato.") == {"es": "Un gato."}
    assert among("es-mx", ["es"]) and among("es", ["es-mx"]) and not among("en-gb", ["en-us"])
    assert not among("est", ["es"]) and not among("ca@valencia", ["ca"])
