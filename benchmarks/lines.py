"""How large the house is: `python -m benchmarks.lines [COVERAGE]`.

Lines of code by room, blank lines, comments and docstrings left out; with a data file of coverage.py, how many of them ran.
The spine's tests write one so: `coverage run --source=genloom -m pytest -n 0 TESTS` (`patch = subprocess` in its settings,
for the command line runs in processes of its own).
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import defaultdict
from pathlib import Path

HOUSE = Path(__file__).parent.parent / "genloom"
SAYS_NOTHING = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SPINE = {  # rooms of the spine, and what of each room it is
    "core": "core errors __init__ __main__",
    "verbs": "cli cli_data forms api request plugins",
    "loop": "train state watch monitor budget machine parallel",
    "run, sampling": "run generate",
    "data": "data/__init__ data/base data/catalog data/decode data/draw data/files data/image data/labels data/order "
    "data/survey data/shelf data/inspect_image data/preflight",
    "metrics": "measure metrics/digits metrics/distribution metrics/features metrics/image metrics/inception metrics/lite0",
    "report": "report/__init__ report/card report/compare report/curves report/page report/places report/story",
    "seven models": "models/image/gan models/image/dcgan models/image/wgan_gp models/image/vae models/image/cvae "
    "models/image/flow models/image/infogan objectives/adversarial objectives/variational objectives/diffusion "
    "nn/unet nn/conv nn/fold",
}


def code(text: str) -> set[int]:
    """Numbers of the lines that hold code."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SAYS_NOTHING:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, HAS_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            held -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return held


def ran(text: str, hit: set[int]) -> set[int]:
    """All lines of the statements that ran; of a function or class whose body did not, none."""
    found: set[int] = set()

    def visit(node: ast.AST) -> bool:
        inside = [child for name in BODIES for child in getattr(node, name, ()) if isinstance(child, ast.AST)]
        start, stop = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0) or 0
        if not inside or isinstance(node, ast.expr):
            own = set(range(start, stop + 1))
            found.update(own if own & hit else ())
            return bool(own & hit)
        each_ran = [visit(child) for child in inside]
        first = min([start, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if any(each_ran) or (start in hit and not isinstance(node, HAS_DOCSTRING)):
            found.update(range(first, max(start + 1, getattr(inside[0], "lineno", start + 1))))
        return any(each_ran)

    visit(ast.parse(text))
    return found


def main() -> None:
    hits: dict[str, set[int]] = defaultdict(set)
    if sys.argv[1:]:
        from coverage import CoverageData

        data = CoverageData(sys.argv[1])
        data.read()
        hits |= {name: set(data.lines(name) or ()) for name in data.measured_files()}
    counts = {}
    for path in sorted(HOUSE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = code(text)
        counts[str(path.relative_to(HOUSE))[:-3]] = len(lines), len(lines & ran(text, hits[str(path)]))
    rows = {room: [counts[name] for name in names.split()] for room, names in SPINE.items()}
    spine = [held for each in rows.values() for held in each]
    for room, held in [*rows.items(), ("the spine", spine), ("all of genloom", list(counts.values()))]:
        print(f"{room:<16}{sum(all_ for all_, _ in held):>8,}" + (f"{sum(r for _, r in held):>8,}" if hits else ""))


if __name__ == "__main__":
    main()
