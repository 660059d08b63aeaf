"""genloom trains, samples, measures, audits and serves generative models on a person's own data.

Verbs: fit, import_, sample, interpolate, project, edit, mix, evaluate, audit, compare, load, inspect, models, data.
Words: Spec, Model, Phase, Card, Recipe, Result, Run, Policy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "api": "audit compare edit evaluate evaluate_tasks export fit import_ inspect interpolate load mix project sample",
    "core": "Batch Card Model Phase Recipe Result Spec register",
    "data": "data",
    "errors": "UserError",
    "models": "models",
    "policy": "Policy RefusedError",
    "run": "Run",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from genloom import data, models
    from genloom.api import (
        audit,
        compare,
        edit,
        evaluate,
        evaluate_tasks,
        export,
        fit,
        import_,
        inspect,
        interpolate,
        load,
        mix,
        project,
        sample,
    )
    from genloom.core import Batch, Card, Model, Phase, Recipe, Result, Spec, register
    from genloom.errors import UserError
    from genloom.policy import Policy, RefusedError
    from genloom.run import Run


def __getattr__(name: str) -> Any:
    """Import on first use: `import genloom` is instant, torch comes with the first verb."""
    if name not in _HOME:
        raise AttributeError(f"module 'genloom' has no attribute '{name}'")
    module = importlib.import_module(f"genloom.{_HOME[name]}")
    return module if name == _HOME[name] else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
