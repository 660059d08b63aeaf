"""The verb that looks at data before training. Torch is imported by the data that needs it."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from genloom.errors import UserError
from genloom.forms import changed, first_word, parse, show


def data(words: list[str]) -> None:
    if words[:1] == ["inspect"]:
        return inspect(words[1:])
    if words and words[0] not in ("-h", "--help"):
        raise UserError(
            f"data takes no '{words[0]}': `genloom data` lists the built-in sets, `genloom data inspect PATH` looks at yours."
        )
    from genloom.data.catalog import catalog

    for name, entry in catalog().items():
        print(f"{name:<13} {entry.modality:<6} {entry.summary}  [{entry.licence}]")
    print("\nYour own: any folder, zip or tar. Look before you fit: genloom data inspect PATH")


@dataclass
class Inspect:
    """What inspect takes, beside the options of the data: their class is made when its kind is known, and brings no comments.

    Attributes:
        json: print JSON
        card: write a data card into this file too: what you add in its marked places stays
        audit: look for near-duplicates, leaks into the held-out part, personal data in texts, and unsafe pictures
        names: people's names, one a line, that --audit looks for too
    """

    PATH: Annotated[str, Positional, arg(metavar="PATH", help="a file, folder, zip or tar, or a built-in name")]
    json: bool = False
    card: Path | None = None
    audit: bool = False
    names: Path | None = None


def inspect(words: list[str]) -> None:
    from genloom.data import hygiene, inspector, options_of

    source = first_word(words) or "mnist"
    modality, module = ("--audit" in words and hygiene.only_written(source)) or inspector(source)
    options = options_of(modality) if modality else make_dataclass("NoOptions", [])
    form = make_dataclass("Form", [("data", options, field(default_factory=options))], bases=(Inspect,))
    args = parse(form, "data inspect", words)
    if args.names and not args.audit:
        raise UserError("--names belongs to --audit: give both.")
    given = changed(args.data, options())
    if args.audit:
        module, facts = hygiene.preflight(args.PATH, modality, module, given)
    else:
        facts = module.inspect(args.PATH, **given)
    text = module.format_report(facts)
    if args.audit:
        facts["audit"] = hygiene.audit(args.PATH, modality, facts, args.names)
        text += f"\n{hygiene.format_audit(facts['audit'])}"
    if args.card:
        from genloom.report import write_data_card

        write_data_card(args.card, args.PATH, modality, facts)
    show(facts, text, args.json)
