"""Generative models, one file a family: everything its paper defines."""
