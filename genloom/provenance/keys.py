"""The secrets of this installation: the key of its watermarks, and the certificate that it signs with.

They lie in `$GENLOOM_HOME`, else `~/.genloom`, readable by their owner alone, and are made at first use. Whoever has
them can mark files as this installation does; whoever loses them can no longer recognise what it marked.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from genloom.errors import UserError, needs_extra

KEY = "watermark.key"
SIGNING = "signing.pem"  # a private key and its chain of certificates
OWN = "GENLOOM_SIGNING"  # in the environment: such a file of the user's own
SIZE = 32  # bytes of the key
YEARS = 30  # that the local certificate is valid: nothing renews it
_CERTIFICATES = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PRIVATE = re.compile("-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \\1-----", re.DOTALL)
CURVES = {256: "es256", 384: "es384", 521: "es512"}  # C2PA's names of signatures by the bits of their curve


def home() -> Path:
    """Where the secrets lie: `$GENLOOM_HOME`, else `~/.genloom`; not a cache, for they cannot be made again."""
    return Path(os.environ.get("GENLOOM_HOME") or Path.home() / ".genloom")


def installation_key() -> bytes:
    """The 32 random bytes that this installation's watermarks are keyed by, made at first use.

    Raises UserError when they cannot be read or kept.
    """
    if (key := existing_key()) is not None:
        return key
    _keep(home() / KEY, secrets.token_bytes(SIZE))
    key = existing_key()
    assert key is not None
    return key


def existing_key() -> bytes | None:
    """The same, or None where none has been made: looking for watermarks makes no key. Raises UserError as above."""
    path = home() / KEY
    try:
        key = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if len(key) != SIZE:
        raise _unreadable(path, f"it has {len(key)} bytes, not {SIZE}")
    return key


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"The key of this installation, '{path}', cannot be read ({why}): restore it from a copy, or move it away and a "
        "new one is made, which does not recognise what the old one marked."
    )


@dataclass(frozen=True)
class Signing:
    """What a signature is made with: PEM, `chain` beginning with the signer's own certificate; C2PA's name of how."""

    chain: str
    private: str
    algorithm: str


def signing() -> Signing:
    """What to sign with: the file named by `$GENLOOM_SIGNING`, else the local certificate, made at first use.

    Raises UserError when it cannot be read, or does not hold what is needed.
    """
    if not os.environ.get(OWN) and not (home() / SIGNING).exists():
        _make(home() / SIGNING)
    return _read(signing_file())


def own_chain() -> str | None:
    """The certificates (PEM) that this installation signs with; None where it has signed nothing yet.

    Raises UserError when they cannot be read.
    """
    path = signing_file()
    if not os.environ.get(OWN) and not path.exists():
        return None
    return "\n".join(_certificates(path)) + "\n"


def is_own(serial: str) -> bool:
    """Whether a certificate that chains to our root is ours, by its serial number (decimal).

    The local root has signed one certificate alone; that of a user's own chain signs others'.
    """
    if not os.environ.get(OWN):
        return True
    from cryptography import x509

    own = x509.load_pem_x509_certificate(_certificates(signing_file())[0].encode())
    return serial == str(own.serial_number)


def signing_file() -> Path:
    return Path(os.environ.get(OWN) or home() / SIGNING)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not PEM"
        if os.environ.get(OWN):
            raise UserError(
                f"{OWN} names '{path}', which cannot be read ({why}): have it name a private key and its chain of "
                "certificates, PEM, or unset it to sign with this installation's own."
            ) from None
        raise UserError(
            f"'{path}', which files are signed with, cannot be read ({why}): restore it from a copy, or move it away and "
            "a new one is made, which does not recognise what the old one signed."
        ) from None


def _certificates(path: Path) -> list[str]:
    if chain := _CERTIFICATES.findall(_text(path)):
        return chain
    raise UserError(
        f"'{path}', which files are signed with, holds no certificate: it takes a private key and its chain, PEM."
    )


def _read(path: Path) -> Signing:
    chain, private = "\n".join(_certificates(path)) + "\n", _PRIVATE.search(_text(path))
    if not private:
        raise UserError(
            f"'{path}', which files are signed with, holds no private key: put it beside the certificates, as PEM."
        )
    return Signing(chain, *_private(private[0], path))


def _private(private: str, path: Path) -> tuple[str, str]:
    """A private key as PKCS 8, and C2PA's name of the signatures that it makes."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        key = serialization.load_pem_private_key(private.encode(), None)
    except (ValueError, TypeError) as error:
        raise UserError(f"The private key in '{path}' cannot be read ({error}): give it as PEM, unencrypted.") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in CURVES:
        algorithm = CURVES[key.curve.key_size]
    elif isinstance(key, (ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey)):
        algorithm = "ps256" if isinstance(key, rsa.RSAPrivateKey) else "ed25519"
    else:
        raise UserError(
            f"C2PA signs with no key such as that in '{path}': give one of P-256, P-384, P-521, Ed25519 or RSA."
        )
    return _pem(key), algorithm


def _pem(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()).decode()


def _make(path: Path) -> None:
    """A root that signs one certificate and is forgotten, so nothing else can ever be signed in its name."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise needs_extra("cryptography", "provenance", "Making a certificate to sign with") from None
    name = f"genloom {secrets.token_hex(4)}"  # tells installations apart, and nobody's name
    root_key, key = (
        ed25519.Ed25519PrivateKey.generate(),
        ed25519.Ed25519PrivateKey.generate(),
    )  # the quickest to sign with
    root = _certificate(f"{name} root", root_key.public_key(), f"{name} root", root_key, authority=True)
    leaf = _certificate(name, key.public_key(), f"{name} root", root_key, authority=False)
    chain = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (leaf, root))
    _keep(path, _pem(key).encode() + chain)


def _certificate(name: str, key: Any, issuer: str, issuer_key: Any, *, authority: bool) -> Any:
    """An X.509 certificate of C2PA's profile (specification 2.2, section 14.5)."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(text: str) -> x509.Name:
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "genloom, local certificate")
        return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, text)])

    others = "key_encipherment data_encipherment key_agreement crl_sign encipher_only decipher_only content_commitment"
    usage = dict.fromkeys(others.split(), False) | {"digital_signature": not authority, "key_cert_sign": authority}
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, None)


def _keep(path: Path, secret: bytes) -> None:
    """Write a file that its owner alone can read, whole or not at all; of two at once the first stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"'{path}', which what is made is marked or signed with, cannot be written ({error.strerror or error}): name a "
            "folder for it that can, GENLOOM_HOME=FOLDER."
        ) from None
    finally:
        with suppress(OSError):
            part.unlink()
