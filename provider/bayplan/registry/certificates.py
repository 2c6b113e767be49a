"""The certificate that a registry shows: the one it is given, or one of its own.

One of its own stands in ``root/registry/tls/`` (0600 what is secret): a self-signed certificate for the addresses that are
listened on, ``localhost``, this machine's name, and the names of the configuration. It is its own authority, so that clients
trust it by a copy of ``registry.crt`` in ``certs.d/HOST:PORT/``. It is made again when it is about to end or lacks a name.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.records import dataclass
from bayplan.registry.configuration import Tls

if TYPE_CHECKING:
    from cryptography import x509

FOLDER = Path("registry/tls")
CERTIFICATE = "registry.crt"
_KEY = "registry.key"
_LIFE = datetime.timedelta(days=397)  # the longest that browsers and Apple's TLS accept
_RENEWED = datetime.timedelta(days=30)  # before its end
_ANY = frozenset({"0.0.0.0", "::"})  # noqa: S104  (not bound: looked for)


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files. ``own``: made here."""

    certificate: Path
    key: Path
    own: bool


def certificate_for(root: Root, tls: Tls, host: str) -> Certificate:
    """The certificate to serve with on ``host``. Raises BayplanError ``bad-certificate`` for files that do not serve."""
    if tls.certificate is not None:
        found = Certificate(tls.certificate, tls.key or tls.certificate, own=False)
        _check(found)
        return found
    folder = root.path / FOLDER
    found = Certificate(folder / CERTIFICATE, folder / _KEY, own=True)
    names = _names(tls, host)
    if not _still_good(found, names):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make(found, names)
    return found


def _check(found: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(found.certificate, found.key, password=_no_passphrase)
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        which = found.certificate if found.certificate == found.key else f"{found.certificate} with {found.key}"
        raise BayplanError(
            "bad-certificate",
            f"{which} cannot be served with: {str(reason).replace('_', ' ').lower()}",
            hint="PEM files of a certificate with its chain, and of its private key without a passphrase",
        ) from None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _names(tls: Tls, host: str) -> tuple[str, ...]:
    """What the certificate is for, without doubles, in a stable order."""
    listened = () if host in _ANY else (host,)
    own = socket.gethostname()
    return tuple(dict.fromkeys((*tls.names, *listened, "localhost", "127.0.0.1", "::1", *((own,) if own else ()))))


def _still_good(found: Certificate, names: Sequence[str]) -> bool:
    from cryptography import x509

    try:
        made = x509.load_pem_x509_certificate(found.certificate.read_bytes())
        alternative = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        _check(found)  # a stop between the two files leaves a key that is another certificate's
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound, BayplanError):
        return False
    there = {*alternative.get_values_for_type(x509.DNSName), *map(str, alternative.get_values_for_type(x509.IPAddress))}
    ends = made.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return ends > _RENEWED and {_bare(name) for name in names} <= there


def _bare(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _make(found: Certificate, names: Sequence[str]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bayplan registry")])
    now = datetime.datetime.now(datetime.UTC)
    public = key.public_key()
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(found.key, private, 0o600)
    _write(found.certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    draft = path.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
