"""Losses as pure functions, each with its formula, shapes and source."""
