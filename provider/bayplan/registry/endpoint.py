"""Where a registry is and how it is reached: scheme, certificates, proxy.

``docker.io`` is served by another host than its name; a loopback registry speaks plain HTTP unless it shows that it
does not (docker, podman and everybody's habit); a registry that the user marks insecure may have any certificate or
none. Certificates lie where docker and podman keep them: ``certs.d/HOST:PORT/{*.crt,*.cert,*.key}``. Proxies come from
the environment as curl and Go read it, loopback never by proxy.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bayplan.errors import BayplanError
from bayplan.records import dataclass

_SERVED_BY = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL: what a connection is made to, and what credentials are bound to (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @staticmethod
    def of(url: str) -> Origin:
        """Raises ``registry-answer`` for what is no http(s) URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BayplanError("registry-answer", f"a registry pointed to {url[:200]!r}, which is no web address")
        return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.scheme == "https" else 80)
        return host if standard else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def served_by(registry: str) -> str:
    """The ``HOST[:PORT]`` that answers for a registry's name."""
    return _SERVED_BY.get(registry, registry)


def is_loopback(host: str) -> bool:
    """Whether ``host`` (no port) is this machine and nothing else."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origins(registry: str, *, insecure: bool) -> tuple[Origin, ...]:
    """The origins to try for a registry, in order. More than one only where plain HTTP is allowed at all.

    Raises ``bad-registry-name`` for what is no ``HOST[:PORT]``.
    """
    try:
        parts = urlsplit(f"//{served_by(registry)}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path or parts.username:
        raise BayplanError("bad-registry-name", f"{registry!r} is not the HOST or HOST:PORT of a registry")
    tls, plain = Origin("https", host, port or 443), Origin("http", host, port or 80)
    if is_loopback(host):
        return (plain, tls)
    return (tls, plain) if insecure else (tls,)


# -- certificates --------------------------------------------------------------------------------------------------


def _certificate_folders(environment: Mapping[str, str], netloc: str) -> list[Path]:
    home = Path(environment.get("HOME") or Path.home())
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    above = (
        config / "containers/certs.d",
        config / "docker/certs.d",
        Path("/etc/containers/certs.d"),
        Path("/etc/docker/certs.d"),
    )
    return [folder for folder in (base / netloc for base in above) if folder.is_dir()]


def tls_context(origin: Origin, *, verify: bool, environment: Mapping[str, str] | None = None) -> ssl.SSLContext:
    """The system's authorities and what ``certs.d`` adds for this host (docker's page "Verify repository client").

    ``*.crt`` are authorities; ``NAME.cert`` with ``NAME.key`` is who we are. Raises ``registry-certificate`` for a file
    that OpenSSL refuses.
    """
    env = os.environ if environment is None else environment
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    port = f"{origin.netloc}" if ":" in origin.netloc else f"{origin.netloc}:{origin.port}"
    for folder in {f: None for name in (origin.netloc, port) for f in _certificate_folders(env, name)}:
        for path in sorted(folder.iterdir()):
            try:
                if path.suffix == ".crt":
                    context.load_verify_locations(path)
                elif path.suffix == ".cert":
                    context.load_cert_chain(path, path.with_suffix(".key"))
            except (ssl.SSLError, OSError) as error:
                raise BayplanError(
                    "registry-certificate", f"{path} cannot be used: {error.strerror or error}"
                ) from None
    return context


# -- proxies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; ``authorization`` is its header's value or empty (and never shown)."""

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


def proxy_for(origin: Origin, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy that the environment wants for ``origin``: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, except NO_PROXY.

    Raises ``bad-proxy`` for one that is not an http:// address.
    """
    env = os.environ if environment is None else environment

    def setting(name: str) -> str:
        return env.get(name.lower()) or env.get(name.upper()) or ""

    if is_loopback(origin.host):
        return None
    text = setting(f"{origin.scheme}_proxy") or setting("all_proxy")
    if not text or _excepted(origin, setting("no_proxy")):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    if parts.scheme != "http" or not host:
        raise BayplanError(
            "bad-proxy",
            f"the proxy for {origin.scheme} in the environment is not an http:// address",
            hint=f"set {origin.scheme.upper()}_PROXY to http://HOST:PORT, or NO_PROXY to {origin.host}",
        )
    authorization = ""
    if parts.username:
        from base64 import b64encode
        from urllib.parse import unquote

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(pair.encode()).decode()
    return Proxy(host, port, authorization)


def _excepted(origin: Origin, no_proxy: str) -> bool:
    try:
        address = ipaddress.ip_address(origin.host)
    except ValueError:
        address = None
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        if not entry:
            continue
        if entry == "*":
            return True
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
        name, _, port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        if port and port != str(origin.port):
            continue
        bare = name.removeprefix("*").removeprefix(".").strip("[]")
        if origin.host == bare or origin.host.endswith("." + bare):
            return True
    return False
