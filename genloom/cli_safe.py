"""The verbs of provenance: detect, and sample --like."""

from __future__ import annotations

import json
from pathlib import Path

from genloom.errors import UserError
from genloom.forms import Detect, Like, parse


def detect(words: list[str]) -> None:
    args = parse(Detect, "detect", words)
    if not args.FILE:
        raise UserError("detect needs files, or folders of them: genloom detect runs/gan-mnist/samples.")
    from genloom import detect as module

    found = module.detect([Path(name) for name in args.FILE])
    print(json.dumps([f.to_json() for f in found], indent=1, ensure_ascii=False) if args.json else module.table(found))


def like(words: list[str]) -> None:
    if words[0][:1] != "-":
        words = ["--run", *words]  # genloom sample RUN --like FILE
    args = parse(Like, "sample", words)
    if args.code is not None:
        from genloom.plugins import resolve

        resolve(args.code)
    from genloom.again import again

    made, difference = again(args.like, args.run, args.out, args.source)
    same = f"not the same: {difference}. This machine rounds otherwise, or its libraries are others"
    print(f"file    {made}, {same if difference else 'exactly the same'}")
