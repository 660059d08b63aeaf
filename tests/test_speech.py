"""Clips with their texts, alignment, and what a recogniser makes of speech."""

from __future__ import annotations

import gzip
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_sound import tone, wav

import genloom
from genloom import core, measure_speech
from genloom.cli import main
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.generate import to_files
from genloom.measure_speech import spoken
from genloom.metrics import speakers
from genloom.metrics.words import edits, recognise, word_error_rate, words
from genloom.models.audio.tts import TTS
from genloom.nn.alignment import deviance, diagonal, search, spread_out
from genloom.text.spoken import Alphabet, clean, phonemes

SENTENCES = ("Please enter it.", "Thank you!", "The line is busy now.", "One moment")


def speech(path: Path, **options: object) -> Dataset:
    return open_data(path, modality="audio", needs="speech", **{"held_out": 0, **options})


def clips(folder: Path, names: str = "a b c d", seconds: float = 1.0, texts: bool = False) -> Path:
    for i, name in enumerate(names.split()):
        file = folder / f"{name}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(wav(tone(8000, seconds + i / 10, 200 + 50 * i), 8000).getvalue())
        if texts:
            file.with_suffix(".txt").write_text(SENTENCES[i % 4])
    return folder


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_whole_utterances_are_filled_up_to_the_longest_of_a_batch(tmp_path: Path) -> None:
    data = speech(clips(tmp_path, texts=True))
    assert len(data) == 4 and data.spec.shape == (1, 10_400) and data.held_out() is None
    assert data.spec.extra == {
        "rate": 8000,
        "serves": ["speech"],
        "alphabet": " !.abehiklmnoprstuwy",
        "units": "characters",
        "language": "en-us",
        "letters": 23,
    }
    batch = data.batch(np.array([1, 0]))
    assert batch["audio"].shape == (2, 1, 8800) and batch["samples"].tolist() == [8800, 8000]
    assert (batch["audio"][1, 0, 8000:] == 0).all() and batch["letters"].tolist() == [12, 18]
    assert batch["text"].dtype == torch.int64 and batch["text"][0, 0] == 1 and (batch["text"][0, 12:] == 0).all()
    assert torch.equal(data.batch(np.array([0]), seed=5)["audio"][0], batch["audio"][1, :, :8000])
    assert "label" not in batch and [u[1] for u in data.utterances()][1] == "thank you!"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "a|Dr. 1|Doctor one\nb|two\nc|three\nd|four\n"),
        ("transcripts.txt", "; greetings\na: Doctor one\nb: two\nc: three\nd: four\nz: not here\n"),
        ("transcripts.tsv", "file\ttext\na.wav\tDoctor one\nb.wav\ttwo\nc.wav\tthree\nd.wav\tfour\n"),
        ("transcripts.csv", "a,Doctor one\nb,two\nc,three\nd,four\n"),
        (
            "transcripts.jsonl",
            "".join(
                f'{{"file": "{a}", "text": "{b}"}}\n'
                for a, b in zip("abcd", ("Doctor one", "two", "three", "four"), strict=True)
            ),
        ),
    ],
)
def test_texts_stand_in_tables_of_many_kinds(tmp_path: Path, name: str, text: str) -> None:
    (clips(tmp_path / "data", "wavs/a wavs/b wavs/c wavs/d") / name).write_text(text)
    assert [u[1] for u in speech(tmp_path / "data").utterances()] == ["doctor one", "two", "three", "four"]


def test_transcripts_may_lie_elsewhere_and_be_packed(tmp_path: Path) -> None:
    clips(tmp_path / "data", "digits/1 digits/2 words/1")
    with gzip.open(tmp_path / "core.txt.gz", "wt") as file:
        file.write("digits/1: one\ndigits/2: two\nwords/1: hello\n")
    data = speech(tmp_path / "data", transcripts=str(tmp_path / "core.txt.gz"), label="none")
    assert [u[1] for u in data.utterances()] == ["one", "two", "hello"] and data.spec.classes == ()


def test_speakers_are_folders_or_a_part_of_names(tmp_path: Path) -> None:
    clips(tmp_path / "folders", "ann/a ann/b bob/a bob/b", texts=True)
    data = speech(tmp_path / "folders")
    assert data.spec.classes == ("ann", "bob") and data.labels().tolist() == [0, 0, 1, 1]
    assert data.batch(np.array([3, 0]))["label"].tolist() == [1, 0] and data.summary["classes"] == {"ann": 2, "bob": 2}
    clips(tmp_path / "names", "x/cat_desc_fr x/cat_desc_es y/dog_desc_fr y/dog_desc_es y/dog", texts=True)
    data = speech(tmp_path / "names", label="*_desc_LABEL")
    assert data.spec.classes == ("es", "fr") and len(data) == 4
    assert data.summary["notes"] == ["1 clips have another label or none, and are left out, such as y/dog.wav."]
    data = speech(tmp_path / "names", label="*_desc_LABEL", only="fr")
    assert data.spec.classes == () and len(data) == 2
    with pytest.raises(UserError, match="There is no label 'de'"):
        speech(tmp_path / "names", label="*_desc_LABEL", only="de")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    clips(tmp_path, "a b c d e f", texts=True)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.txt").write_text("[beep]")
    (tmp_path / "c.txt").write_text("far too many words for so short a clip " * 3)
    (tmp_path / "d.wav").write_bytes(b"no sound")
    (tmp_path / "g.wav").write_bytes(wav(tone(8000, 3), 8000).getvalue())
    (tmp_path / "g.txt").write_text("long")
    data = speech(tmp_path, seconds=2.0)
    assert len(data) == 2 and data.summary["skipped"]["files"] == {"d.wav": "no sound that can be read"}
    assert data.summary["notes"] == [
        "1 clips have no text, and are left out, such as a.wav.",
        "1 clips have a text without words, and are left out, such as b.wav.",
        "1 clips are too short for their text, and are left out, such as c.wav.",
        "1 clips are longer than 2 s (--data.seconds), and are left out, such as g.wav.",
    ]


def test_some_are_held_out_and_other_data_is_read_in_the_same_alphabet(tmp_path: Path) -> None:
    data = speech(clips(tmp_path / "a", " ".join("abcdefghij"), texts=True), held_out=0.2)
    assert len(data) == 8 and len(data.held_out()) == 2 and len(speech(tmp_path / "a", held_out=0.2, split="test")) == 2
    clips(tmp_path / "b", texts=True)
    (tmp_path / "b" / "c.txt").write_text("zigzag")
    like = speech(tmp_path / "b", like=data.spec)
    assert like.spec.extra["alphabet"] == data.spec.extra["alphabet"] and len(like) == 3
    assert "letters that the model does not know" in like.summary["notes"][0]


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    clips(tmp_path)
    with pytest.raises(UserError, match=r"None of the 4 sounds in '.*' has its text: give clips of speech, each with"):
        speech(tmp_path)
    with pytest.raises(UserError, match="is plain image: give clips of speech"):
        speech("mnist")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"seconds must be more than 0.1"):
        speech(tmp_path, seconds=0)
    with pytest.raises(UserError, match="'tts' needs more than this data holds: give clips of speech"):
        core.build(TTS, open_data("speech", seconds=1).spec, {"mel": "melgan@16000"})
    (tmp_path / "metadata.csv").write_bytes(b"a|\xff\xfe")
    with pytest.raises(UserError, match=r"'metadata.csv' is not UTF-8"):
        speech(tmp_path)


def test_the_preflight_counts_texts(tmp_path: Path) -> None:
    clips(tmp_path, texts=True)
    (tmp_path / "d.txt").unlink()
    assert genloom.inspect(tmp_path)["notes"] == [
        "For text to speech: 3 of 4 sounds have their text, in '!.abehiklnoprstuwy' (tts)."
    ]


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_texts_are_cleaned() -> None:
    assert clean("  “Café”  —  3D [beep] (not said) #1…") == "café - 3d 1."
    assert clean("Don’t") == "don't" and clean("<beep>") == clean("...") == ""


def test_a_letter_outside_the_alphabet_is_named_with_what_to_write() -> None:
    alphabet = Alphabet.found_in(["no cafe."], "characters", "en-us")
    assert alphabet.alphabet == " .acefno" and alphabet.encode(["No."]) == [[1, 7, 8, 2, 1]]
    with pytest.raises(UserError, match=r"The text has 'é', .* alphabet is '.acefno': write 'e' for 'é'"):
        alphabet.encode(["café"])
    with pytest.raises(UserError, match=r"has '7', .* write it in words \(spell numbers in words\)"):
        alphabet.encode(["7"])
    with pytest.raises(UserError, match="nothing to say in the text '!'"):
        alphabet.encode(["no", "!"])


def test_phonemes_come_from_espeak_or_a_kind_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("espeak-ng"):
        assert phonemes(["please press one, then hold.", "hello?"], "en-us") == [
            "plˈiːz pɹˈɛs wˌʌn, ðˈɛn hˈoʊld.",
            "həlˈoʊ?",
        ]
        with pytest.raises(UserError, match="does not speak 'xx'"):
            phonemes(["hello"], "xx")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"install it .apt install espeak-ng., or leave --data.units characters"):
        phonemes(["hello"], "en-us")


# ── alignment ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_search_finds_a_known_path() -> None:
    counts = torch.tensor([[3, 1, 4, 2], [2, 5, 0, 0]])
    letters, frames = torch.tensor([4, 2]), torch.tensor([10, 7])
    likelihood = torch.full((2, 4, 10), -1.0)
    for b in range(2):
        for t, letter in enumerate(torch.repeat_interleave(torch.arange(4), counts[b]).tolist()):
            likelihood[b, letter, t] = 0
    assert torch.equal(search(likelihood, letters, frames), counts)
    spread = spread_out(torch.arange(4.0).expand(2, 1, 4), counts, 10)
    assert spread[0, 0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3] and spread[1, 0, :7].tolist() == [
        0,
        0,
        1,
        1,
        1,
        1,
        1,
    ]


def test_the_search_equals_brute_force_and_ignores_what_fills_up() -> None:
    torch.manual_seed(0)
    letters, frames = torch.tensor([3, 1, 4, 4]), torch.tensor([7, 5, 4, 6])
    likelihood = torch.randn(4, 4, 7)
    found = search(likelihood, letters, frames)
    for b in range(4):
        L, T = int(letters[b]), int(frames[b])
        paths = [np.diff([0, *cuts, T]) for cuts in itertools.combinations(range(1, T), L - 1)]

        def worth(counts: np.ndarray, b: int = b, T: int = T) -> float:
            return float(likelihood[b, np.repeat(np.arange(len(counts)), counts), range(T)].sum())

        assert found[b, :L].tolist() == max(paths, key=worth).tolist() and (found[b, L:] == 0).all()


def test_a_text_longer_than_its_clip_is_refused() -> None:
    with pytest.raises(UserError, match="A clip of 3 frames has a text of 4 letters"):
        search(torch.zeros(1, 4, 3), torch.tensor([4]), torch.tensor([3]))


def test_the_prior_is_a_bell_around_the_diagonal_and_durations_keep_the_mean() -> None:
    prior = diagonal(torch.tensor([4, 2]), torch.tensor([8, 4]), 4, 8, 0.2)
    assert prior[0].argmax(0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and float(prior.max()) > -0.1
    guess = torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        guess += torch.tensor([4.0]).log()
    slope = torch.autograd.grad(deviance(guess, torch.tensor([2, 4, 6])).sum(), guess)[0]
    assert abs(float(slope.sum())) < 1e-5 and float(
        deviance(torch.tensor(6.0).log(), torch.tensor(6))
    ) == pytest.approx(0, abs=1e-5)


# ── speech ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> genloom.Run:
    folder = tmp_path_factory.mktemp("speech")
    data = clips(folder / "data", "ann/a ann/b ann/c bob/a bob/b bob/c", texts=True)
    options = {"recipe": "tiny", "steps": 2, "quiet": True, "data_options": {"held_out": 0.3}}
    return genloom.fit("tts", data, folder / "run", **options)


def test_prompts_are_said_in_a_voice_at_a_pace(run: genloom.Run, tmp_path: Path) -> None:
    model = genloom.load(run)
    with torch.inference_mode():
        made = model.sample(2, prompt=["thank you", "please enter"], label=1)
        again = model.sample(1, start=1, prompt="please enter", label=1)
        slow = model.sample(1, start=1, prompt="please enter", label=1, pace=0.5)
    assert torch.equal(made[1], again[0]) and slow[0].shape[1] > 1.8 * again[0].shape[1]
    assert len(genloom.sample(run, prompt=["thank you"] * 3, label="bob")) == 3
    main(["sample", str(run.folder), "--prompt", "thank you", "--label", "ann", "--out", str(tmp_path / "hello.wav")])
    assert (tmp_path / "hello.wav").stat().st_size > 44
    with pytest.raises(UserError, match="is the name of one file, and 2 samples"):
        to_files(run, 2, tmp_path / "two.wav")
    with pytest.raises(UserError, match="pace is 0: take"):
        model.sample(1, pace=0)
    with pytest.raises(UserError, match="3 samples need 3 prompts"):
        model.sample(3, prompt=["a", "b"])


def test_a_vocoder_of_the_same_mel_makes_the_wave_and_another_is_refused(run: genloom.Run, tmp_path: Path) -> None:
    sound = open_data("speech", rate=8000, seconds=0.5)
    mel = "melgan@8000,n_fft=256,window=256,hop=64,bands=32"
    small = {"mel": mel, "ratios": "8 8"}
    options = {"recipe": "tiny", "steps": 1, "quiet": True}
    vocoder = genloom.fit("melgan", sound, tmp_path / "same", config=small, **options)
    plain, voiced = (genloom.sample(run, 1, prompt="thank you", **v)[0] for v in ({}, {"vocoder": str(vocoder.folder)}))
    assert voiced.shape == plain.shape and not torch.equal(voiced, plain)
    other = genloom.fit("melgan", sound, tmp_path / "other", config=small | {"mel": f"{mel},fmin=50"}, **options)
    with pytest.raises(UserError, match=r"takes another mel spectrogram than this model makes: fmin 0.0, not 50"):
        genloom.sample(run, 1, prompt="thank you", vocoder=other)
    with pytest.raises(UserError, match="'tts' is no vocoder"):
        genloom.sample(run, 1, vocoder=run)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_word_error_rates_have_known_values() -> None:
    assert words("Don't press 28, #0: it’s 105… 4242") == [
        "don't",
        "press",
        "twenty",
        "eight",
        "zero",
        "it's",
        "one",
        "hundred",
        "five",
        "four",
        "two",
        "four",
        "two",
    ]
    assert edits(["a", "b", "c", "d"], ["a", "x", "c"]) == 2 and edits([], ["a"]) == 1 and edits("abc", "abc") == 0
    assert word_error_rate(["Press one.", "Thank you"], ["press one", "thank you very much"]) == 0.5
    assert word_error_rate(["Press one."], [""]) == 1.0
    with pytest.raises(UserError, match="needs words"):
        word_error_rate(["..."], ["a"])


def test_a_missing_recogniser_is_a_kind_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="apt install pocketsphinx pocketsphinx-en-us"):
        recognise([torch.zeros(1, 1600)])


def test_speech_is_measured_beside_recordings_and_copies(run: genloom.Run) -> None:
    data = speech(Path(run.info["data"]["source"]), like=run.spec)
    heard: list[list[torch.Tensor]] = []

    def listen(waves: list[torch.Tensor]) -> list[str]:
        heard.append(waves)
        return ["the line is busy"] * len(waves)

    found = spoken(genloom.load(run), data, listen=listen)
    assert found["sentences"] == 1 and found["words"] == 5 and len(heard) == 3
    assert found["wer real"] == found["wer copied"] == found["wer made"] == 0.2
    assert heard[0][0].shape[1] == 2 * 9600 and float(found["mcd dtw"]) > 0 and found["length"] > 0
    assert found["heard"] == [
        {"said": "the line is busy now."} | dict.fromkeys(("real", "copied", "made"), "the line is busy")
    ]


def test_evaluate_says_what_is_understood_whose_voice_it_is_and_keeps_it_to_hear(
    run: genloom.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_speech, "recognise", lambda waves: ["the line is busy"] * len(waves))
    monkeypatch.setattr(speakers, "ear", stub)
    result = genloom.evaluate(run)
    figures = {m["name"]: m["value"] for m in result["metrics"]}
    assert figures["wer"] == result["beside"]["wer"]["recordings"] == 0.2 and figures["mcd-dtw"] > 0
    assert figures["speaker"] < result["beside"]["speaker"]["copied"] < 1
    assert "1 sentences are few" in result["warnings"][0]
    assert {p.name.split(".")[1] for p in (run.folder / "samples" / "heard").iterdir()} == {
        "recordings",
        "made",
        "copied",
    }
    assert "<audio" in (run.folder / "report.html").read_text()
    with pytest.raises(UserError, match="Did you mean 'wer'"):
        genloom.evaluate(run, metrics=["wor"])


def stub() -> speakers.Ear:
    """An ear of 4 dimensions in place of Resemblyzer's."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(160 * 40, 4))
    return speakers.Ear("stub", "0" * 64, 4, net.eval())


def test_a_voice_is_compared_with_the_next_recording_of_it(run: genloom.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "ear", stub)
    waves = [tone(8000, 1.0, pitch) for pitch in (200, 900, 210, 2000)]
    real = [torch.from_numpy(w).float()[None] for w in waves]
    said = measure_speech.Spoken(list("abcd"), [0, 1, 0, 2], real, real, real, genloom.load(run))
    made, beside = said.voices()
    assert float(made) == beside["copied"] == pytest.approx(1)
    same = speakers.similarity(*(speakers.speakers(real[i], 8000) for i in (0, 2)))
    assert beside["recordings"] == pytest.approx(float(same))  # voices 1 and 2 are heard once
    alone = measure_speech.Spoken(["a"], [0], real[:1], real[:1], real[:1], genloom.load(run))
    assert "recordings" not in alone.voices()[1]


def test_what_cannot_be_heard_is_left_out_with_its_reason(
    tmp_path: Path, run: genloom.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speakers, "ear", stub)
    monkeypatch.setenv("PATH", "")
    result = genloom.evaluate(run)
    assert [m["name"] for m in result["metrics"]] == ["mcd-dtw", "speaker"]
    assert result["warnings"][0].startswith("'wer' is left out: Word error rates need the recogniser pocketsphinx")
    with pytest.raises(UserError, match="need the recogniser pocketsphinx"):
        genloom.evaluate(run, metrics=["wer"])
    options = {"recipe": "tiny", "steps": 1, "quiet": True, "data_options": {"held_out": 0, "language": "es"}}
    spanish = genloom.fit("tts", clips(tmp_path / "data", texts=True), tmp_path / "run", **options)
    found = genloom.evaluate(spanish)
    assert found["warnings"][0] == (
        "'wer' is left out: The recogniser understands English alone, and this model speaks 'es'."
    )
