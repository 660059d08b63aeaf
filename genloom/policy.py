"""What may be asked of a model, and what of what it makes may leave: rules of whoever serves it, as plain functions.

A rule is a named function that answers True for what it forbids. A rule that fails forbids. Of a refusal the log keeps the
time, the rule's name and a hash under this installation's key: whoever holds the key can tell whether a text that he has was
refused before, and nobody can read from the log what was asked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from genloom.errors import UserError
from genloom.provenance.keys import installation_key
from genloom.run import Run, writing

LOG = "refusals.jsonl"  # in the run folder
Rule = Callable[
    [Any], Any
]  # true of what it forbids; called with the conditions of a request, or with one item that was made


class RefusedError(UserError):
    """A rule forbids it; `rule` is its name."""

    def __init__(self, rule: str, what: str):
        super().__init__(f"The rule '{rule}' forbids {what}: ask for something else, or with another seed.")
        self.rule = rule


@dataclass(frozen=True)
class Policy:
    """The rules of a service: `requests` look at conditions by name (prompt, label, source …), `outputs` at each item made.

    `log`: where refusals are written, by default refusals.jsonl in the run folder. Raises UserError for a rule that has no
    name of its own to write there.
    """

    requests: Sequence[Rule] = ()
    outputs: Sequence[Rule] = ()
    log: Path | None = None

    def __post_init__(self) -> None:
        for rule in (*self.requests, *self.outputs):
            if name_of(rule) in ("", "<lambda>"):
                raise UserError("A rule of a policy is a function with a name, for the log tells rules by it: use def.")

    def ask(self, run: Run, conditions: Mapping[str, Any]) -> None:
        """Raises RefusedError for a request that a rule forbids."""
        if rule := broken(self.requests, conditions):
            self._note(run, rule, "request", conditions)
            raise RefusedError(rule, "this request")

    def allowed(self, run: Run, made: Tensor | Sequence[Any]) -> list[int]:
        """The numbers of the items that may be given out. Raises RefusedError when there were some and none may."""
        found = []
        for i, item in enumerate(made):
            if rule := broken(self.outputs, item):
                self._note(run, last := rule, "output", item)
            else:
                found.append(i)
        if len(made) and not found:
            raise RefusedError(last, "all that was made")
        return found

    def _note(self, run: Run, rule: str, of: str, content: Any) -> None:
        told = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "rule": rule, "of": of, "key": keyed(content)}
        path = self.log or run.folder / LOG
        with writing(path):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(handle, "ab", buffering=0) as file:  # one write a line: several servers may share a log
                file.write(json.dumps(told).encode() + b"\n")


def name_of(rule: Rule) -> str:
    return str(getattr(rule, "__name__", ""))


def broken(rules: Sequence[Rule], what: Any) -> str:
    """The name of the first rule that forbids it, or that fails on it; else nothing."""
    for rule in rules:
        try:
            forbidden = bool(rule(what))
        except Exception:  # whatever goes wrong in it, and its words may hold the content
            forbidden = True
        if forbidden:
            return name_of(rule)
    return ""


def keyed(content: Any) -> str:
    """HMAC-SHA256 of a request or an item under this installation's key, its first half in hexadecimal."""
    return hmac.new(installation_key(), b"genloom refusal\n" + as_bytes(content), hashlib.sha256).hexdigest()[:32]


def as_bytes(content: Any) -> bytes:
    """The same bytes for the same content: texts and tensors as they are, other things as JSON."""
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, Tensor):
        return (
            str((content.dtype, tuple(content.shape))).encode() + content.detach().cpu().contiguous().numpy().tobytes()
        )
    if isinstance(content, Mapping):
        return b"\n".join(str(k).encode() + b"=" + as_bytes(content[k]) for k in sorted(content))
    return json.dumps(content, sort_keys=True, default=str).encode()
