"""What a file says of its origin as an XMP packet (ISO 16684-1), and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from genloom import __version__

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SPACES = {  # of the properties written
    "TC260": "http://www.tc260.org.cn/ns/AIGC/1.0/",  # TC260-PG-20259A: AIGC holds the string of GB 45438-2025, annex E
    "genloom": "urn:genloom:origin/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
}
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
HELD = {"AIGC": "TC260:AIGC", "GENLOOM": "genloom:Origin"}  # our fields, and the properties that hold them
LARGEST = 1 << 20  # bytes of a packet that is looked into
_OURS = re.compile(r'<rdf:Description rdf:about="" xmlns:TC260=.*?xmlns:genloom=.*?</rdf:Description>\s*', re.DOTALL)
_END = "</rdf:RDF>"


def written(fields: Mapping[str, str], old: bytes | None = None) -> bytes:
    """A packet with these fields (AIGC, GENLOOM), beside what an older packet holds of others."""
    properties = {HELD[name]: text for name, text in fields.items()}
    properties |= {"Iptc4xmpExt:DigitalSourceType": GENERATED, "xmp:CreatorTool": f"genloom {__version__}"}
    spaces = "".join(f' xmlns:{name}="{uri}"' for name, uri in SPACES.items())
    body = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in properties.items())
    ours = f'<rdf:Description rdf:about=""{spaces}>{body}</rdf:Description>'
    kept = _OURS.sub("", old.decode("utf-8", "replace")) if old else ""
    if _END in kept:
        head, _, tail = kept.rpartition(_END)
        return f"{head}{ours}{_END}{tail}".encode()
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}">{ours}{_END}</x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def fields(packet: bytes) -> dict[str, str]:
    """The fields that a packet holds, as elements or as attributes. Raises ValueError when it is not to be read as XML."""
    if len(packet) > LARGEST or b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        raise ValueError("its XMP is not to be read: it declares entities, or is too large")
    try:
        tree = ElementTree.fromstring(packet.strip(b"\0 \t\r\n"))
    except ElementTree.ParseError as error:
        raise ValueError(f"its XMP is broken ({error})") from None
    found = {}
    for name, held in HELD.items():
        space, _, local = held.partition(":")
        tag = f"{{{SPACES[space]}}}{local}"
        for node in tree.iter():
            text = node.text if node.tag == tag else node.get(tag)
            if text:
                found[name] = text
    return found
