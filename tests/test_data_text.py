"""Text files to tokens: forms, encodings, splits, and what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genloom.core import Spec
from genloom.data import open_data
from genloom.data.documents import Found, documents, told
from genloom.data.files import streams
from genloom.data.growing import OnDisk
from genloom.data.text import SUFFIXES, TextOptions
from genloom.errors import UserError
from genloom.text import tokenizer as tokenizers

POEM = "大江东去，浪淘尽，千古风流人物。\n故垒西边，人道是，三国周郎赤壁。\n"


def folder(tmp_path: Path, **files: bytes | str) -> Path:
    for name, content in files.items():
        path = tmp_path / name.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def texts(path: Path) -> tuple[list[str], Found]:
    found = Found()
    return ["".join(d.pieces) for d in documents(streams(path, SUFFIXES), found)], found


def read_back(data) -> str:
    own = tokenizers.from_json(data.spec.extra["tokenizer"])
    return own.decode(data.tokens.tolist())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings_are_found_out(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes((POEM * 20).encode(encoding))
    assert texts(tmp_path)[0] == [POEM * 20]


def test_latin_text_and_broken_bytes_are_named(tmp_path):
    folder(tmp_path, a_txt="Où est le château de l'été?\n".encode("latin-1") * 9, b_md=b"fine " * 2000 + b"\xff fine")
    found, seen = texts(tmp_path)
    assert found[0].startswith("Où est le château") and "\ufffd" in found[1]
    assert any("cp1252" in n for n in seen.notes) and any("b.md" in n and "10,000" in n for n in seen.notes)


def test_accents_before_plain_letters_are_not_taken_for_chinese(tmp_path):
    folder(tmp_path, a_txt="Tromsø|1\nL'été arrivé\n".encode("cp1252") * 30)
    found, _ = texts(tmp_path)
    assert found[0].startswith("Tromsø|1\nL'été arrivé")


def test_line_ends_are_made_alike_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("genloom.data.documents.LOOKED_AT", 4)
    monkeypatch.setattr("genloom.data.documents.BLOCK", 1)
    folder(tmp_path, a_txt="abc\r\nd\re\n大\r\n")
    assert texts(tmp_path)[0] == ["abc\nd\ne\n大\n"]


def test_what_is_no_text_is_left_out_by_name(tmp_path):
    folder(
        tmp_path,
        a_txt=b"\x00\x01\x02" * 99,
        b_txt=b"",
        c_txt="good text " * 50,
        d_jsonl='{"no": 1}\n{"text": "yes"}\n[',
    )
    found, seen = texts(tmp_path)
    assert found == ["good text " * 50, "yes"]
    assert seen.bad == {
        "a.txt": "binary, not a text",
        "b.txt": "empty",
        "d.jsonl:1": "no text, no prompt and response, no messages",
    }
    assert seen.notes == ["2 lines of d.jsonl cannot be used."]


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"\0" * 99, "binary"), (b"ab", "too little text")])
def test_nothing_usable_is_one_sentence(tmp_path, content, said):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        open_data(path, context=8)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_named(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("any") / "a.txt"
    path.write_bytes(raw)
    found, seen = texts(path)
    assert len(found) + len(seen.bad) == 1


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200))
def test_utf8_comes_through(text):
    raw = text.encode("utf-8", "ignore")
    if raw.strip() and b"\0" not in raw and sum(b < 32 for b in raw) * 20 <= len(raw):
        assert told(raw + b"\n")[0] == "utf-8"


def test_documents_are_held_out_whole(tmp_path):
    rows = "".join(json.dumps({"text": f"document {i:03} " * 5}) + "\n" for i in range(100))
    data = open_data(folder(tmp_path, a_jsonl=rows), context=16, held_out=0.1)
    assert read_back(data).count("document") == 450 and read_back(data.held_out()).count("document 009") == 5
    assert "document 009" not in read_back(data)
    assert data.summary["held_out"] and data.spec.shape == (17,)


def test_of_one_text_the_end_is_held_out_and_said(tmp_path):
    data = open_data(folder(tmp_path, a_txt="".join(f"{i:05} " for i in range(2000))), context=16)
    assert read_back(data).endswith("01899 ") and read_back(data.held_out()).startswith("01900")
    assert any("last 5%" in n for n in data.summary["notes"])


def test_windows_tell_where_documents_begin_where_that_is_asked(tmp_path):
    rows = [json.dumps({"text": "ab" * (i + 1)}) for i in range(9)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    data = open_data(tmp_path, context=12, held_out=0, separate=True)
    assert "document" not in open_data(tmp_path, context=12, held_out=0).batch(np.arange(2))
    batch = data.batch(np.arange(len(data)))
    end = tokenizers.from_json(data.spec.extra["tokenizer"]).end
    for text, document in zip(batch["text"], batch["document"], strict=True):
        assert len(document) == len(text) - 1
        assert torch.equal(document.diff(), (text[:-2] == end).long())


def test_windows_are_of_one_length_and_depend_on_seed_and_number(tmp_path):
    data = open_data(folder(tmp_path, a_txt="abcdefghij" * 300), context=16)
    one, same, other = (data.batch(np.arange(4), seed=s)["text"] for s in (1, 1, 2))
    assert one.shape == (4, 17) and one.equal(same) and not one.equal(other)
    assert (
        data.held_out().batch(np.arange(2), seed=1)["text"].equal(data.held_out().batch(np.arange(2), seed=2)["text"])
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2=", "response": "4"},
        {"messages": [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}]},
    ],
)
def test_the_loss_counts_on_answers_alone(tmp_path, row):
    data = open_data(folder(tmp_path, a_jsonl=(json.dumps(row) + "\n") * 5), context=16, held_out=0.0)
    batch = data.batch(np.arange(2))
    own = tokenizers.from_json(data.spec.extra["tokenizer"])
    learnt = batch["text"][0, 1:][batch["weight"][0].bool()].tolist()
    assert own.decode(learnt) == "4" and learnt[-1] == own.end
    assert own.decode(batch["text"][0].tolist()) == "2+2=4"


def chats(*questions: str) -> str:
    return "\n".join(json.dumps({"prompt": q, "response": "yes"}) for q in questions)


def test_examples_whose_answer_lies_behind_the_context_are_left_out_and_counted(tmp_path):
    path = folder(tmp_path, a_jsonl=chats(*["long " * 10, "ok?", "14 characters."] * 20))
    data = open_data(path, context=16, held_out=0.0)
    assert len(data) == data.summary["items"] == 40 and data.batch(np.arange(40))["weight"].sum(1).min() >= 1
    said = "Of 60 examples 20 have no answer within the 16 tokens that are seen at once and are left out, and 20 more are cut"
    assert [n for n in data.summary["notes"] if said in n and "--data.context 53 with --model.context 53" in n]
    assert not open_data(path, context=53, held_out=0.0).summary["notes"]


def test_a_context_in_which_only_held_out_answers_begin_is_one_sentence(tmp_path):
    path = folder(tmp_path, a_jsonl=chats(*([*["long " * 10] * 9, "ok?"] * 3)))
    with pytest.raises(UserError, match=r"^No answer in .* but those of examples held out begins within the 16 tokens"):
        open_data(path, context=16, held_out=0.1)
    with pytest.raises(UserError, match=r"^No answer in '[^']*' begins within"):
        open_data(folder(tmp_path, a_jsonl=chats(*["long " * 10] * 9)), context=16)


def test_texts_among_examples_are_one_sentence(tmp_path):
    path = folder(tmp_path, a_jsonl=chats(*["ok?"] * 5), b_txt="A text of its own.\n" * 20)
    with pytest.raises(UserError, match=r"cannot be learnt together, and 'b.txt'"):
        open_data(path, context=16)


def test_examples_without_any_answer_in_sight_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"No answer in .* 16 tokens .* give --model.context 53 and --data.context 53"):
        open_data(folder(tmp_path, a_jsonl=chats(*["long " * 10] * 40)), context=16)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_tokenizers_by_name_and_by_path(tmp_path, kind):
    data = open_data(folder(tmp_path, a_txt=POEM * 50), context=16, tokenizer=kind, vocabulary=300)
    assert (POEM * 50).startswith(read_back(data)[:200])
    if kind == "bpe":
        own = tokenizers.from_json(data.spec.extra["tokenizer"])
        (tmp_path / "tokenizer.json").write_text(own.inner.to_str())
        again = open_data(tmp_path / "a.txt", context=16, tokenizer=str(tmp_path))
        assert again.spec.extra["tokenizer"] == data.spec.extra["tokenizer"]


def test_a_run_s_own_tokenizer_is_taken_and_another_is_refused(tmp_path):
    data = open_data(folder(tmp_path, a_txt=POEM * 50), context=16, tokenizer="char")
    again = open_data(tmp_path, context=16, like=data.spec)
    assert again.spec.extra == data.spec.extra
    with pytest.raises(UserError, match="257 of kind byte"):
        open_data(tmp_path, context=16, like=data.spec, tokenizer="byte")
    (tmp_path / "a.txt").write_text("new letters " * 50)
    with pytest.raises(UserError, match="is not among the"):
        open_data(tmp_path, context=16, like=Spec.from_json(data.spec.to_json()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": 0}, "context"),
        ({"held_out": 0.9}, "held_out"),
        ({"vocabulary": 10}, "vocabulary"),
        ({"contxt": 8}, "context"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(UserError, match=said):
        TextOptions.of(options)


def test_many_tokens_are_read_from_disk(tmp_path, monkeypatch):
    whole = open_data(folder(tmp_path, a_txt="abcdefghij" * 3000), context=16, tokenizer="byte")
    monkeypatch.setattr("genloom.data.growing.IN_MEMORY", 1000)
    monkeypatch.setattr("genloom.data.documents.BLOCK", 777)
    monkeypatch.setattr("genloom.data.documents.LOOKED_AT", 100)
    read = open_data(tmp_path, context=16, tokenizer="byte")
    for own, other in ((read, whole), (read.held_out(), whole.held_out())):
        assert isinstance(own.tokens, OnDisk) and np.array_equal(own.tokens[:], other.tokens)
        assert torch.equal(own.batch(np.arange(9))["text"], other.batch(np.arange(9))["text"])


@pytest.mark.parametrize("name", ["shakespeare", "songci"])
def test_the_built_in_texts(name):
    data = open_data(name, context=64)
    assert data.summary["items"] == {"shakespeare": 42, "songci": 21_053}[name]
    assert len(data.tokens) > {"shakespeare": 4_700_000, "songci": 1_700_000}[name]
    assert data.held_out() is not None
