"""What run.json holds, and of which kind: it is read by every verb, and anybody may have edited it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genloom.core import MODALITIES

# a type; a list of such; an object, whose keys that end in "?" may be absent; a pair with None for what may be null
Kind = type | list[Any] | dict[str, Any] | tuple[None, Any]

FORM: dict[str, Any] = {
    "format": int,
    "model": str,
    "source?": (None, {"path": str}),
    "config": dict,
    "options": dict,
    "data": {
        "source": str,
        "name": str,
        "fingerprint": str,
        "options?": dict,
        "summary?": (None, {"items?": int}),
        "licence?": (None, str),
        "consent?": (None, {"text?": str, "file?": str, "sha256?": str}),
        "canaries?": (None, {"count": int, "seed": int}),
    },
    "spec": {
        "modality": str,
        "shape": [int],
        "classes": [str],
        "extra": {
            "rate?": float,
            "vocabulary?": int,
            "tokenizer?": {"kind": str},
            "columns?": [{"name": str, "kind": str}],
            "target?": (None, int),
            "source_channels?": int,
            "serves?": [str],
            "letters?": int,
            "alphabet?": str,
            "units?": str,
            "language?": str,
            "source?": str,
            "detector?": str,
            "fit?": str,
            "background?": str,
        },
    },
    "card?": (
        None,
        {
            **dict.fromkeys(("paper", "authors", "summary", "changes", "licence"), str),
            "year": object,
            "results": [dict.fromkeys(("metric", "value", "data", "where"), object)],
        },
    ),
    "versions?": dict,
    "parents?": [dict],
    "privacy?": (
        None,
        {
            **dict.fromkeys(("epsilon", "delta", "clip", "noise", "rate"), float),
            **dict.fromkeys(("steps", "planned"), int),
            **dict.fromkeys(("unit", "accountant"), str),
            "init?": str,
        },
    ),
}
CALLED = {int: "a whole number", float: "a number", str: "words", list: "a list", dict: "an object"}
SHAPES = {"image": 3, "text": 1, "audio": 2, "video": 4, "table": 1}  # how many sizes an item has
NEEDED = {"audio": ("rate",), "video": ("rate",), "table": ("columns", "target")}  # of a Spec's extra


def amiss(info: Mapping[str, Any]) -> str:
    """What is wrong first, as the rest of a sentence about the file; empty for what a fit may have written."""
    if wrong := _amiss(info, FORM, ""):
        return wrong
    modality, extra = info["spec"]["modality"], info["spec"]["extra"]
    if modality not in MODALITIES:
        return f"has '{modality}' under 'spec.modality', which is none of {', '.join(MODALITIES)}"
    if lacking := next((key for key in NEEDED.get(modality, ()) if key not in extra), ""):
        return f"lacks 'spec.extra.{lacking}'"
    if len(info["spec"]["shape"]) != SHAPES[modality]:
        return f"should have {SHAPES[modality]} numbers under 'spec.shape'"
    return ""


def _amiss(value: Any, kind: Kind, at: str) -> str:
    if isinstance(kind, tuple):
        return "" if value is None else _amiss(value, kind[1], at)
    plain = kind if isinstance(kind, type) else type(kind)
    fits = isinstance(value, (int, float) if plain is float else plain)
    if not fits or (isinstance(value, bool) and plain in (int, float)):
        return f"should have {CALLED[plain]} under '{at}'"
    found: Iterator[str] = iter(())
    if isinstance(kind, list):
        found = (_amiss(item, kind[0], f"{at}.{i}") for i, item in enumerate(value))
    elif isinstance(kind, dict):
        found = (_inside(value, key, inner, at) for key, inner in kind.items())
    return next(filter(None, found), "")


def _inside(value: Mapping[str, Any], key: str, kind: Kind, at: str) -> str:
    name = key.removesuffix("?")
    path = f"{at}.{name}" if at else name
    if name not in value:
        return "" if key.endswith("?") else f"lacks '{path}'"
    return _amiss(value[name], kind, path)
