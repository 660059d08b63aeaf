"""What a user can cause, said in one sentence; and the small helpers that phrase it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Something the user can mend: shown as one sentence without a traceback, exit code 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'dcgan'?"` when a known name is close to `name`, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a list: says the nearest one, then them all."""
    names = sorted(known)
    return UserError(f"There is no {kind} '{name}'.{nearest(name, names)} Known: {', '.join(names)}.")


def needs_extra(package: str, extra: str, why: str) -> UserError:
    """The error for an optional dependency that is absent."""
    return UserError(f"{why} needs the package '{package}': pip install 'genloom[{extra}]'.")


def printable(text: str) -> str:
    """Text of a file that anybody may have made, without what would move about on the screen or look like another row."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_json(value: Any) -> str:
    """JSON for people and programs: signs of all scripts as they are, and what would move about on the screen escaped."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def shortened(text: str, most: int) -> str:
    """A text of so many characters at most, without its middle: names begin and end with what tells them apart."""
    return text if len(text) <= most else f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"
