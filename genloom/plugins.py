"""A model of one's own: a Python file that registers a Model, as good as ours in every verb.

A file named on the command line is run, as `python my_gan.py` would run it, and its SHA-256 is remembered. A run folder
only names its model's file; the file is run again for it when its contents are among those remembered, so a folder from
somebody else cannot make this machine run code.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from traceback import extract_tb
from typing import Any

from genloom.core import Model, build, find, registered
from genloom.errors import UserError
from genloom.run import Run, atomic
from genloom.seal import digest


def home() -> Path:
    """Where genloom keeps what outlives a run: `$GENLOOM_HOME`, else `~/.cache/genloom`."""
    return Path(os.environ.get("GENLOOM_HOME") or Path.home() / ".cache" / "genloom")


def resolve(model: str | type[Model]) -> type[Model]:
    """A model class from a class, a registered name, or the path of a Python file (which is run, and remembered)."""
    if not isinstance(model, str):
        return model
    if not model.endswith(".py"):
        return find(model)
    path = Path(model).resolve()
    if not path.is_file():
        raise UserError(f"There is no model file '{model}'.")
    remember(path)
    return load_file(path)


def load_file(path: Path) -> type[Model]:
    """Run a Python file and return the one model it registers."""
    name = f"genloom_user_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    before = dict(registered)
    try:
        module_spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        where = f", line {lines[-1]}," if lines else ""
        raise UserError(f"'{path}'{where} fails: {type(error).__name__}: {error}") from error
    new = [m for k, m in registered.items() if before.get(k) is not m]
    if len(new) != 1:
        raise UserError(f"'{path}' must register one model with @register(\"name\"); it registers {len(new)}.")
    return new[0]


def source_of(model: type[Model]) -> dict[str, Any] | None:
    """What run.json keeps of a user's file: its path and SHA-256; None for an installed model."""
    module = sys.modules.get(model.__module__)
    if not model.__module__.startswith("genloom_user_") or module is None or module.__file__ is None:
        return None
    path = Path(module.__file__)
    return {"path": str(path), "sha256": digest(path)}


def model_of(run: Run) -> type[Model]:
    """The class behind a run; a user's file is run only when its contents are remembered."""
    source = run.info.get("source")
    if source is None or run.info["model"] in registered:
        return find(run.info["model"])
    path = Path(source["path"])
    if not path.is_file():
        raise UserError(f"This run's model is code in '{path}', which is gone: put it back, or pass --code FILE.")
    if digest(path) not in trusted():
        raise UserError(
            f"This run's model is code in '{path}', which has not been used here as it is now; read it, and if you trust "
            f"it pass --code {path}"
        )
    return load_file(path)


def built(run: Run) -> Model:
    """The run's model without its weights. Raises UserError for a config or a Spec that somebody edited into what none can have."""
    cls = model_of(run)
    try:
        return build(cls, run.spec, run.info["config"])
    except UserError as error:
        raise UserError(f"'{run.folder}/run.json' has what '{cls.name}' refuses: {error}") from None
    except Exception as error:  # whatever a model's own code does about numbers that make no sense
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"'{run.folder}/run.json' has a 'config' or a 'spec' that '{run.info['model']}' cannot be made of ({why}): restore "
            "it from a copy, or fit into another folder."
        ) from error


def trusted() -> set[str]:
    path = home() / "trusted.txt"
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()


def remember(path: Path) -> None:
    """Note the contents of a model file that the user named."""
    known = trusted()
    if (new := digest(path)) not in known:
        home().mkdir(parents=True, exist_ok=True)
        with atomic(home() / "trusted.txt") as file:
            file.write_text("\n".join(sorted(known | {new})) + "\n", encoding="utf-8")
