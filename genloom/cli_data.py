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
    from genloom.data import hygiene, inspector, options_of

    source = first_word(words) or "mnist"
    audited = "--audit" in words
    modality, module = (audited and hygiene.only_written(source)) or inspector(source)
    options = options_of(modality) if modality else make_dataclass("NoOptions", [])
    path = Annotated[str, Positional, arg(metavar="PATH", help="a file, folder, zip or tar, or a built-in name")]
    as_json = Annotated[bool, arg(help="print JSON")]
    card = Annotated[
        Path | None, arg(help="write a data card into this file too: what you add in its marked places stays")
    ]
    audit = Annotated[
        bool,
        arg(help="look for near-duplicates, leaks into the held-out part, personal data in texts, and unsafe pictures"),
    ]
    names = Annotated[Path | None, arg(help="people's names, one a line, that --audit looks for too")]
    fields: list[Any] = [("PATH", path), ("json", as_json, False), ("card", card, None)]
    fields += [("audit", audit, False), ("names", names, None)]
    fields.append(("data", options, field(default_factory=options)))
    args = parse(make_dataclass("Inspect", fields), "data inspect", words)
    if args.names and not args.audit:
        raise UserError("--names belongs to --audit: give both.")
    facts = module.inspect(args.PATH, **changed(args.data, options()))
    if args.audit:
        facts["audit"] = hygiene.audit(args.PATH, modality, facts, args.names)
    if args.card:
        from genloom.report import write_data_card

        write_data_card(args.card, args.PATH, modality, facts)

    def as_text(facts: dict[str, Any]) -> str:
        audited = [hygiene.format_audit(facts["audit"])] if args.audit else []
        return "\n".join([module.format_report(facts), *audited])

    show(facts, as_text, args.json)
