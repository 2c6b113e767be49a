"""What an image name means to a command by hand: DESIGN section 8 without a stack.

A name in the host's own store comes first, then a repository of the embedded registry where the name says so
(``bayplan.internal/team/shop:1.0``), then the registry that the name leads to, asked with the user's credentials. The
result is the digest of a manifest in the store. Whoever calls holds a lease on the store until something refers to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError, nearest
from bayplan.oci.digest import Digest
from bayplan.oci.names import NamedImage, Names
from bayplan.oci.reference import ImageName

if TYPE_CHECKING:
    from bayplan.oci.descriptor import Platform
    from bayplan.oci.root import Root
    from bayplan.oci.store import Store
    from bayplan.registry.transfer import Progress

INTERNAL = "bayplan.internal"  # the embedded registry of whatever root one stands in
_STACKS = f"{INTERNAL}/stacks/"  # the engine's own names of images
_HEX = re.compile(r"(?:sha256:)?[0-9a-f]{6,64}")


class Meaning:
    """The names of one root. ``insecure`` are registries with any certificate or plain HTTP."""

    def __init__(self, root: Root, store: Store, *, insecure: tuple[str, ...] = ()) -> None:
        self.root = root
        self.store = store
        self.names = Names(root)
        self._insecure = insecure

    def find(self, reference: str) -> NamedImage | None:
        """An image that is here: by name, ``NAME@DIGEST``, digest, image id, or the beginning of exactly one of these.

        Raises BayplanError ``ambiguous-image``, ``bad-image-name``.
        """
        if _HEX.fullmatch(reference):
            found = self._by_digest(reference.removeprefix("sha256:"))
            if found is not None:
                return found
        if reference.startswith(("sha256:", "sha512:")):
            return None
        name = ImageName.parse(reference)
        if name.digest:
            digest = Digest.parse(name.digest)
            return NamedImage(reference, digest) if self.store.has(digest) else None
        return self.names.get(reference)

    def _by_digest(self, text: str) -> NamedImage | None:
        found: dict[Digest, NamedImage] = {}
        for one in self.names.list():
            if one.digest.hex.startswith(text) or (config_id(self.store, one.digest).partition(":")[2]).startswith(
                text
            ):
                known = found.get(one.digest)
                if known is None or known.name.startswith(_STACKS):
                    found[one.digest] = one
        if len(found) > 1:
            raise BayplanError("ambiguous-image", f"{text} is the beginning of {len(found)} images")
        if not found and len(text) == 64 and self.store.has(Digest(f"sha256:{text}")):
            return NamedImage(f"sha256:{text}", Digest(f"sha256:{text}"))
        return next(iter(found.values()), None)

    def need(self, reference: str) -> NamedImage:
        """:meth:`find`. Raises BayplanError ``no-such-image``."""
        found = self.find(reference)
        if found is None:
            close = nearest(reference, [ImageName.parse(one.name).familiar() for one in self.names.list()])
            hint = f"did you mean {close}?" if close else "'bayplan image list' shows them"
            raise BayplanError("no-such-image", f"there is no image {reference} here", hint=hint)
        return found

    def resolve(
        self,
        reference: str,
        *,
        pull: str = "missing",
        platform: Platform | None = None,
        telling: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> Digest:
        """The digest of an image in the store, pulled where that is wanted or needed.

        Raises BayplanError ``no-such-image`` (also with ``never``), ``repository-unknown``, ``tag-unknown`` and what
        pulling raises.
        """
        here = self.find(reference)
        if here is not None and (pull != "always" or reference.startswith("sha256:")):
            self.store.touch(here.digest)
            return here.digest
        if pull == "never" or _is_plain_digest(reference):
            return self.need(reference).digest
        return self.pull(reference, platform=platform, telling=telling, progress=progress)

    def pull(
        self,
        reference: str,
        *,
        platform: Platform | None = None,
        every: bool = False,
        telling: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> Digest:
        """Bring an image here and name it; of an index only the one for ``platform`` (this machine's), unless ``every``."""
        from bayplan.oci.descriptor import Platform

        name = ImageName.parse(reference)
        with self.store.lease():
            if name.registry == INTERNAL:
                from bayplan.registry.registry import Registry

                registry = Registry(self.root, store=self.store)
                digest = registry.resolve(name.repository, name.digest or name.tag or "latest").digest
                registry.localize(name.repository, digest)
            else:
                from bayplan.registry.client import RegistryClient

                if telling is not None:
                    telling(f"pulling {name.familiar()}")
                with RegistryClient(insecure=self._insecure) as client:
                    wanted = None if every else platform or Platform.here()
                    digest = client.pull(name, self.store, wanted, progress=progress)
            if name.tag or not name.digest:
                self._keep(ImageName(name.registry, name.repository, name.tag), digest)
            return digest

    def _keep(self, name: ImageName, digest: Digest) -> None:
        before = self.names.get(name.canonical())
        if before is not None and owner(before.labels) and before.digest != digest:
            raise BayplanError(
                "image-owned",
                f"the name {name.familiar()} belongs to {owner(before.labels)}",
                hint="pull by digest, or change the tags of the stack's Image",
            )
        if before is None or before.digest != digest:
            self.names.set(name.canonical(), digest)


def owner(labels: Mapping[str, str]) -> str:
    """``Image.web of the stack shop`` where identity labels say so, else ``""``."""
    if not labels.get("bayplan.dev/stack"):
        return ""
    return f"{labels.get('bayplan.dev/address') or 'a resource'} of the stack {labels['bayplan.dev/stack']}"


def is_internal(name: str) -> bool:
    """Whether a name is one that the engine keeps for itself."""
    return name.startswith(_STACKS)


def config_id(store: Store, digest: Digest) -> str:
    """The image id (digest of the configuration) as docker has it; ``""`` for what is no image for this machine."""
    from bayplan.oci.image import Image

    try:
        return str(Image.load(store, digest).config_descriptor.digest)
    except BayplanError:
        return ""


def _is_plain_digest(reference: str) -> bool:
    return reference.startswith(("sha256:", "sha512:"))
