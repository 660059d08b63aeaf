"""The verbs that tell where things come from and what they give away: detect, sample --like, verify, audit."""

from __future__ import annotations

import sys
from pathlib import Path

from genloom.errors import UserError, printable_json
from genloom.forms import Audit, Detect, Like, Verify, parse


def trust(code: str | None) -> None:
    """Run a model's own file, named by the user, so that its run can be opened."""
    if code is not None:
        from genloom.plugins import resolve

        resolve(code)


def detect(words: list[str]) -> None:
    args = parse(Detect, "detect", words)
    if not args.FILE:
        raise UserError("detect needs files, or folders of them: genloom detect runs/gan-mnist/samples.")
    from genloom import detect as module
    from genloom.provenance import keys

    found = module.detect([Path(name) for name in args.FILE], args.run)
    if keys.existing_key() is None:
        print(
            f"genloom: no watermark was looked for, as there is no key here ('{keys.home() / keys.KEY}').",
            file=sys.stderr,
        )
    print(printable_json([f.to_json() for f in found]) if args.json else module.table(found))


def like(words: list[str]) -> None:
    if words[0][:1] != "-":
        words = ["--run", *words]  # genloom sample RUN --like FILE
    args = parse(Like, "sample", words)
    trust(args.code)
    from genloom.again import again

    made, difference = again(args.like, args.run, args.out, args.source)
    print(f"file    {made}, {f'not the same: {difference}' if difference else 'exactly the same'}")


def audit(words: list[str]) -> int:
    args = parse(Audit, "audit", words)
    trust(args.code)
    from genloom import api
    from genloom.auditing import format_audit

    asked = {k: v for k, v in vars(args).items() if k not in ("RUN", "json", "code")}
    result = api.audit(args.RUN, **asked)
    print(printable_json(result) if args.json else format_audit(result))
    if not args.json:
        print(f"report  {Path(args.RUN) / 'report.html'}")
    return 0 if result["passed"] else 1


def verify(words: list[str]) -> None:
    args = parse(Verify, "verify", words)
    from genloom.run import read_json
    from genloom.seal import FILE, unsealed
    from genloom.seal import verify as wrong

    if found := wrong(args.RUN, args.seal):
        raise UserError(" ".join(found))
    sealed = read_json(Path(args.RUN) / FILE)
    parents = [p.get("run") or p.get("checkpoint") for p in sealed["parents"]]
    there = [name for name in sealed["files"] if (Path(args.RUN) / name).is_file()]
    absent = ", ".join(name for name in sealed["files"] if name not in there)
    print(f"whole   {', '.join(there)}\nseal    {sealed['seal']}, of {sealed['sealed']}")
    if absent:  # nothing but the state of training: any other that is gone is found wrong
        print(f"absent  {absent}: needed to train on and to audit some models, not to sample")
    print(f"data    {sealed['data']}\ncode    genloom {sealed['genloom']}, {sealed['code'][:16]}")
    print("".join(f"parent  {p}\n" for p in parents), end="")
    if (card := Path(args.RUN) / "README.md").is_file():
        from genloom.report.places import check

        print("".join(f"card    {sentence}\n" for sentence in check(card)), end="")
    if beside := unsealed(Path(args.RUN)):
        print(f"beside  {', '.join(beside)}: not sealed, so nothing is said of them")
