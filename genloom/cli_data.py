"""The verb that looks at data before training. Torch is imported by the data that needs it."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from genloom.errors import UserError
from genloom.forms import changed, first_word, parse, show


def data(words: list[str]) -> None:
    if words[:1] == ["inspect"]:
        inspect(words[1:])
        return
    if words and words[0] not in ("-h", "--help"):
        raise UserError(
            f"data takes no '{words[0]}': `genloom data` lists the built-in sets, `genloom data inspect PATH` looks at yours."
        )
    from genloom.data.catalog import catalog

    for name, entry in catalog().items():
        print(f"{name:<13} {entry.modality:<6} {entry.summary}  [{entry.licence}]")
    print("\nYour own: any folder, zip or tar. Look before you fit: genloom data inspect PATH")


def inspect(words: list[str]) -> None:
    from genloom.data import inspector, options_of

    source = first_word(words) or "mnist"
    modality, module = inspector(source)
    options = options_of(modality)
    path = Annotated[str, Positional, arg(metavar="PATH", help="a file, folder, zip or tar, or a built-in name")]
    as_json = Annotated[bool, arg(help="print JSON")]
    card = Annotated[
        Path | None, arg(help="write a data card into this file too: what you add in its marked places stays")
    ]
    fields: list[Any] = [("PATH", path), ("json", as_json, False), ("card", card, None)]
    fields.append(("data", options, field(default_factory=options)))
    args = parse(make_dataclass("Inspect", fields), "data inspect", words)
    facts = module.inspect(args.PATH, **changed(args.data, options()))
    if args.card:
        from genloom.report import write_data_card

        write_data_card(args.card, args.PATH, modality, facts)
    show(facts, module.format_report, args.json)
