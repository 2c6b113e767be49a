"""Image names as Docker reads them (distribution/reference): ``python:3.12`` is ``docker.io/library/python:3.12``."""

from __future__ import annotations

import re

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.records import dataclass, replace

_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}")
_DOCKER = "docker.io"


@dataclass(frozen=True, slots=True)
class ImageName:
    """A parsed name. ``tag`` and ``digest`` may both be ``""``; :meth:`canonical` fills in ``latest``."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Raises BayplanError ``bad-image-name``."""
        rest, at, digest = text.partition("@")
        if at:
            try:
                Digest.parse(digest)
            except BayplanError as error:
                raise _bad(text, f"what stands behind @ is no digest: '{digest[:80]}'", error.hint) from None
        head, slash, last = rest.rpartition("/")
        name, colon, tag = last.partition(":")
        path = f"{head}{slash}{name}"
        if colon and not _TAG.fullmatch(tag):
            raise _bad(text, f"'{tag}' is not a tag")
        if _HEX.fullmatch(path):
            raise _bad(text, "64 hexadecimal digits could be an image's own digest", f"write sha256:{path[:12]}...")
        first, slash, remainder = path.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            registry, repository = first, remainder
        else:
            registry, repository = _DOCKER, path
        if registry in ("index.docker.io", "registry-1.docker.io"):
            registry = _DOCKER
        if registry == _DOCKER and "/" not in repository:
            repository = f"library/{repository}"
        if not _DOMAIN.fullmatch(registry):
            raise _bad(text, f"'{registry}' is not the name of a registry")
        if not _PATH.fullmatch(repository) or len(repository) > 255:
            hint = "names of images are lower-case" if repository.lower() != repository else "write NAME:TAG"
            raise _bad(text, f"'{repository}' is not the name of a repository", hint)
        return cls(registry, repository, tag, digest)

    def canonical(self) -> str:
        """The full name, with ``:latest`` where neither tag nor digest is given."""
        tag = self.tag or ("" if self.digest else "latest")
        return (
            f"{self.registry}/{self.repository}"
            + (f":{tag}" if tag else "")
            + (f"@{self.digest}" if self.digest else "")
        )

    def familiar(self) -> str:
        """The short name that people write: ``python:3.12`` for ``docker.io/library/python:3.12``."""
        name = f"{self.registry}/{self.repository}"
        if self.registry == _DOCKER:
            name = self.repository.removeprefix("library/")
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_digest(self, digest: str) -> ImageName:
        return replace(self, digest=str(Digest.parse(digest)))

    def __str__(self) -> str:
        return self.familiar()


def _bad(text: str, why: str, hint: str = "write NAME:TAG or REGISTRY/NAME:TAG") -> BayplanError:
    return BayplanError("bad-image-name", f"'{text[:200]}' is not an image name: {why}", hint=hint)
