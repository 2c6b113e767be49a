"""The registry: repositories, tags and manifests over the host's content store, one state machine for every face.

What it promises. A tag never dangles: a manifest's bytes, and every blob it names, are durable in the store before the
row that names them is, and the rows hold each other by foreign keys. A local push copies nothing: the blobs are in the
store already, so :meth:`Registry.push_local` is one transaction. Any number of processes work on one root at once; what
an apply writes, a running server serves with its next answer. Garbage collection sees everything through
:meth:`Registry.references`, which also covers what was uploaded lately and stands in no manifest yet.

What it refuses to know: HTTP, who is calling, and where the store keeps its bytes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.oci.store import Collected, Store
from bayplan.records import replace
from bayplan.registry import contents, ledger, trees
from bayplan.registry.contents import Contents
from bayplan.registry.database import Database
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import (
    MOST_RESOURCE_TAGS,
    Pushed,
    Repository,
    StoredManifest,
    Tag,
    TagMutability,
    digest_name,
    repository_name,
    tag_name,
)
from bayplan.registry.survey import DATABASE

if TYPE_CHECKING:
    from bayplan.registry.storage.vault import Vault
    from bayplan.registry.storage.vaults import Vaults

UPLOAD_GRACE = 24 * 3600.0  # seconds that a blob is kept without a manifest
MOST_TAGS_AT_ONCE = 100
_EVERYTHING = -1  # SQLite's LIMIT for "no limit"
_PULL_SECONDS = 3600.0  # between two records of a manifest's pulls


_VAULT, _DEFAULT_VAULT = "vault/", "vault-default"  # documents; bayplan.registry.storage.vaults writes them


class Registry:
    """The registry of a root. Cheap to make; safe from any thread. ``grace``: seconds a blob lives without a manifest."""

    def __init__(self, root: Root, *, store: Store | None = None, grace: float = UPLOAD_GRACE) -> None:
        self.root = root
        self.store = store or Store(root)
        self.grace = grace
        self._database = Database(root.path / DATABASE)
        self._vaults: Vaults | None = None
        #: Told of what was pushed (its tags with it) and deleted (a tag or a digest), once it is durable and before the
        #: caller is answered.
        self.pushed: Callable[[str, Digest, Sequence[str]], None] = _nobody
        self.deleted: Callable[[str, str], None] = _nobody

    def close(self) -> None:
        self._database.close()

    def changes(self) -> int:
        """A number that is another one after each change by anybody, in whatever process. For one thread at a time."""
        return self._database.changes()

    # -- where bytes lie -----------------------------------------------------------------------------------------------

    def storage(self, repository: str) -> Store:
        """The store that a repository's bytes lie in: the root's own, or a vault. Raises BayplanError ``no-vault``."""
        name = self._database.read(lambda db: ledger.vault_of(db, repository))
        return self.vault(name) if name else self.store

    def vault(self, name: str) -> Vault:
        """A vault by its name. Raises BayplanError ``no-vault``, ``bad-key-file``."""
        if self._vaults is None:
            from bayplan.registry.storage.vaults import Vaults

            self._vaults = Vaults(self.root, lambda key: self.document("", key))
        return self._vaults.get(name)

    def vaults(self) -> tuple[str, ...]:
        """The names of all vaults."""
        return tuple(name.removeprefix(_VAULT) for name, _ in self.documents("", _VAULT))

    def collect_vaults(self) -> Collected:
        """Remove from the vaults what nothing refers to; the root's store is collected with all that refers to it.

        A vault that cannot be reached keeps nothing of the others: what is wrong with it is raised at the end.
        """
        since = time.time() - self.grace
        blobs = size = 0
        trouble: BayplanError | None = None
        for name in self.vaults():

            def refer(name: str = name) -> tuple[Digest, ...]:
                return self._database.read(lambda db: tuple(ledger.references(db, since, name)))

            try:
                vault = self.vault(name)
                gone = vault.collect([refer])
                blobs, size = blobs + gone.blobs, size + gone.bytes
                vault.settle()
                vault.sweep()
            except BayplanError as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble
        return Collected(blobs, size)

    def localize(self, repository: str, digest: Digest) -> None:
        """Have an image of a repository in the root's store, for a container to run from; the caller holds a lease of that."""
        vault = self.storage(repository)
        if vault is self.store:
            self.store.touch(digest)
            return
        with vault.lease():
            trees.copy_tree(vault, self.store, digest)

    # -- repositories ----------------------------------------------------------------------------------------------

    def create_repository(
        self,
        name: str,
        *,
        mutability: TagMutability = TagMutability.MUTABLE,
        tags: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
        documents: Mapping[str, str] | None = None,
    ) -> Repository:
        """Make a repository, its documents with it. Raises ``bad-repository-name``, ``repository-exists``, ``parameter-invalid``."""
        made = Repository(
            repository_name(name),
            uuid.uuid4().hex,
            time.time(),
            mutability,
            _checked(tags or {}),
            dict(labels or {}),
            dict(details or {}),
        )

        def record(db: ledger.Connection) -> None:
            ledger.insert_repository(db, _placed(db, made))
            for key, body in (documents or {}).items():
                ledger.set_document(db, made.uid, key, body, made.created)

        self._database.write(record)
        return self.describe(name)

    def ensure_repository(self, name: str) -> Repository:
        """The repository ``name``, made with defaults where there is none."""
        with suppress(RegistryError):  # unknown: made below, where anything else it might be comes up again
            return self.describe(name)
        made = Repository(repository_name(name), uuid.uuid4().hex, time.time())
        return self._database.write(lambda db: ledger.ensure_repository(db, _placed(db, made)))

    def describe(self, name: str) -> Repository:
        """Raises ``repository-unknown``."""
        found = self._database.read(lambda db: ledger.repositories(db, name=name))
        if not found:
            raise RegistryError(Fault.NAME_UNKNOWN, f"there is no repository {name[:256]}")
        return found[0]

    def require(self, name: str) -> None:
        """Raises ``repository-unknown``: :meth:`describe` for who needs to know no more than that."""
        self._database.read(lambda db: ledger.repository_id(db, name))

    def list(self, labels: Mapping[str, str] | None = None) -> tuple[Repository, ...]:
        """The repositories that carry all of ``labels``, in the order of their names; linear in their number."""
        return self._database.read(lambda db: ledger.repositories(db, labels=labels))

    def catalog(self, after: str = "", limit: int = _EVERYTHING) -> tuple[str, ...]:
        """Names of repositories, in order."""
        return self._database.read(lambda db: ledger.catalog(db, after, limit))

    def update_repository(
        self,
        name: str,
        *,
        mutability: TagMutability | None = None,
        tags: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Repository:
        """Set what is given, ``tags``, ``labels`` and ``details`` as a whole. Raises ``repository-unknown``."""
        checked = None if tags is None else _checked(tags)
        self._database.write(lambda db: ledger.update_repository(db, name, mutability, checked, labels, details))
        return self.describe(name)

    def delete_repository(self, name: str, *, force: bool = False) -> None:
        """Raises ``repository-unknown``, and ``repository-not-empty`` where it holds images and ``force`` is not given."""
        self._database.write(lambda db: ledger.delete_repository(db, name, force=force))

    # -- documents -------------------------------------------------------------------------------------------------

    def document(self, owner: str, name: str) -> str | None:
        """A document of a repository (by its uid) or of the registry (``""``): a policy, a setting."""
        return self._database.read(lambda db: ledger.document(db, owner, name))

    def repository_document(self, repository: str, name: str) -> str | None:
        """A document of a repository, by the repository's name; None also where there is no such repository."""
        return self._database.read(lambda db: ledger.repository_document(db, repository, name))

    def documents(self, owner: str, prefix: str) -> tuple[tuple[str, str], ...]:
        """(name, body) of the documents whose names begin with ``prefix``."""
        return self._database.read(lambda db: ledger.documents(db, owner, prefix))

    def set_document(self, owner: str, name: str, body: str | None) -> str | None:
        """Write a document, or take it away (None), durably; what was there before."""
        now = time.time()
        return self._database.write(lambda db: ledger.set_document(db, owner, name, body, now))

    def add_document(self, owner: str, name: str, body: str) -> bool:
        """Write a document where there is none of that name; whether there was none."""
        now = time.time()

        def record(db: ledger.Connection) -> bool:
            if ledger.document(db, owner, name) is not None:
                return False
            ledger.set_document(db, owner, name, body, now)
            return True

        return self._database.write(record)

    def replace_document(self, owner: str, name: str, before: str, after: str | None) -> bool:
        """Write a document (None: take it away) where it still is ``before``; whether it was."""
        now = time.time()

        def record(db: ledger.Connection) -> bool:
            if ledger.document(db, owner, name) != before:
                return False
            ledger.set_document(db, owner, name, after, now)
            return True

        return self._database.write(record)

    # -- manifests and tags ----------------------------------------------------------------------------------------

    def put_manifest(
        self,
        repository: str,
        reference: str,
        content: bytes,
        media_type: str = "",
        *,
        tags: Sequence[str] = (),
        link: bool = False,
        sparse: bool = False,
    ) -> Pushed:
        """Push a manifest under ``reference`` (a tag or its digest) and further ``tags``.

        Its blobs must be linked in the repository; with ``link`` those that the store holds are linked on the way (for
        callers who may read the whole store). ``sparse`` lets it name blobs and manifests that are not there. Durable when
        it returns. Raises ``manifest-invalid``, ``manifest-too-large``, ``manifest-blob-unknown``, ``tag-immutable``,
        ``invalid-digest`` (the content is not what the digest says), ``repository-unknown``.
        """
        by_digest = ":" in reference
        names = tuple(dict.fromkeys(map(tag_name, tags if by_digest else (reference, *tags))))
        if len(names) > MOST_TAGS_AT_ONCE:
            raise RegistryError(Fault.TOO_MANY_TAGS, f"a push sets at most {MOST_TAGS_AT_ONCE} tags")
        claimed = digest_name(reference) if by_digest else None
        parsed = contents.read(content, media_type)
        store = self.storage(repository)
        with store.lease():
            digest = trees.keep(store, content, claimed)
            sizes = trees.sizes(store, parsed, always=link)
            now = time.time()

            def record(db: ledger.Connection) -> None:
                ledger.insert_manifest(
                    db, repository, digest, parsed, len(content), now, link=sizes if link else {}, sparse=sparse
                )
                ledger.set_tags(db, repository, digest, names, now)

            self._database.write(record)
        self.pushed(repository, digest, names)
        return Pushed(digest, names, parsed.subject)

    def push_local(self, repository: str, tag: str, digest: Digest) -> Pushed:
        """Push an image or index of the store under ``tag``: one transaction, no copy, durable when it returns.

        An index takes along those of its manifests that the store has. Raises ``image-unknown`` where the store lacks
        the manifest, ``manifest-blob-unknown`` where it lacks a blob, ``tag-immutable``, ``repository-unknown``.
        """
        tag_name(tag)
        store = self.storage(repository)
        with self.store.lease(), store.lease():
            found: dict[Digest, tuple[Contents, int]] = {}
            self._gather(digest, found, 0)
            if store is not self.store:
                trees.copy_tree(self.store, store, digest)
            sizes = {
                name: size
                for parsed, _ in found.values()
                for name, size in trees.sizes(store, parsed, always=True).items()
            }
            now = time.time()

            def record(db: ledger.Connection) -> None:
                for one, (parsed, size) in found.items():  # children stand before their index
                    ledger.insert_manifest(db, repository, one, parsed, size, now, link=sizes, sparse=True)
                ledger.set_tags(db, repository, digest, (tag,), now)

            self._database.write(record)
        self.pushed(repository, digest, (tag,))
        return Pushed(digest, (tag,), found[digest][0].subject)

    def resolve(self, repository: str, reference: str) -> StoredManifest:
        """What a tag or digest names. Raises ``repository-unknown``, ``tag-unknown``, ``manifest-unknown``."""
        return self._database.read(lambda db: ledger.manifest(db, repository, reference))

    def manifest(self, repository: str, reference: str) -> tuple[StoredManifest, bytes]:
        """:meth:`resolve` and the manifest's bytes."""
        row = self.resolve(repository, reference)
        return row, self.storage(repository).read(row.digest, contents.MANIFEST_LIMIT)

    def manifests(self, repository: str) -> tuple[StoredManifest, ...]:
        """Every manifest of a repository, oldest push first."""
        return self._database.read(lambda db: ledger.manifests(db, repository))

    def tags(self, repository: str, after: str = "", limit: int = _EVERYTHING) -> tuple[Tag, ...]:
        """Tags in the order of their bytes, those behind ``after``. Raises ``repository-unknown``."""
        return self._database.read(lambda db: ledger.tags(db, repository, after, limit))

    def tag_names(self, repository: str, after: str = "", limit: int = _EVERYTHING) -> tuple[str, ...]:
        """The names of :meth:`tags`."""
        return self._database.read(lambda db: ledger.tag_names(db, repository, after, limit))

    def sizes(self, repository: str) -> dict[str, int]:
        """The bytes of each manifest's blobs, by its digest."""
        return self._database.read(lambda db: ledger.sizes(db, repository))

    def parents(self, repository: str, digest: Digest) -> tuple[str, ...]:
        """Digests of the indexes that name a manifest. Raises ``repository-unknown``."""
        return self._database.read(lambda db: ledger.parents(db, repository, digest))

    def note_pull(self, repository: str, row: StoredManifest) -> None:
        """Record that a manifest was pulled; what was recorded within the hour is exact enough."""
        now = time.time()
        if row.pulled is None or row.pulled < now - _PULL_SECONDS:
            self._database.write(lambda db: ledger.note_pull(db, repository, row.digest, now, _PULL_SECONDS))

    def delete_tag(self, repository: str, tag: str) -> None:
        """Take a tag away; its manifest stays. Raises ``tag-unknown``."""
        self._database.write(lambda db: ledger.delete_tag(db, repository, tag))
        self.deleted(repository, tag)

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Take a manifest and all its tags away. Raises ``manifest-unknown``."""
        self._database.write(lambda db: ledger.delete_manifest(db, repository, digest))
        self.deleted(repository, digest)

    def referrers(
        self, repository: str, subject: Digest, artifact_type: str = "", after: str = "", limit: int = _EVERYTHING
    ) -> tuple[StoredManifest, ...]:
        """The manifests that name ``subject``, which need not be there itself (specification, "Listing Referrers")."""
        return self._database.read(lambda db: ledger.referrers(db, repository, subject, artifact_type, after, limit))

    # -- blobs -----------------------------------------------------------------------------------------------------

    def blob(self, repository: str, digest: Digest) -> int:
        """The size in bytes of a blob of the repository.

        Who asks may rely on the answer for a push that follows: a blob that waits for its manifest waits anew.
        Raises ``blob-unknown``, ``repository-unknown``.
        """
        found = self._database.read(lambda db: ledger.blob(db, repository, digest))
        if found is not None:
            size, seen, named = found
            if named or seen > time.time() - self.grace / 2:
                return size
            store = self.storage(repository)
            with store.lease():
                if store.touch(digest):
                    self._link(repository, digest, size)
                    return size
        raise RegistryError(Fault.BLOB_UNKNOWN, f"the repository {repository} has no blob {digest}")

    def link_blob(self, repository: str, digest: Digest, source: str | None = None) -> int:
        """Make a blob that ``source`` (None: any repository) holds one of ``repository`` too; its size in bytes.

        Raises ``blob-unknown`` where it is not there, ``repository-unknown`` for ``repository``.
        """
        unknown = RegistryError(Fault.BLOB_UNKNOWN, f"there is no blob {digest} to mount")
        if not self._database.read(lambda db: ledger.blob_held(db, digest, source)):
            raise unknown
        store = self.storage(repository)
        if source is not None and self.storage(source) is not store:
            raise unknown  # it lies elsewhere, or under another key
        with store.lease():
            if not store.touch(digest):
                raise unknown
            size = store.size(digest)
            self._link(repository, digest, size)
        return size

    def holders(self, digest: Digest, most: int) -> tuple[str, ...]:
        """The names of repositories that hold a blob, at most ``most``."""
        return self._database.read(lambda db: ledger.blob_holders(db, digest, most))

    def keep_blob(self, repository: str, digest: Digest, size: int) -> None:
        """Link a blob that was just written to the store; the caller holds the lease under which it was written."""
        self._link(repository, digest, size)

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Take a blob's link away. Raises ``blob-unknown``, ``denied`` while a manifest of the repository names it."""
        self._database.write(lambda db: ledger.delete_blob(db, repository, digest))

    # -- garbage ---------------------------------------------------------------------------------------------------

    def references(self) -> Iterator[Digest]:
        """The digests that the store must keep for the registry; the store walks the manifests among them itself."""
        since = time.time() - self.grace
        yield from self._database.read(lambda db: tuple(ledger.references(db, since)))

    def expire(self) -> int:
        """Forget blobs that waited longer than the grace for a manifest; how many. Run before a collection."""
        before = time.time() - self.grace
        return self._database.write(lambda db: ledger.expire_blobs(db, before))

    # -- the store -------------------------------------------------------------------------------------------------

    def _gather(self, digest: Digest, found: dict[Digest, tuple[Contents, int]], depth: int) -> None:
        if digest in found:
            return
        if depth > trees.DEEPEST_INDEX:
            raise RegistryError(Fault.MANIFEST_INVALID, f"indexes are nested more than {trees.DEEPEST_INDEX} deep")
        self.store.touch(digest)  # before it is read: what is read then stays until the lease ends
        content = self.store.read(digest, contents.MANIFEST_LIMIT)
        parsed = contents.read(content)
        for child in parsed.manifests:
            if self.store.has(child.digest):
                self._gather(child.digest, found, depth + 1)
        found[digest] = (parsed, len(content))

    def _link(self, repository: str, digest: Digest, size: int) -> None:
        now = time.time()
        self._database.write(lambda db: ledger.insert_blob(db, ledger.repository_id(db, repository), digest, size, now))


def _placed(db: ledger.Connection, made: Repository) -> Repository:
    """A new repository with the vault of the registry's configuration, where it names none itself."""
    vault = made.details.get("vault") or ledger.document(db, "", _DEFAULT_VAULT)
    return replace(made, details={**made.details, "vault": vault}) if vault else made


def _nobody(*_: object) -> None:
    """Who is told where nobody listens."""


def _checked(tags: Mapping[str, str]) -> dict[str, str]:
    """Resource tags within ECR's limits (TagResource)."""
    if len(tags) > MOST_RESOURCE_TAGS or any(not 1 <= len(k) <= 128 or len(v) > 256 for k, v in tags.items()):
        raise RegistryError(
            Fault.PARAMETER_INVALID,
            f"a repository has at most {MOST_RESOURCE_TAGS} tags, of keys up to 128 and values up to 256 characters",
        )
    return dict(tags)
