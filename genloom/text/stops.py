"""Text as it grows: pieces that are safe to show, and where it must stop."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}  # as a stop string is typed in a shell, and what it stands for
_TYPED = {held: typed for typed, held in _ESCAPES.items()}


def unescaped(typed: str) -> str:
    return re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found[0]], typed)


def escaped(held: str) -> str:
    return re.sub(r"[\n\t\\]", lambda found: _TYPED[found[0]], held)


class Stream:
    """Bytes of tokens in, text out: characters are held back until whole, and what may begin a stop string until it does not.

    `text` is all that was given out, `stopped` whether a stop string came; it, and all after it, is never given out.
    """

    def __init__(self, stops: Sequence[str] = ()):
        self.stops = [s for s in stops if s]
        self.longest = max(map(len, self.stops), default=0)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.held, self.stopped = "", "", False

    def push(self, piece: bytes) -> str:
        """What can be shown since the last call."""
        return self._show(self.decoder.decode(piece))

    def close(self) -> str:
        """The rest: nothing more will come."""
        return self._show(self.decoder.decode(b"", final=True), last=True)

    def _show(self, new: str, last: bool = False) -> str:
        if self.stopped:
            return ""
        held = self.held + new
        at = min((found for s in self.stops if (found := held.find(s)) >= 0), default=-1)
        if at >= 0:
            self.stopped, keep = True, at
        else:
            keep = len(held) if last else len(held) - self._begun(held)
        out, self.held = held[:keep], held[keep:]
        self.text += out
        return out

    def _begun(self, held: str) -> int:
        """How many characters at the end could begin a stop string: so no stop is missed across tokens."""
        for size in range(min(self.longest - 1, len(held)), 0, -1):
            if any(s.startswith(held[-size:]) for s in self.stops):
                return size
        return 0
