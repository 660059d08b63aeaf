"""Parquet files to records of cells, written as a CSV file would have them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, BinaryIO

import numpy as np

from genloom.data.files import UnreadableError
from genloom.data.schema import EPOCH
from genloom.errors import needs_extra


def records(stream: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    """Each record with its number, the first the names of the columns. Raises UnreadableError for what is no table."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise needs_extra("pyarrow", "table", "Reading Parquet") from None
    try:
        table = parquet.ParquetFile(io.BytesIO(stream.read())).read()
        columns = [_words(column, name) for column, name in zip(table.columns, table.column_names, strict=True)]
    except OverflowError:
        raise UnreadableError("it holds dates beyond the year 9999, or before the year 1") from None
    except (arrow.ArrowException, OSError) as error:
        raise UnreadableError(f"no whole Parquet file ({str(error).splitlines()[0]})") from None
    yield 0, list(table.column_names)
    yield from enumerate(map(list, zip(*columns, strict=True)), 1)


def _words(column: Any, name: str) -> list[str]:
    """The cells of a column of Parquet, written as a CSV file would have them; instants of any time zone in UTC."""
    import pyarrow as arrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        return _words(column.cast(kind.value_type), name)
    if types.is_nested(kind):
        raise UnreadableError(f"the cells of its column '{name}' hold several values each: write the file without it")
    if types.is_time(kind):
        clock = column.cast(arrow.time64("us"), safe=False).to_pylist()
        exact = "microseconds" if any(x and x.microsecond for x in clock) else "seconds"
        return _told([None if x is None else x.isoformat(exact) for x in clock])
    if types.is_timestamp(kind):
        zone = "Z" if kind.tz else ""
        passed = column.cast(arrow.timestamp("us", kind.tz), safe=False).cast(arrow.int64()).to_pylist()
        times = [None if x is None else EPOCH + timedelta(microseconds=x) for x in passed]
        exact = "microseconds" if any(x and x.microsecond for x in times) else "seconds"
        return _told([None if x is None else x.isoformat("T" if zone else " ", exact) + zone for x in times])
    if types.is_duration(kind):
        passed = column.cast(arrow.duration("us"), safe=False).cast(arrow.int64()).to_pylist()
        return _told([None if x is None else str(x / 1e6) for x in passed])
    if types.is_float16(kind) or types.is_float32(kind):  # 0.1, which in 64 bits is 0.10000000149011612
        own = np.float16 if types.is_float16(kind) else np.float32
        return _told([None if x is None else _shortest(float(x), own) for x in column.to_pylist()])
    if types.is_decimal(kind):
        return _told([None if x is None else f"{x:f}" for x in column.to_pylist()])
    return _told([x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in column.to_pylist()])


def _shortest(x: float, kind: type[np.floating[Any]]) -> float:
    """The number of the fewest digits that is this one in that kind; a whole one as it is."""
    return x if x.is_integer() else float(str(kind(x)))


def _told(cells: list[Any]) -> list[str]:
    return ["" if x is None else str(x).strip() for x in cells]
