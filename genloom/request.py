"""What fit was asked for, resolved, as run.json keeps it; and the folder that holds the same request, or a new one."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path
from typing import Any

import torch

import genloom
from genloom import parallel
from genloom.core import Model, Spec, hyper_parameters
from genloom.data.base import Dataset
from genloom.errors import UserError, nearest, unknown
from genloom.plugins import source_of
from genloom.run import Place, Run, as_json
from genloom.seal import break_seal, code_version
from genloom.state import Options

BUDGET = ("steps", "minutes", "save_minutes", "compile")  # may change from one call to the next on the same run

TERMS = ("licence", "consent")  # of the data, as its user says; kept when the same run goes on and nothing else is said
NOTES = (".txt", ".md", ".pdf", ".doc", ".docx", ".png", ".jpg")  # what is named so is a file, and no sentence
LONGEST_TEXT, LARGEST_NOTE = 64 * 2**10, 64 * 2**20  # bytes of a note that are kept, and that are hashed


def default_recipe(cls: type[Model], device: torch.device) -> str:
    """`cpu` on a CPU, `default` on anything faster, else whatever the model has."""
    liked = ("cpu", "default") if device.type == "cpu" else ("default", "cpu")
    return next(name for name in (*liked, *cls.recipes) if name in cls.recipes)


def resolve_options(
    cls: type[Model], recipe: str, overrides: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> Options:
    """The recipe of that name with the caller's changes. Raises UserError for an unknown recipe or option."""
    if recipe not in cls.recipes:
        raise unknown(f"recipe of '{cls.name}'", recipe, cls.recipes)
    known = [f.name for f in fields(Options) if f.name != "model"]
    for name in overrides:
        if name not in known:
            raise UserError(f"fit has no option '{name}'.{nearest(name, known)}")
    base = cls.recipes[recipe]
    budget = {"minutes": None} if "steps" in overrides else {}  # one in steps replaces a recipe's in minutes
    hyper = {k: p.default for k, p in hyper_parameters(cls).items()}
    return Options(**{**vars(base), **budget, **overrides, "model": {**hyper, **base.model, **(config or {})}})


def request(
    cls: type[Model],
    recipe: str,
    options: Options,
    source: str,
    data: Dataset,
    data_options: Mapping[str, Any],
    spec: Spec,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """run.json: the whole resolved request, which is also the config to reuse. `spec` is the model's: it may say more than
    the data's, such as what its mel spectrograms are. `more`: init, licence and consent (see `terms`), and how many canaries
    are planted."""
    settings, planted = asdict(options), {"count": more["canaries"], "seed": options.seed}
    asked = {
        **about(cls, recipe, command(cls, recipe, options, source, data_options, more)),
        "init": more["init"],
        "config": settings.pop("model"),
        "options": settings,
        "data": {
            "source": source if source == data.name else os.path.abspath(source),
            "options": data_options,
            "name": data.name,
            "fingerprint": data.fingerprint,
            "summary": data.summary,
            **terms(more["licence"], more["consent"]),
            **({"canaries": planted} if more["canaries"] else {}),
        },
        "spec": spec.to_json(),
    }
    return as_json(asked)


def about(cls: type[Model], recipe: str, command: str) -> dict[str, Any]:
    """What every run.json says of the model, the machine and the moment."""
    return {
        "genloom": genloom.__version__,
        "model": cls.name,
        "source": source_of(cls),
        "card": asdict(cls.card),
        "recipe": recipe,
        "versions": {"genloom": genloom.__version__, "torch": torch.__version__, "python": platform.python_version()}
        | {"code": code_version()},
        "device": str(parallel.device()),
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def command(
    cls: type[Model], recipe: str, options: Options, data: str, data_options: Mapping[str, Any], more: Mapping[str, Any]
) -> str:
    """The command that makes this run again: the recipe, what departs from it, and `more` options by name."""
    plain = resolve_options(cls, recipe, {})
    given = {k: v for k, v in vars(options).items() if k != "model" and v not in (None, getattr(plain, k))}
    given |= {k: v for k, v in more.items() if v}
    given |= {f"model.{k}": v for k, v in options.model.items() if v != plain.model[k]}
    given |= {f"data.{k}": v for k, v in data_options.items()}
    model = source_of(cls)
    words = ["genloom", "fit", model["path"] if model else cls.name, data, "--recipe", recipe]
    for name, value in given.items():
        head, dot, tail = name.replace("_", "-").rpartition(".")
        words.append(f"--{head}{dot}{'no-' if value is False else ''}{tail}")
        if not isinstance(value, bool):
            words += map(str, value if isinstance(value, (tuple, list)) else [value])
    return shlex.join(words)


def open_or_create(out: Place | None, info: dict[str, Any]) -> Run:
    """The folder to train in: made, or resumed when it holds the same request. Raises UserError when it holds another."""
    if out is None:
        name = f"{info['model']}-{Path(info['data']['name']).stem}"
        folders = (Path("runs", f"{name}-{number}" if number > 1 else name) for number in count(1))
        out = next(f for f in folders if not (f / "run.json").exists() or not change(Run.open(f).info, info))
    folder = Path(out)
    if (folder / "run.json").exists():
        old = Run.open(folder).info
        if changed := change(old, info):
            raise UserError(f"'{folder}' holds another run ({changed}): give another --out, or ask for the same.")
        break_seal(folder)
        info |= {k: old[k] for k in ("started", "parents", "privacy") if k in old}
        info["data"] = {k: old["data"][k] for k in TERMS if k in old["data"]} | info["data"]
    else:
        refuse_occupied(folder)
    return Run.create(folder, info)


def terms(licence: str | None = None, consent: str | None = None) -> dict[str, Any]:
    """What run.json says of the right to use the data, where somebody said it. Of a note in a file its name, its SHA-256, and its
    text where it is one.

    Raises UserError for an empty sentence, and for a note that is not there or is too large.
    """
    told: dict[str, Any] = {k: v for k, v in (("licence", licence), ("consent", consent)) if v is not None}
    for name, said in told.items():
        if not said.strip():
            raise UserError(f"--{name} says nothing: write it in words, or leave it out.")
        told[name] = said.strip() if name == "licence" else _note(said)
    return told


def _note(said: str) -> dict[str, str]:
    """Words, or the file of that name."""
    path, words = Path(said), said.strip()
    if not os.path.isfile(path):
        if " " not in words and Path(words).suffix in NOTES:
            raise UserError(f"There is no note '{said}': check the path, or say in words what was agreed to.")
        return {"text": words}
    if path.stat().st_size > LARGEST_NOTE:
        raise UserError(f"The note '{path}' is larger than {LARGEST_NOTE >> 20} MB: give a shorter one.")
    raw = path.read_bytes()
    file = {"file": path.name, "sha256": hashlib.sha256(raw).hexdigest()}
    try:
        return {"text": raw.decode("utf-8-sig").strip(), **file} if len(raw) <= LONGEST_TEXT else file
    except UnicodeDecodeError:
        return file  # a scan, a PDF: its hash tells which


def refuse_occupied(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file: give --out a new folder.")
    if folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        raise UserError(f"'{folder}' is not empty and not this run's: give --out a new or an empty folder.")


def change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first thing in which two requests differ, in the user's words; what the budget holds does not count."""
    pairs = [("model", old["model"], new["model"]), ("--init", old.get("init"), new["init"])]
    if old["data"]["fingerprint"] != new["data"]["fingerprint"]:
        there, here = (f"{i['data']['name']} ({i['data']['fingerprint'][:8]})" for i in (old, new))
        pairs.append(("data", there, here))
    pairs += [(f"--model.{k}", old["config"].get(k), v) for k, v in new["config"].items()]
    pairs += [
        (f"--{k}", old["options"][k], v)
        for k, v in new["options"].items()
        if k not in BUDGET and k in old["options"]  # an older genloom knew fewer
    ]
    return next((f"{name.replace('_', '-')} {a} there, {b} here" for name, a, b in pairs if a != b), "")
