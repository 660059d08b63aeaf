"""Personal data in text, found by form and by check digit: what it is, where it begins, and the value masked.

Checks are those of the standards: GB 11643-1999 (ISO 7064 MOD 11-2) for Chinese resident IDs, ISO/IEC 7812 (Luhn) for bank
cards, ISO 13616 (mod 97) for IBANs, the rules of the SSA for US social security numbers, E.164 for phones. What has no check
digit (phones, addresses) is found by its form alone. Every search is linear in the text, whatever the text is.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from genloom.errors import UserError

MAIL, PHONE, CARD, IBAN = "e-mail addresses", "phone numbers", "bank card numbers", "IBANs"
RESIDENT, SOCIAL, ADDRESS, NAME = "Chinese resident IDs", "US social security numbers", "IP addresses", "names"
MAX_NAMES = 16 * 2**20  # bytes of a list of names


class Found(NamedTuple):
    """One finding: its kind, the places of its first character and after its last, and its value masked."""

    kind: str
    start: int
    end: int
    masked: str


def find(text: str, names: Names | None = None) -> list[Found]:
    """All personal data in a text, in order; nothing spans two lines. Of two readings of one place the stricter counts."""
    accounts = ibans(text)
    others = (f for f in numbers(text) if not any(a.start <= f.start < a.end for a in accounts))
    found = [*mails(text), *accounts, *others, *addresses(text)]
    return sorted([*found, *names.find(text)] if names else found, key=lambda f: f.start)


def hidden(text: str) -> str:
    """The text with the personal data in it masked."""
    parts, last = [], 0
    for found in find(text):
        if found.start >= last:
            parts += [text[last : found.start], found.masked]
        last = max(last, found.end)
    return "".join([*parts, text[last:]])


def masked(value: str, kept: int = 2) -> str:
    """The value with all but its ends hidden, and their length too: `11***2X`."""
    return f"{value[:kept]}***{value[-kept:]}" if len(value) > 3 * kept else f"{value[:1]}***"


# ── e-mail ───────────────────────────────────────────────────────────────────────────────────────────────────────
ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})(?![\w@])", re.A
)
IN_LOCAL = frozenset(string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~.-")
LONGEST_LOCAL, LONGEST_DOMAIN = 64, 253  # RFC 5321
_FILES = "png jpg jpeg gif webp svg css js py html"  # icon@2x.png is a picture
FILES = frozenset(_FILES.split())


def mails(text: str) -> Iterator[Found]:
    """Addresses of the plain form of RFC 5322 (a dot-atom at a host name)."""
    at = text.find("@")
    while at >= 0:
        domain = DOMAIN.match(text, at + 1, at + 2 + LONGEST_DOMAIN)
        if domain and domain[0].rpartition(".")[2].lower() not in FILES:
            start, last = at, max(0, at - LONGEST_LOCAL - 1)
            while start > last and text[start - 1] in IN_LOCAL:
                start -= 1
            local = text[start:at].lstrip(".'")  # as in a list, or in quotes
            if len(local) <= LONGEST_LOCAL and ATOMS.fullmatch(local):
                yield Found(MAIL, at - len(local), domain.end(), f"{local[0]}***@{domain[0]}")
        at = text.find("@", at + 1)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────
REGION = re.compile(r"\d[\d ().+/-]{5,}[\dXx]", re.A)  # where several digits stand together
_PROVINCES = (
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83 91"
)
PROVINCES = frozenset(_PROVINCES.split())
_CODES = (
    "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86 90 91 "
    "92 93 94 95 98 21 22 23 24 25 26 29 35 37 38 42 50 59 67 68 69 80 85 87 88 96 97 99"  # from 21 on: of three digits
)
CODES = frozenset(_CODES.split())

# (first digits from, to, lengths): what issuers use, by ISO/IEC 7812
ISSUERS = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),  # Mastercard
    ("34", "34", (15,)),
    ("37", "37", (15,)),  # American Express
    ("6011", "6011", (16, 17, 18, 19)),
    ("644", "659", (16, 17, 18, 19)),  # Discover
    ("3528", "3589", (16, 17, 18, 19)),  # JCB
    ("300", "305", (14, 15, 16, 17, 18, 19)),
    ("36", "36", (14, 15, 16, 17, 18, 19)),
    ("38", "39", (14, 15, 16, 17, 18, 19)),  # Diners Club
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("2200", "2204", (16, 17, 18, 19)),  # Mir
)


def is_resident(number: str) -> bool:
    """GB 11643-1999: province, a day of birth that has been, and the check character."""
    born = number[6:14]
    try:
        day = datetime.date(int(born[:4]), int(born[4:6]), int(born[6:]))
    except ValueError:
        return False
    weights = (pow(2, 17 - i, 11) for i in range(17))
    check = (12 - sum(w * int(d) for w, d in zip(weights, number[:17], strict=True))) % 11
    fits = number[:2] in PROVINCES and datetime.date(1880, 1, 1) <= day <= datetime.date.today()
    return fits and number[17].upper() == "0123456789X"[check]


def is_card(number: str) -> bool:
    """A known issuer, a length that it uses, and the Luhn digit."""
    if not any(a <= number[: len(a)] <= b and len(number) in lengths for a, b, lengths in ISSUERS):
        return False
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(number)))
    return sum(d - 9 * (d > 9) for d in doubled) % 10 == 0


def is_iban(number: str) -> bool:
    """ISO 13616: the country's length, and 1 modulo 97."""
    if IBAN_LENGTHS.get(number[:2]) != len(number):
        return False
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def is_international(number: str) -> bool:
    """E.164: 8 to 15 digits that begin with a country's code."""
    return 8 <= len(number) <= 15 and (number[0] in CODES or number[:2] in CODES)


def is_global(number: str) -> bool:
    """An address that belongs to somebody on the internet, and not to every machine or to nobody."""
    try:
        return ipaddress.ip_address(number).is_global
    except ValueError:
        return False


class Form(NamedTuple):
    """How a kind of number is written, and what must hold of its digits."""

    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool]


def _form(kind: str, pattern: str, holds: Callable[[str], bool] = lambda digits: True) -> Form:
    return Form(kind, re.compile(pattern, re.A), holds)


_START, _END = r"(?<![\w.])(?<![\d]-)", r"(?![\w]|[.-]\d)"
FORMS = (  # the strictest first
    _form(RESIDENT, rf"{_START}\d{{17}}[\dXx](?!\w)", is_resident),
    _form(CARD, r"(?<![\w.])\d{13,19}(?!\w|\.\d)", is_card),
    _form(CARD, r"(?<!\w)(?<!\d{4}[ -])\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?!\w|[ -]\d{4}(?!\d))", is_card),
    _form(CARD, r"(?<!\w)(?<!\d{4}[ -])\d{4}([ -])\d{4}\1\d{4}\1\d{4}\1\d{3}(?!\w)", is_card),
    _form(CARD, r"(?<!\w)\d{4}([ -])\d{6}\1\d{4,5}(?!\w)", is_card),
    _form(SOCIAL, r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])"),
    _form(PHONE, r"(?<![\w+])\+[1-9](?:[ ().-]{0,2}\d){7,14}(?!\d)", is_international),
    _form(PHONE, rf"{_START}(?:(?:00)?86[ -]?)?1[3-9]\d(?:\d{{8}}|([ -])\d{{4}}\1\d{{4}}){_END}"),
    _form(PHONE, rf"{_START}(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])(?!\d11)[2-9]\d\d[.-]\d{{4}}{_END}"),
    _form(ADDRESS, r"(?<![\w.])(?<![vV]ersion )(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)", is_global),
)


def numbers(text: str) -> Iterator[Found]:
    """Cards, IDs, phones and addresses of four numbers: forms are tried where digits stand together, and nowhere else."""
    for region in REGION.finditer(text):
        gaps = [(max(0, region.start() - 2), min(len(text), region.end() + 1))]  # what no form has taken yet
        for kind, pattern, holds in FORMS:
            kept = "0123456789Xx." if kind == ADDRESS else "0123456789Xx"
            left = []
            for first, last in gaps:
                for m in pattern.finditer(text, first, last):
                    if holds("".join(c for c in m[0] if c in kept)):
                        yield Found(kind, m.start(), m.end(), masked(m[0]))
                        left.append((first, m.start()))
                        first = m.end()
                left.append((first, last))
            gaps = left


# ── IBANs and addresses of letters and digits ────────────────────────────────────────────────────────────────────
# from the registry of ISO 13616: how long a country's are
_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
    "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 "
    "RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _LENGTHS.split()}
HEAD = re.compile(r"(?<!\w)[A-Z]{2}\d\d(?= ?[A-Z0-9])", re.A)
SIX = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:|::)[0-9A-Fa-f:]{2,37}(?![\w:])", re.A)


def ibans(text: str) -> list[Found]:
    """Account numbers, written together or in groups."""
    found = []
    for head in HEAD.finditer(text):
        length = IBAN_LENGTHS.get(head[0][:2], 0)
        number = re.match(
            rf"(?:[A-Z0-9] ?){{{length}}}(?<! )(?![A-Za-z0-9_])", text[head.start() : head.start() + 64], re.A
        )
        if length and number and is_iban(number[0].replace(" ", "")):
            found.append(Found(IBAN, head.start(), head.start() + number.end(), masked(number[0])))
    return found


def addresses(text: str) -> Iterator[Found]:
    """Addresses of IPv6."""
    for m in SIX.finditer(text):
        if m[0].count(":") >= 2 and is_global(m[0]):
            yield Found(ADDRESS, m.start(), m.end(), masked(m[0]))


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")


class Names:
    """People's names to look for: whole words as they are written, and Chinese names wherever they stand."""

    def __init__(self, names: Iterable[str]):
        self.words: dict[str, list[re.Pattern[str]]] = defaultdict(list)  # by their first word
        self.han: dict[str, list[str]] = defaultdict(list)  # by their first character
        for name in sorted({" ".join(n.split()) for n in names} - {""}, key=len, reverse=True):
            if HAN.match(name):
                self.han[name[0]].append(name)
            elif first := WORD.match(name):
                self.words[first[0]].append(re.compile(r"\s".join(map(re.escape, name.split())) + r"(?!\w)"))
        if not self.words and not self.han:
            raise UserError("The list of names holds no name: write one a line.")

    @classmethod
    def read(cls, path: Path) -> Names:
        """One name a line, in UTF-8. Raises UserError for a file that cannot be read or holds none."""
        try:
            if path.stat().st_size > MAX_NAMES:
                raise UserError(f"'{path}' is larger than {MAX_NAMES >> 20} MB: give a list of names, one a line.")
            return cls(path.read_text(encoding="utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The list of names '{path}' cannot be read as UTF-8 ({error}): give another.") from None

    @cached_property
    def starts(self) -> re.Pattern[str]:
        return re.compile(f"[{''.join(map(re.escape, self.han))}]")

    def find(self, text: str) -> Iterator[Found]:
        end = 0
        for word in WORD.finditer(text) if self.words else ():
            named = (p.match(text, word.start()) for p in self.words.get(word[0], ()))
            if word.start() >= end and (m := next(filter(None, named), None)):
                end = m.end()
                yield Found(NAME, m.start(), end, masked(m[0], 1))
        end = 0
        for first in self.starts.finditer(text) if self.han else ():
            named_ = (n for n in self.han[first[0]] if text.startswith(n, first.start()))
            if first.start() >= end and (name := next(named_, None)):
                end = first.start() + len(name)
                yield Found(NAME, first.start(), end, f"{name[0]}***")
