"""Generative models, one file a family: everything its paper defines. As a verb, `genloom.models()` lists them."""

import sys

from genloom.core import Verb, models

verb = models
sys.modules[__name__].__class__ = Verb
