"""Few-shot tasks: a language model answers by which words it holds likelier (Brown et al. 2020, section 2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genloom import generate
from genloom.core import generator
from genloom.errors import UserError
from genloom.measure import row
from genloom.metrics.distribution import mean_estimate
from genloom.objectives.autoregressive import LanguageModel
from genloom.run import Run
from genloom.seal import weights_of

BATCH = 16


@dataclass(frozen=True)
class Task:
    """A context and the texts that may follow it, the right one by number; one choice: is it what the model would say?"""

    context: str
    choices: tuple[str, ...]
    answer: int

    @property
    def solved(self) -> str:
        """As an example before another task."""
        return self.context + self.choices[self.answer]


class Score(NamedTuple):
    """The log-probability (nats) of a continuation, whether each of its tokens is the likeliest, and its bytes."""

    log: float
    greedy: bool
    size: int


def read_tasks(path: Path) -> list[Task]:
    """JSON lines with `context`, and `choices` with `answer` (a number, or one of them), or a `completion`.

    Raises UserError that names the first line of another form.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from None
    tasks = [_task(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not tasks:
        raise UserError(f"'{path}' holds no task.")
    return tasks


def _task(line: str, where: str) -> Task:
    wanted = '{"context": …, "choices": […], "answer": 0} or {"context": …, "completion": …}'
    try:
        given = json.loads(line)
        context = given["context"]
        choices = tuple(given["choices"]) if "choices" in given else (given["completion"],)
        answer = given.get("answer", 0) if len(choices) > 1 else 0
        answer = choices.index(answer) if isinstance(answer, str) else answer
        texts = isinstance(context, str) and all(isinstance(c, str) and c for c in choices)
        if not (texts and 0 <= answer < len(choices)):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is no task: {wanted}.") from None
    return Task(context, choices, answer)


def with_examples(tasks: Sequence[Task], shots: int, seed: int) -> list[str]:
    """Each task's context after so many other tasks that are solved, drawn by (seed, number)."""
    if shots >= len(tasks):
        raise UserError(f"{shots} examples before each task need more than {shots} tasks, not {len(tasks)}.")
    prompts = []
    for i, task in enumerate(tasks):
        drawn = torch.randperm(len(tasks) - 1, generator=generator(seed, i))[:shots].tolist()
        examples = [tasks[j + (j >= i)].solved for j in drawn]
        prompts.append("\n\n".join([*examples, task.context]))
    return prompts


def scores(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[Score]:
    """Of each (context, continuation); a context is seen from its end where both are longer than the model's."""
    tokens = model.tokenizer
    rows = []
    for context, continuation in pairs:
        before, after = tokens.encode(context) or [tokens.end], tokens.encode(continuation)
        rows.append(((before + after)[-(model.context + 1) :], min(len(after), model.context)))
    return [Score(*s, len(pair[1].encode())) for s, pair in zip(scored(model, rows), pairs, strict=True)]


@torch.inference_mode()
def scored(model: LanguageModel, rows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
    """Of each (tokens, n): the log-probability (nats) of the last n, and whether each of them is the likeliest."""
    found: dict[int, tuple[float, bool]] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    with generate.autocast(model.device, generate.resolve_precision(model, "auto")):
        for start in range(0, len(order), BATCH):
            mine = order[start : start + BATCH]
            longest = max(len(rows[i][0]) for i in mine)
            ids = torch.tensor([rows[i][0] + [0] * (longest - len(rows[i][0])) for i in mine], device=model.device)
            logs = model.network(ids[:, :-1]).float().log_softmax(2)
            for i, own, text in zip(mine, logs, ids, strict=True):
                found[i] = _score(own, text, len(rows[i][0]), rows[i][1])
    return [found[i] for i in range(len(rows))]


def _score(logs: Tensor, ids: Tensor, length: int, count: int) -> tuple[float, bool]:
    at = slice(length - 1 - count, length - 1)
    wanted = ids[length - count : length]
    own = logs[at].gather(1, wanted[:, None]).sum()
    return float(own), bool((logs[at].argmax(1) == wanted).all())


def evaluate_tasks(run: Run, path: Path, shots: Sequence[int] = (0,), seed: int = 0) -> dict[str, Any]:
    """Accuracy by log-probability, and by log-probability a byte, at each number of examples; also in tasks.json.

    `acc` takes the likeliest choice, `acc-bytes` the likeliest a byte; of tasks with one completion `exact` is the share
    that the model itself would have said, `nats` its mean surprise.
    """
    weights, model, tasks = weights_of(run), generate.load(run), read_tasks(path)
    if not isinstance(model, LanguageModel):
        raise UserError(f"Tasks are for language models, and '{run.folder}' holds a '{model.name}'.")
    rows = []
    for count in shots:
        prompts = with_examples(tasks, count, seed)
        pairs = [(prompt, choice) for prompt, task in zip(prompts, tasks, strict=True) for choice in task.choices]
        answers = iter(scores(model, pairs))
        grouped = [[next(answers) for _ in task.choices] for task in tasks]
        rows += _rows(grouped, tasks, f"{path.stem}@{count}", seed)
    result = {"tasks": path.name, "metrics": rows, "warnings": [], "weights": weights}
    run.write_json("tasks.json", result)
    return result


def _rows(grouped: list[list[Score]], tasks: Sequence[Task], name: str, seed: int) -> list[dict[str, Any]]:
    chosen = [(g, t) for g, t in zip(grouped, tasks, strict=True) if len(g) > 1]
    single = [g[0] for g in grouped if len(g) == 1]
    found: dict[str, list[Any]] = {
        "acc": [max(range(len(g)), key=lambda i: g[i].log) == t.answer for g, t in chosen],
        "acc-bytes": [max(range(len(g)), key=lambda i: g[i].log / g[i].size) == t.answer for g, t in chosen],
        "exact": [s.greedy for s in single],
        "nats": [-s.log for s in single],
    }
    rows = []
    for key, v in found.items():
        if v:
            mean = mean_estimate(torch.tensor(v, dtype=torch.float64), f"mean over {len(v)} tasks")
            rows.append(row(f"{key}-{name}", mean, len(v), seed))
    return rows
