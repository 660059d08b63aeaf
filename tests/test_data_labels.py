"""Labels files as people write them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genloom.data.labels import by_file, by_folder, common_folder, pick_split, read_labels
from genloom.errors import UserError

text = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), min_size=1, max_size=12)
words = text.map(str.strip).filter(bool)
tables = st.dictionaries(words, words, min_size=1, max_size=8)
here = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(tables, st.sampled_from(["file", "Path", "filename"]), st.sampled_from(["label", "CLASS"]), st.booleans())
@here
def test_what_is_written_as_csv_is_read(
    tmp_path: Path, table: dict[str, str], file: str, label: str, bom: bool
) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([["extra", label, file], *(["x,;y", v, k] for k, v in table.items())])
    path = tmp_path / "l.csv"
    path.write_text(out.getvalue(), "utf-8-sig" if bom else "utf-8", newline="")
    assert read_labels(path) == table


@given(tables)
@here
def test_what_is_written_as_jsonl_is_read(tmp_path: Path, table: dict[str, str]) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text("".join(json.dumps({"file": k, "label": v}) + "\n" for k, v in table.items()))
    assert read_labels(path) == table


@given(st.binary(max_size=60), st.sampled_from([".csv", ".jsonl"]))
@here
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path: Path, junk: bytes, ending: str) -> None:
    path = tmp_path / f"l{ending}"
    path.write_bytes(junk)
    try:
        labels = read_labels(path)
    except UserError:
        return
    assert labels and all(k and v for k, v in labels.items())


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("a.csv", "a.png,cat\nb.png,dog\n", {"a.png": "cat", "b.png": "dog"}),
        ("a.csv", "file;label\na.png;cat\n\n", {"a.png": "cat"}),
        ("a.tsv", "id\tlabel\n17\t3\n", {"17": "3"}),
        ("a.jsonl", '{"path": "a.png", "class": 3}\n', {"a.png": "3"}),
    ],
)
def test_forms(tmp_path: Path, name: str, text: str, labels: dict[str, str]) -> None:
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == labels


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "file,label\n", "is empty"),
        ("a.csv", "file,label,x\na.png\n", "Line 2 .* lacks a label"),
        ("a.csv", "file,colour,x\na.png,red,1\n", "no column for the label"),
        ("a.csv", "file,label\na,1\na,2\n", "'a' two labels, '1' and '2'"),
        ("a.jsonl", "{\n", "Line 1 .* is not JSON"),
        ("a.jsonl", "[1]\n", "is not an object"),
        ("a.jsonl", '{"file": "a", "label": [1]}', "several labels"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_labels(tmp_path / name)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(tmp_path / "no.csv")


def test_a_bare_name_that_two_files_share_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("file,label\nx.png,1\n")
    with pytest.raises(UserError, match="no such picture"):
        by_file(["a/x.png", "b/x.png"], tmp_path / "l.csv")


def test_one_picture_named_twice_with_two_labels(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("file,label\nx.png,1\na/x.png,2\n")
    with pytest.raises(UserError, match="two labels"):
        by_file(["a/x.png", "b/y.png"], tmp_path / "l.csv")


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), min_size=1, unique=True))
def test_common_folder_holds_all(names: list[str]) -> None:
    base = common_folder(sorted(names))
    assert all(n.startswith(base) for n in names) and (not base or base.endswith("/"))


def test_splits_and_folders() -> None:
    names = ["r/test/a/1", "r/train/a/1", "r/train/b/1"]
    assert pick_split(names, "train") == names[1:] and pick_split(names, "test") == names[:1]
    assert by_folder(names[1:], set()).classes == ("a", "b")
    with pytest.raises(UserError, match="no split"):
        pick_split(names, "tset")
