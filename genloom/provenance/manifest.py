"""C2PA manifests: a signed statement in a file, of what made it, that tells when the file is changed afterwards.

Written and read by the official library, c2pa-python (the extra `provenance`); nothing is fetched from the network.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal

from genloom import __version__
from genloom.errors import UserError
from genloom.provenance import keys
from genloom.provenance.label import WAV, Kind, Origin, kind_of
from genloom.provenance.pictures import riff_chunk, riff_file
from genloom.provenance.xmp import GENERATED

State = Literal["valid", "foreign", "invalid", "absent", "unchecked"]
QUIET = {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False}
PARAMETER = "genloom"  # of the action c2pa.created: the origin
REASONS = {  # the C2PA specification's codes (2.2, section 15.2.2), in words
    "assertion.dataHash.mismatch": "the file was changed after it was signed",
    "assertion.bmffHash.mismatch": "the file was changed after it was signed",
    "assertion.hashedURI.mismatch": "the manifest was changed after it was signed",
    "claimSignature.mismatch": "the signature is not that of this manifest",
    "signingCredential.expired": "the certificate had expired",
}


def available() -> bool:
    """Whether the official library is here."""
    return find_spec("c2pa") is not None


class _Watched:
    """A file that remembers what went wrong with it: the library tells no more than that something did."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, OSError("")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.file, name)
        if not callable(method):
            return method

        def call(*given: Any) -> Any:
            try:
                return method(*given)
            except OSError as error:
                self.error = error
                raise

        return call


class Signer:
    """Signs files as this installation. Raises UserError, before any work, when its certificate cannot be used."""

    def __init__(self) -> None:
        import c2pa

        self.signing = keys.signing()
        settings = {"verify": QUIET, "builder": {"thumbnail": {"enabled": False}}}
        how = self.signing
        info = c2pa.C2paSignerInfo(how.algorithm, how.chain.encode(), how.private.encode(), None)
        try:
            self.context = c2pa.Context(c2pa.Settings.from_dict(settings), c2pa.Signer.from_info(info))
            self._try()
        except (c2pa.C2paError, UserError) as error:
            raise UserError(
                f"'{keys.signing_file()}', which files are signed with, cannot be used ({_plain(error)}): restore it from a "
                "copy, or move it away and a new one is made."
            ) from None

    def _try(self) -> None:
        """Sign a sound of no length and read it back: a key that is not the certificate's signs too, and nobody would know."""
        import c2pa

        silence, signed = io.BytesIO(b"".join(riff_file(b"WAVE", [riff_chunk(b"data", b"")]))), io.BytesIO()
        self.sign(silence, signed, Origin("", "", ""), WAV, "a trial")
        with c2pa.Reader(WAV.mime, signed, context=_reading(self.signing.chain)) as reader:
            if reader.get_validation_state() == "Invalid":
                raise UserError(_judged(json.loads(reader.json()), "Invalid").reason)

    def sign(self, source: BinaryIO, target: BinaryIO, origin: Origin, kind: Kind, title: str) -> None:
        """Write a signed copy. Raises UserError when the library refuses, OSError when there is no room for it."""
        import c2pa

        watched = _Watched(target)
        try:
            with c2pa.Builder(_statement(origin, kind, title), context=self.context) as builder:
                builder.sign(kind.mime, source, watched)
        except c2pa.C2paError as error:
            if watched.error.errno:
                raise watched.error from None
            raise UserError(f"'{title}' cannot be signed, and stays as it was: {_plain(error)}.") from None


def _statement(origin: Origin, kind: Kind, title: str) -> dict[str, Any]:
    program = {"name": "genloom", "version": __version__}
    created = {
        "action": "c2pa.created",
        "digitalSourceType": GENERATED,
        "softwareAgent": program,
        "when": origin.created,
        "parameters": {"description": origin.command, PARAMETER: vars(origin)},
    }
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
    return {"claim_generator_info": [program], "title": title, "format": kind.mime, "assertions": [actions]}


@dataclass(frozen=True)
class Check:
    """What a file's manifest is worth.

    valid: this installation signed it, and nothing has changed since. foreign: the same, signed by somebody else. invalid:
    changed since, or badly signed. absent: there is none. unchecked: it could not be read. `reason` says why in words;
    `signer` and `program` are what it says of itself.
    """

    state: State
    reason: str = ""
    signer: str = ""
    program: str = ""
    origin: Origin | None = None


def check(path: Path) -> Check:
    """Raises OSError when the file cannot be opened, UserError when this installation's certificate cannot be read."""
    if not available():
        return Check("unchecked", "C2PA needs: pip install 'genloom[provenance]'")
    import c2pa

    kind, ending = kind_of(path), path.suffix.lower().lstrip(".")
    mime = kind.mime if kind else ending
    if mime not in c2pa.Reader.get_supported_mime_types():
        return Check("absent")
    try:
        with open(path, "rb") as file, c2pa.Reader(mime, file, context=_reading(keys.own_chain())) as reader:
            return _judged(json.loads(reader.json()), reader.get_validation_state())
    except c2pa.C2paError.ManifestNotFound:
        return Check("absent")
    except c2pa.C2paError as error:
        return Check("unchecked", _plain(error))


@lru_cache(maxsize=1)
def _reading(chain: str | None) -> Any:
    """How to read: trusting the root of this installation's certificate alone."""
    import c2pa

    return c2pa.Context.from_dict({"verify": QUIET} | ({"trust": {"trust_anchors": chain}} if chain else {}))


def _judged(store: Mapping[str, Any], state: str | None) -> Check:
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = active.get("signature_info") or {}
    signer = signature.get("common_name") or signature.get("issuer") or "somebody unnamed"
    program = next((info.get("name", "") for info in active.get("claim_generator_info") or []), "")
    told = (signer, program, _origin(active))
    if state == "Trusted" and keys.is_own(str(signature.get("cert_serial_number"))):
        return Check("valid", "", *told)
    if state in ("Trusted", "Valid"):
        return Check("foreign", f"signed by '{signer}', not by this installation", *told)
    failures = [f for f in store.get("validation_status") or [] if f.get("code") != "signingCredential.untrusted"]
    first = failures[0] if failures else {"code": "unknown"}
    reason = REASONS.get(first["code"]) or first.get("explanation") or first["code"]
    return Check("invalid", reason, *told)


def _origin(active: Mapping[str, Any]) -> Origin | None:
    for assertion in active.get("assertions") or []:
        for action in (assertion.get("data") or {}).get("actions") or []:
            if told := (action.get("parameters") or {}).get(PARAMETER):
                return Origin.from_json(json.dumps(told))
    return None


def _plain(error: Exception) -> str:
    """The library's complaint without its kind in front, on one line."""
    return re.sub(r"^[A-Z]\w+: ", "", " ".join(str(error).split())).rstrip(".")[:200]
