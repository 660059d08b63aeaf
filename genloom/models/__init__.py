"""Generative models, one file a family: everything its paper defines."""

from __future__ import annotations

import sys
from types import ModuleType

from genloom.core import Model, models


class _Callable(ModuleType):
    def __call__(self) -> dict[str, type[Model]]:
        """Every registered model by name, as `genloom models` lists them."""
        return models()


sys.modules[__name__].__class__ = _Callable  # the verb and the package share a name: genloom.models()
