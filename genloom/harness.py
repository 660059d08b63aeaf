"""A language model's run for EleutherAI's lm-evaluation-harness: its hundreds of tasks, scored as it scores others.

lm_eval.simple_evaluate(model=genloom.harness.Harness("runs/gpt"), tasks=["lambada_openai"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genloom import generate
from genloom.errors import UserError
from genloom.objectives.autoregressive import LanguageModel
from genloom.run import Run
from genloom.tasks import scored, scores

try:
    from lm_eval.api.model import LM
except ImportError:
    raise UserError("The evaluation harness is not installed: pip install 'genloom[harness]'.") from None

LENGTH = 256  # tokens that an answer may have where its task does not say


class Harness(LM):
    """The three questions that the harness asks: each request's `args` hold a text, or a context and what follows it.

    Raises UserError when the run holds no language model.
    """

    def __init__(self, run: str | Path, seed: int = 0):
        super().__init__()
        model = generate.load(Run.open(Path(run)))
        if not isinstance(model, LanguageModel):
            raise UserError(f"The harness asks language models, and '{run}' holds a '{model.name}'.")
        self.model, self.seed = model, seed

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """The log-probability (nats) of each continuation, and whether the model itself would have said it."""
        return [(s.log, s.greedy) for s in scores(self.model, [r.args for r in requests])]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """The log-probability (nats) of each whole text: every token once, in windows that see one token before them."""
        windows = [windows_of(self._tokens(r.args[0]), self.model.context) for r in requests]
        found = iter(scored(self.model, [w for several in windows for w in several]))
        return [sum(next(found)[0] for _ in several) for several in windows]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the model writes after each context, up to a string of `until`; greedy unless the task samples."""
        return [self._answer(*r.args) for r in requests]

    def _tokens(self, text: str) -> list[int]:
        return [self.model.tokenizer.end, *self.model.tokenizer.encode(text)]

    def _answer(self, context: str, asked: Mapping[str, Any]) -> str:
        until = asked.get("until") or []
        warm = asked.get("do_sample", False) or asked.get("temperature", 0) > 0
        (text,) = self.model.sample(
            1,
            seed=self.seed,
            prompt=context,
            length=int(asked.get("max_gen_toks", LENGTH)),
            temperature=float(asked.get("temperature", 1.0)) if warm else 0.0,
            top_p=float(asked.get("top_p", 1.0)),
            stop=[until] if isinstance(until, str) else list(until),
        )
        return text


def windows_of(tokens: list[int], context: int) -> list[tuple[list[int], int]]:
    """(tokens, how many at their end are asked for): all but the first token, each asked for once; the last is full."""
    ends = [*range(context, len(tokens) - 1, context), len(tokens) - 1]
    starts = [0, *ends[:-1]]
    return [(tokens[max(0, e - context) : e + 1], e - s) for s, e in zip(starts, ends, strict=True)]
