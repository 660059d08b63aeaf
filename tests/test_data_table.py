"""Tables: what columns are found to be, words to numbers and back, and what a person's file may have wrong with it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import genloom
from genloom.core import Spec
from genloom.data import inspect_table, open_data, table_files
from genloom.data.documents import Found
from genloom.data.files import streams
from genloom.data.records import CELL
from genloom.data.schema import OTHER, Column, column_of
from genloom.data.table import SUFFIXES, numbers_of, read_sources, write
from genloom.errors import UserError

PEOPLE = {
    "id": [str(1000 + i) for i in range(40)],
    "name": [f"Person {i}" for i in range(40)],
    "age": ["" if i == 3 else str(20 + i % 30) for i in range(40)],
    "wage": [f"{1000 + 17.5 * i:.2f}" for i in range(40)],
    "born": [f"19{50 + i % 40}-0{1 + i % 9}-1{i % 10}" for i in range(40)],
    "city": [("Oslo", "Bergen", "NA")[i % 3] for i in range(40)],
    "post": [("0150", "5003")[i % 2] for i in range(40)],
    "member": [str(i % 2) for i in range(40)],
}
KINDS = {
    "age": "number",
    "wage": "number",
    "born": "date",
    "city": "category",
    "post": "category",
    "member": "category",
}


def save(path: Path, columns: dict[str, list[str]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return path


def words_of(data) -> dict[str, list[str]]:
    columns = [Column.from_json(c) for c in data.spec.extra["columns"]]
    return {c.name: c.words(x) for c, x in zip(columns, data.numbers, strict=True)}


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return save(tmp_path / "people.csv", PEOPLE)


def test_columns_are_found_out_and_names_of_rows_left_out(people: Path) -> None:
    data = open_data(people, held_out=0)
    kinds = {c["name"]: c["kind"] for c in data.spec.extra["columns"]}
    assert kinds == KINDS
    told = " ".join(data.summary["notes"])
    assert "'id' is left out" in told and "'name' is left out" in told
    by_name = {c["name"]: Column.from_json(c) for c in data.spec.extra["columns"]}
    assert by_name["age"].missing and not by_name["wage"].missing and by_name["wage"].decimals == 2
    assert by_name["city"].values == ("Bergen", "Oslo") and by_name["city"].missing
    assert words_of(data)["post"] == PEOPLE["post"], "leading zeros stay"


def test_words_come_back_from_what_a_model_sees(people: Path) -> None:
    data = open_data(people, held_out=0)
    assert data.table.dtype == torch.float32 and data.table.shape == (40, 6)
    for name, own, back in zip(words_of(data), data.numbers, numbers_of(data.table, data.spec), strict=True):
        np.testing.assert_array_equal(own, back, err_msg=name)
    told = words_of(data)
    assert told["born"] == PEOPLE["born"] and told["wage"] == PEOPLE["wage"] and told["age"] == PEOPLE["age"]
    assert told["city"] == [w.replace("NA", "") for w in PEOPLE["city"]]


@pytest.mark.parametrize(
    "name",
    ["customerID", "customerId", "CUSTOMER_ID", "PatientNumber", "Nr", "id", "order no.", "id of order", "Kunden-Nr"],
)
def test_numbers_that_a_name_says_are_identifiers_are_left_out_where_they_hardly_repeat(name: str) -> None:
    words = [str(1000 + i * 37 % 1009) for i in range(100)]
    assert column_of(name, words, 256) == "it numbers the rows, each its own"
    assert column_of(name, ["", *words[1:], words[5]], 256) == "it numbers the rows, each its own", (
        "one not given, one twice"
    )
    few = column_of(name, [str(int(w) % 30) for w in words], 256)
    assert isinstance(few, Column) and few.kind == "number", "a customer of several rows"


@pytest.mark.parametrize("name", ["paid", "Humid", "grid", "piano", "steno", "income", "number of employees"])
def test_numbers_of_another_name_are_numbers_though_they_are_all_different(name: str) -> None:
    made = column_of(name, [str(1000 + i * 37 % 1009) for i in range(100)], 256)
    assert isinstance(made, Column) and made.kind == "number"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("%-m/%-d/%Y", ["1/2/2024", "10/12/2023", "3/31/2024"]),
        ("%Y-%-m-%-d", ["2024-1-2", "2024-12-31", "2020-7-10"]),
        ("%-d.%-m.%Y", ["1.2.2024", "31.12.2024", "10.7.2020"]),
        ("%-d-%b-%Y", ["1-Jan-2024", "31-Dec-2023", "9-Jul-2020"]),
        ("%Y-%m-%d %-H:%M", ["2024-01-02 3:05", "2024-01-02 13:05", "2024-10-02 0:00"]),
        ("%m/%d/%Y", ["01/02/2024", "10/12/2023", "03/31/2024"]),
    ],
)
def test_dates_are_written_with_or_without_leading_zeros_as_they_were(form: str, words: list[str]) -> None:
    made = column_of("day", words, 256)
    assert isinstance(made, Column) and (made.kind, made.form) == ("date", form)
    assert made.words(made.number(made.place(made.read(words)))) == words
    assert Column.from_json(json.loads(json.dumps(made.to_json()))) == made


@given(st.lists(st.floats(-1e9, 1e9).map(lambda x: round(x, 3)), min_size=3, max_size=300))
def test_numbers_come_back_to_the_precision_of_their_stretch(numbers: list[float]) -> None:
    made = column_of("x", [str(x) for x in numbers], 256)
    if isinstance(made, str) or made.kind != "number":
        return
    x = np.array(numbers)
    place = made.place(x)
    assert place.min() >= -1 and place.max() <= 1
    assert (np.diff(place[np.argsort(x, kind="stable")]) >= 0).all(), "order is kept"
    gaps = np.diff(np.array(made.knots))
    assert np.abs(made.number(place) - x).max() <= 1e-4 * gaps.max() + 10.0**-made.decimals


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8), min_size=25, max_size=60)
)
def test_any_words_are_a_column_or_left_out_with_a_reason(words: list[str]) -> None:
    made = column_of("x", words, 8)
    if isinstance(made, str):
        assert made
        return
    numbers = made.read(words)
    places = made.place(numbers)
    if made.kind == "category":
        assert (numbers < made.codes + (OTHER not in made.values)).all() and len(made.values) <= 8
    else:
        assert np.nanmax(np.abs(places)) <= 1
    assert len(made.words(made.number(places))) == len(words)


def test_a_value_that_many_rows_share_comes_back_from_anywhere_in_its_stretch() -> None:
    words = ["0"] * 60 + [str(i) for i in range(1, 41)]
    made = column_of("x", words, 256)
    assert isinstance(made, Column)
    places = np.linspace(-1, 1, 1001, dtype=np.float32)
    assert abs((made.number(places) == 0).mean() - 0.6) < 0.02, "as much room as it has rows"


def test_rare_categories_are_one(tmp_path: Path) -> None:
    words = [f"v{min(i % 50, i % 7)}" for i in range(200)]
    data = open_data(save(tmp_path / "a.csv", {"kind": words, "x": [str(i % 9) for i in range(200)]}), categories=4)
    values = data.spec.extra["columns"][0]["values"]
    assert len(values) == 4 and OTHER in values and any("kind" in n for n in data.summary["notes"])


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), ("|", "cp1252"), (",", "gb18030")]
)
def test_delimiters_and_encodings_are_found_out(tmp_path: Path, delimiter: str, encoding: str) -> None:
    city = "北京" if encoding == "gb18030" else "Tromsø"
    columns = {"city": [city, "Oslo"] * 30, "x": [f"{i % 7}" for i in range(60)]}
    data = open_data(save(tmp_path / "a.csv", columns, delimiter, encoding), held_out=0)
    assert words_of(data) == columns


def test_decimal_commas_are_points_where_semicolons_part_cells(tmp_path: Path) -> None:
    data = open_data(
        save(tmp_path / "a.csv", {"x": [f"{i},5" for i in range(30)], "y": ["a,b"] * 15 + ["c"] * 15}, ";"), held_out=0
    )
    assert data.spec.extra["columns"][0]["kind"] == "number" and data.numbers[0][3] == 3.5
    assert words_of(data)["y"][0] == "a,b"


@pytest.mark.parametrize(
    ("delimiter", "cells", "plain"),
    [
        ("\t", ["3,14", "-2", "0,5", "NA"], ["3.14", "-2", "0.5", "NA"]),
        (",", ["1.234,5", "7"], ["1234.5", "7"]),
        ("\t", ["1,234.5", "7"], ["1234.5", "7"]),
        (",", ["1,234,567", "1,234"], ["1234567", "1234"]),
        ("|", ["1 234", "999", "12\u202f345"], ["1234", "999", "12345"]),
        ("|", ["1 234 567", "999 000"], ["1234567", "999000"]),
        ("|", ["+1 234", "-999", "-12 345"], ["+1234", "-999", "-12345"]),
        (";", ["1'234.50", "-9.00"], ["1234.50", "-9.00"]),
        (";", ["1,234", "999"], ["1.234", "999"]),  # commas are decimal where cells are parted by ;
    ],
)
def test_numbers_are_understood_as_people_write_them(
    tmp_path: Path, delimiter: str, cells: list[str], plain: list[str]
) -> None:
    save(tmp_path / "a.csv", {"x": cells * 9, "y": ["a, b"] * 9 * len(cells)}, delimiter)
    words = table_files.read(streams(tmp_path / "a.csv", SUFFIXES), found := Found())
    assert words.columns[0] == plain * 9 and found.notes[0].startswith("'x' is read as numbers with ")


@pytest.mark.parametrize(
    "cells",
    [
        ["1,234", "999"],  # of a thousand, or a little more than one
        ["1,2", "3,14"],  # lists of two
        ["3,14", "3.14"],
        ["1.234", "0.5"],
        ["192.168.100.200", "10.100.100.100"],
        ["123 456", "110 001"],  # postcodes
        ["12 345 678", "123 456 789"],
        ["+49 301 234", "+33 612 345 678"],  # telephones
        ["+49 301 234", "+33 612"],
        ["44 207 946", "1 415 555 266"],
        ["44.207.946", "1.415.555.266"],
        ["007", "01,5"],
        ["01.02.2024", "11.12.2024"],
        ["2024-01-02", "2024-11-12"],
        ["1,23,456", "7"],
    ],
)
def test_what_may_be_something_else_stays_as_it_is(tmp_path: Path, cells: list[str]) -> None:
    save(tmp_path / "a.csv", {"x": cells * 9, "y": ["a", "b"] * 9})
    words = table_files.read(streams(tmp_path / "a.csv", SUFFIXES), Found())
    assert words.columns[0] == cells * 9
    notes = inspect_table.inspect(tmp_path / "a.csv")["notes"]
    assert any("'x' is left as text" in n for n in notes) == (cells[0] in ("1,234", "1,2"))


def test_another_column_of_the_file_says_what_a_mark_stands_for(tmp_path: Path) -> None:
    save(tmp_path / "de.csv", {"x": ["1,234", "9"] * 9, "y": ["1.234", "9"] * 9, "z": ["0,5", "9"] * 9}, ";")
    save(tmp_path / "us.csv", {"x": ["1,234", "9"] * 9, "y": ["1.234", "9"] * 9, "z": ["0.5", "9"] * 9}, "\t")
    words = table_files.read(streams(tmp_path, SUFFIXES), Found())
    assert words.columns == [
        ["1.234", "9"] * 9 + ["1234", "9"] * 9,
        ["1234", "9"] * 9 + ["1.234", "9"] * 9,
        ["0.5", "9"] * 18,
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_categories_that_are_known_stay_as_they_are_written(tmp_path: Path, delimiter: str) -> None:
    size, price = ["1,5", "2,5", "3,5"] * 10, [f"{i},25" for i in range(30)]
    save(tmp_path / "a.csv", {"size": size, "price": price}, delimiter)
    told = [{"name": "size", "kind": "category", "values": ["1,5", "2,5", "3,5"]}]
    told += [{"name": "price", "kind": "number", "low": 0, "high": 30, "decimals": 2}]
    (tmp_path / "s.json").write_text(json.dumps(told))
    data = open_data(tmp_path / "a.csv", schema=tmp_path / "s.json", held_out=0)
    assert words_of(data) == {"size": size, "price": [x.replace(",", ".") for x in price]}
    assert data.summary["notes"] == ["'price' is read as numbers with decimal commas."]
    again = open_data(tmp_path / "a.csv", like=data.spec, held_out=0)
    assert words_of(again) == words_of(data)
    (tmp_path / "part.csv").write_text('size\n"1,5"\n"3,5"\n')
    assert read_sources(tmp_path / "part.csv", data.spec)[0][:, 0].tolist() == [0, 2]
    told[0]["values"] = ["1.5", "2.5", "3.5"]
    (tmp_path / "s.json").write_text(json.dumps(told))
    plain = open_data(tmp_path / "a.csv", schema=tmp_path / "s.json", held_out=0)
    assert words_of(plain)["size"] == [x.replace(",", ".") for x in size]


def test_parquet_is_the_same_table(people: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv as reader
    from pyarrow import parquet

    kept = {k: pyarrow.string() for k in ("post",)}
    table = reader.read_csv(people, convert_options=reader.ConvertOptions(column_types=kept))
    parquet.write_table(table, tmp_path / "people.parquet")
    ours, theirs = open_data(tmp_path / "people.parquet", held_out=0), open_data(people, held_out=0)
    assert words_of(ours)["age"] == words_of(theirs)["age"] and words_of(ours)["post"] == words_of(theirs)["post"]
    assert [c["kind"] for c in ours.spec.extra["columns"]] == [c["kind"] for c in theirs.spec.extra["columns"]]


def test_parquet_s_own_kinds_are_read_and_written_back_in_kind(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    day, each = 86_400_000_000_000, range(40)
    columns = {
        "clock": arrow.array([(k * 1800 + 5) * 10**6 for k in each], arrow.time64("us")),
        "at": arrow.array([k * day + 250_000_000 for k in each], arrow.timestamp("ns")),
        "plain": arrow.array([k * day // 10**6 for k in each], arrow.timestamp("ms")),
        "zoned": arrow.array([k * day // 10**3 for k in each], arrow.timestamp("us", "Europe/Berlin")),
        "half": arrow.array(np.array([k % 17 / 10 for k in each], np.float16)),
        "single": arrow.array(np.array([k % 17 / 10 for k in each], np.float32)),
        "money": arrow.array([f"{k % 13}.50" for k in each]).cast(arrow.decimal128(10, 2)),
        "member": arrow.array([None if k % 5 == 0 else k % 2 == 0 for k in each]),
        "colour": arrow.array([("red", "blue", None)[k % 3] for k in each]).dictionary_encode(),
        "lasted": arrow.array([k % 9 * 10**6 for k in each], arrow.duration("us")),
    }
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    data = open_data(tmp_path / "a.parquet", held_out=0)
    told = {c["name"]: c for c in data.spec.extra["columns"]}
    kinds = {
        "clock": "date",
        "at": "date",
        "plain": "date",
        "zoned": "date",
        "member": "category",
        "colour": "category",
    }
    assert {k: c["kind"] for k, c in told.items()} == dict.fromkeys(columns, "number") | kinds
    assert {k: w[4] for k, w in words_of(data).items()} == {
        "clock": "02:00:05",
        "at": "1970-01-05 00:00:00.250000",
        "plain": "1970-01-05 00:00:00",
        "zoned": "1970-01-05T00:00:00Z",
        "half": "0.4",
        "single": "0.4",
        "money": "4.50",
        "member": "True",
        "colour": "blue",
        "lasted": "4",
    }
    assert [words_of(data)[k][5] for k in ("member", "colour")] == ["", ""]
    for own, back in zip(data.numbers, numbers_of(data.table, data.spec), strict=True):
        np.testing.assert_allclose(own, back, rtol=1e-6)


def test_half_precision_of_parquet_is_written_without_loss(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    halves = np.array([0.1, 2048, 65504, -2.5, np.nan, 1024], np.float16)
    parquet.write_table(arrow.table({"x": arrow.array(halves)}), tmp_path / "a.parquet")
    words = table_files.read(streams(tmp_path / "a.parquet", SUFFIXES), Found())
    assert words.columns == [["0.1", "2048.0", "65504.0", "-2.5", "nan", "1024.0"]]


def test_parquet_of_lists_is_one_sentence_that_names_the_column(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name, cells in (("tags", [[1, 2]] * 30), ("place", [{"x": 1}] * 30)):
        parquet.write_table(arrow.table({"x": list(range(30)), name: cells}), tmp_path / "a.parquet")
        with pytest.raises(UserError, match=f"column '{name}' hold several values"):
            open_data(tmp_path / "a.parquet")
        with pytest.raises(UserError, match=f"column '{name}' hold several values"):
            inspect_table.inspect(tmp_path / "a.parquet")


def test_several_files_are_one_table_and_another_kind_is_named(people: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    save(both / "a.csv", PEOPLE)
    save(both / "b.csv", PEOPLE)
    save(both / "c.csv", {"colour": ["red"] * 30})
    data = open_data(both, held_out=0)
    assert len(data) == 80 and "colour" in data.summary["skipped"]["files"]["c.csv"]


def test_rows_are_held_out_and_the_target_is_the_class(people: Path) -> None:
    data = open_data(people, target="city", held_out=0.25)
    held = data.held_out()
    assert held is not None and (len(data), len(held)) == (30, 10)
    assert data.spec.classes == ("Bergen", "Oslo", "(none)")
    batch = data.batch(np.arange(4))
    own = [data.spec.classes.index(city or "(none)") for city in words_of(data)["city"]]
    assert batch["label"].tolist() == own[:4] and torch.equal(batch["label"], data.labels()[:4])


@pytest.mark.parametrize(("share", "count"), [(0.1, 60), (0.4, 240), (0.33, 198), (0.001, 1)])
def test_held_out_rows_are_the_share_asked_for_and_no_group_of_rows_that_take_turns(
    tmp_path: Path, share: float, count: int
) -> None:
    columns = {"month": [f"m{i % 10}" for i in range(600)], "n": [str(i * 7 % 600) for i in range(600)]}
    path = save(tmp_path / "a.csv", columns)
    data = open_data(path, held_out=share)
    held = data.held_out()
    assert held is not None and (len(data), len(held)) == (600 - count, count)
    assert len(set(words_of(data)["month"])) == 10
    assert count < 60 or len(set(words_of(held)["month"])) == 10
    assert not set(words_of(data)["n"]) & set(words_of(held)["n"])
    moved = open_data(path.rename(tmp_path / "b.csv"), held_out=share)
    assert words_of(moved) == words_of(data), "wherever the file lies"


def test_an_older_run_s_data_is_read_with_the_rows_that_it_held_out(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", {"n": [str(i * 7 % 100) for i in range(100)], "x": ["a", "b"] * 50})
    new = open_data(path)
    old = Spec("table", new.spec.shape, extra={k: v for k, v in new.spec.extra.items() if k != "drawn"})
    data = open_data(path, like=old)
    held = data.held_out()
    assert held is not None and words_of(held)["n"] == [str(i * 7 % 100) for i in range(9, 100, 10)]
    assert data.spec == old and data.fingerprint != new.fingerprint
    assert words_of(open_data(path, like=new.spec)) == words_of(new)


def test_a_schema_says_what_columns_are_before_anyone_looks(people: Path, tmp_path: Path) -> None:
    told = [
        {"name": "age", "kind": "number", "low": 0, "high": 120, "missing": True},
        {"name": "born", "kind": "date", "low": "1900-01-01", "high": "2030-01-01"},
        {"name": "city", "kind": "category", "values": ["Oslo", "Bergen", "Paris"], "missing": True},
    ]
    (tmp_path / "schema.json").write_text(json.dumps({"columns": told}))
    data = open_data(people, schema=tmp_path / "schema.json", held_out=0)
    assert data.spec.extra["described"] and data.spec.shape == (3,)
    assert data.table[0, 0] == pytest.approx(2 * 20 / 120 - 1) and words_of(data)["born"] == PEOPLE["born"]


def test_rows_are_written_as_one_file_that_reads_back(people: Path, tmp_path: Path) -> None:
    data = open_data(people, held_out=0)
    (path,) = write(data.table, tmp_path / "out", spec=data.spec)
    again = open_data(path, like=data.spec, held_out=0)
    assert path.name == "rows.csv" and words_of(again) == words_of(data)


def test_empty_cells_are_what_is_to_be_made(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(people, held_out=0)
    part = save(tmp_path / "part.csv", {"city": ["Oslo", ""], "wage": ["", "1200.00"]})
    rows, names = read_sources(part, data.spec)
    places = {c["name"]: i for i, c in enumerate(data.spec.extra["columns"])}
    assert rows.shape == (2, 6) and names == ["part.csv"]
    assert rows[0, places["city"]] == 1 and rows[:, places["age"]].isnan().all()
    assert rows[0, places["wage"]].isnan() and not rows[1, places["wage"]].isnan()
    (tmp_path / "here").mkdir()
    save(tmp_path / "here" / "part.csv", {"city": ["Oslo"]})
    monkeypatch.chdir(tmp_path / "here")
    assert read_sources(Path("."), data.spec)[1] == ["here.csv"]
    save(part, {"city": ["Rome"]})
    with pytest.raises(UserError, match=r"Row 1 of .* 'Rome' under 'city'"):
        read_sources(part, data.spec)
    save(part, {"town": ["Rome"]})
    with pytest.raises(UserError, match="town"):
        read_sources(part, data.spec)


@pytest.mark.parametrize(
    ("raw", "options", "said"),
    [
        (b"", {}, "empty"),
        (b"a,b\n", {}, "no row"),
        (b"\x00\x01\x02" * 99, {}, "binary"),
        (b"a,b\n1,2\n", {}, "rows: 20 or more"),
        (b"a\n" + b"x\n" * 30, {"leave_out": "b"}, "'b'"),
        (b"a\n" + b"x\n" * 30, {"leave_out": "a"}, "no column"),
        (b"a\n" + b"1\n2\n3\n" * 30, {"target": "a"}, "give a category"),
        (b"a\n" + b"1\n2\n3\n" * 30, {"target": "q"}, "'q'"),
        (b"a\n" + b"1\n2\n3\n" * 30, {"held_out": 0.9}, "share"),
        (b"a\n" + b"1\n2\n3\n" * 30, {"schema": Path("none.json")}, "none.json"),
        (b"a\n" + b"1\n2\n3\n" * 30, {"columns": 3}, "columns"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, raw: bytes, options: dict, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(raw)
    with pytest.raises(UserError, match=said) as error:
        open_data(tmp_path / "a.csv", modality="table", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "told", ["[", "{}", "[3]", '[{"name": "a", "kind": "colour"}]', '[{"name": "a", "kind": "number", "low": 3, "high": 2}]',
             '[{"name": "a", "kind": "category"}]', '[{"name": "a", "kind": "category", "values": 3}]',
             '[{"name": "a", "kind": "number", "knots": [1, "x"]}]', '[{"name": "a", "kind": "number", "knots": [1, 2], "decimals": "x"}]',
             '[{"name": "a", "kind": "number", "knots": [1, 2], "decimals": -1}]', '[{"name": "q", "kind": "number", "low": 0, "high": 2}]']
)  # fmt: skip
def test_schemas_that_are_none_are_refused(tmp_path: Path, told: str) -> None:
    (tmp_path / "s.json").write_text(told)
    (tmp_path / "a.csv").write_bytes(b"a\n" + b"1\n2\n3\n" * 30)
    with pytest.raises(UserError):
        open_data(tmp_path / "a.csv", schema=tmp_path / "s.json")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"kind": "number", "low": 0, "high": 2}, "has no name"),
        ({"name": "a"}, "'a' of the schema needs a kind .* not None"),
        ({"name": "a", "kind": ["number"]}, "'a' of the schema needs a kind"),
        ({"name": "a", "kind": "number", "low": "0", "high": "2"}, "'a' .* low and high, two numbers"),
        ({"name": "a", "kind": "number", "low": 0, "high": float("inf")}, "'a' .* low and high"),
        ({"name": "a", "kind": "number", "low": 0}, "'a' .* low and high"),
        ({"name": "a", "kind": "number", "low": 0, "high": 2, "decimals": "two"}, "'a' .* decimals .* not 'two'"),
        ({"name": "a", "kind": "number", "low": 0, "high": 2, "decimals": -1}, "'a' .* decimals"),
        ({"name": "a", "kind": "number", "low": 0, "high": 2, "decimals": True}, "'a' .* decimals .* not True"),
        ({"name": "a", "kind": "number", "low": 0, "high": 2, "missing": "no"}, "'a' .* 'missing'"),
        ({"name": "a", "kind": "number", "lo": 0, "high": 2}, "'a'.* 'lo'"),
        ({"name": "a", "kind": "number", "knots": 3}, "'a' .* low and high"),
        ({"name": "a", "kind": "date", "form": 3, "low": "2020-01-01", "high": "2021-01-01"}, "'a' .* form"),
        ({"name": "a", "kind": "date", "form": "%Q", "low": "2020-01-01", "high": "2021-01-01"}, "'a' .* form"),
        ({"name": "a", "kind": "date", "low": 3, "high": "2021-01-01"}, "'a' .* two dates"),
        ({"name": "a", "kind": "category", "values": 3}, "'a' .* list of words"),
        ({"name": "a", "kind": "category", "values": "abc"}, "'a' .* list of words"),
        ({"name": "a", "kind": "category", "values": [["x"]]}, "'a' .* list of words"),
        ({"name": "a", "kind": "category", "values": ["x", "x"]}, "'a' .* value twice"),
        ({"name": "b", "kind": "number", "low": 0, "high": 2}, "no column 'b'"),
        ({"name": "c", "kind": "number", "low": 0, "high": 2}, "No cell of 'c' is a number"),
        ({"name": "c", "kind": "number", "low": 0, "high": 2, "missing": True}, "No cell of 'c' is a number"),
        ({"name": "c", "kind": "category", "values": ["p", "q"]}, "No cell of 'c' is one of its values"),
    ],
)
def test_a_wrong_column_of_a_schema_is_one_sentence_that_names_it(tmp_path: Path, column: dict, said: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps([column]))
    save(tmp_path / "a.csv", {"a": ["1", "2", "3"] * 10, "c": ["x", "y", "z"] * 10})
    with pytest.raises(UserError, match=said) as error:
        open_data(tmp_path / "a.csv", schema=tmp_path / "s.json")
    assert "\n" not in str(error.value)


def test_a_schema_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps([{"name": "a", "kind": "number", "low": 0, "high": 2}] * 2))
    with pytest.raises(UserError, match="'a' twice"):
        open_data(save(tmp_path / "a.csv", {"a": ["1", "2", "3"] * 10}), schema=tmp_path / "s.json")


def test_broken_lines_and_lines_without_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"1,x\n2,y\n3,x\n" * 20 + b"1\n1,2,3\n")
    data = open_data(tmp_path / "a.csv", held_out=0)
    assert len(data) == 60 and any("2 lines" in n and "first line 62" in n for n in data.summary["notes"])
    (tmp_path / "b.csv").write_bytes(b"1,2\n3,4\n5,7\n" * 20)
    plain = open_data(tmp_path / "b.csv", held_out=0)
    assert len(plain) == 60 and [c["name"] for c in plain.spec.extra["columns"]] == ["column 1", "column 2"]


@pytest.mark.parametrize(
    ("before", "delimiter", "encoding"),
    [
        ("\n\n", ",", "utf-8"),
        ("   \n;;\n", ";", "utf-8-sig"),
        ("sep=;\n", ";", "utf-8"),
        ('"sep=;"\r\n\r\n', ";", "utf-16"),
        ("sep=\t\n", "\t", "utf-16"),
        ("sep=:\n", ":", "cp1252"),
    ],
)
def test_what_stands_above_the_names_is_no_row(tmp_path: Path, before: str, delimiter: str, encoding: str) -> None:
    rows = [f"{city}{delimiter}{i % 5}\n" for i in range(15) for city in ("Tromsø", '"Mo, Rana"')]
    (tmp_path / "a.csv").write_bytes(f"{before}city{delimiter}x\n{''.join(rows)}".encode(encoding))
    data = open_data(tmp_path / "a.csv", held_out=0)
    assert set(words_of(data)["city"]) == {"Tromsø", "Mo, Rana"} and len(words_of(data)["x"]) == 30


def test_cells_of_several_lines_are_whole_below_a_line_that_says_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"sep=;\na;b;c\n" + b'1;"x\ny";2\n3;z;4\n' * 20 + b"5;6\n7\n")
    words = table_files.read(streams(tmp_path / "a.csv", SUFFIXES), found := Found())
    assert words.columns == [["1", "3"] * 20, ["x\ny", "z"] * 20, ["2", "4"] * 20] and not found.bad
    assert found.notes == ["2 lines of a.csv have not 3 cells and are left out, the first line 63."]


def test_stray_quotes_are_letters_and_swallow_no_line(tmp_path: Path) -> None:
    odd = ['"twelve inch,1', '5" pipe,2', '"a "b"" c",3', '"both\nlines",4', '"x" ,5', '"6,000",6', '"never closed,7']
    (tmp_path / "a.csv").write_text("\n".join(["kind,x", *odd[:6], *["plain,9"] * 30, odd[6], "last,8"]) + "\n")
    words = table_files.read(streams(tmp_path / "a.csv", SUFFIXES), found := Found())
    kinds = dict(zip(words.columns[1], words.columns[0], strict=True))
    assert kinds == {
        "1": '"twelve inch', "2": '5" pipe', "3": '"a "b"" c"', "4": "both\nlines", "5": "x", "6": "6,000",
        "7": '"never closed', "8": "last", "9": "plain",
    } and not found.notes and not found.bad  # fmt: skip
    (tmp_path / "a.csv").write_text("name\n1,2\n3,4\n")
    with pytest.raises(UserError, match="no row has 1 cell as line 1, its line of names"):
        open_data(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("a,b\n3," + "x" * (CELL + 1) + "\n")
    with pytest.raises(UserError, match="line 2 has a cell of more than 1,048,576 characters"):
        open_data(tmp_path / "a.csv")


@given(st.binary(max_size=400))
def test_any_bytes_are_a_table_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("raw") / "a.csv"
    path.write_bytes(raw)
    try:
        data = open_data(path, modality="table", held_out=0)
        assert len(data) >= 20
    except UserError as error:
        assert "\n" not in str(error)


def test_inspect_says_what_fit_would_do(people: Path) -> None:
    with people.open("a") as file:
        file.write(people.read_text().splitlines()[1] + "\n")
    facts = inspect_table.inspect(people)
    kinds = {c["name"]: c["kind"] for c in facts["columns"]}
    assert kinds["name"] == "left out" and kinds["wage"].startswith("number, 1000.00 to 1682.50")
    assert facts["rows"] == 41 and facts["duplicates"] == [["row 1", "row 41"]]
    shown = inspect_table.format_report(facts)
    assert "1 exact" in shown and "Oslo" in shown


def test_inspect_of_strange_tables_is_right_or_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "tables/a.csv"
    path.parent.mkdir()
    with pytest.raises(UserError, match="holds no file of a kind that can be learnt"):
        genloom.inspect(path.parent)
    odd = {
        b"": "empty",
        b"a,b\n": "no row below",
        b"a,b\n1,x\0y\n": "binary",
        b"\n\n": "empty",
        b";;\n;;\n": "no row below",
    }
    for raw, said in odd.items():
        path.write_bytes(raw)
        with pytest.raises(UserError, match=f"'a.csv': {said}"):
            genloom.inspect(path.parent)
    path.write_text("a,a,,a\n" + "1,2,3,4\n2,3,4,5\n3,4,5,6\n" * 9, encoding="utf-16")
    assert [c["name"] for c in genloom.inspect(path)["columns"]] == ["a", "a.1", "column 3", "a.2"]
    save(path, {f"c{i}": [str(i * j % 7) for j in range(25)] for i in range(2000)})
    assert len(genloom.inspect(path)["columns"]) == 2000
    save(path, {"\x1b[2Jname": ["one\ntwo", "three"] * 15})
    shown = inspect_table.format_report(genloom.inspect(path))
    assert "\\x1b[2Jname" in shown and "\x1b" not in shown and "one\\ntwo" in shown


@pytest.mark.parametrize(("name", "rows", "columns"), [("churn", 7043, 20), ("credit", 4454, 14)])
def test_what_comes_with_it(name: str, rows: int, columns: int) -> None:
    data = open_data(name)
    held = data.held_out()
    assert held is not None and len(data) + len(held) == rows and data.spec.shape == (columns,)
    assert not data.summary["notes"] and not data.summary["skipped"]["count"]
    for column, own, back in zip(
        data.spec.extra["columns"], data.numbers, numbers_of(data.table, data.spec), strict=True
    ):
        np.testing.assert_allclose(own, back, rtol=2e-5, err_msg=column["name"])
