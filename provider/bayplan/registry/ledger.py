"""The registry's rules in SQL: what a repository holds, and what may be done to it.

Each function works inside a transaction that its caller opened (:mod:`database`) and knows nothing of files. The rules
that must hold whatever races are here and nowhere above: a tag names a manifest of its own repository, a manifest's
blobs are linked in its repository, an immutable tag does not move.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bayplan.oci.digest import Digest
from bayplan.registry.contents import Contents
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import Repository, StoredManifest, Tag, TagMutability

Connection = sqlite3.Connection
_MANIFEST = "digest, media_type, size, pushed, artifact_type, subject, annotations, pulled, config_type"


# -- repositories --------------------------------------------------------------------------------------------------


def repository_id(db: sqlite3.Connection, name: str) -> int:
    """The row of repository ``name``. Raises ``repository-unknown``."""
    row = db.execute("SELECT id FROM repository WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise RegistryError(Fault.NAME_UNKNOWN, f"there is no repository {name}")
    return int(row[0])


def insert_repository(db: sqlite3.Connection, repository: Repository) -> None:
    """Raises ``repository-exists``."""
    try:
        cursor = db.execute(
            "INSERT INTO repository(name, uid, created, mutability, details) VALUES(?, ?, ?, ?, ?)",
            (
                repository.name,
                repository.uid,
                repository.created,
                str(repository.mutability),
                json.dumps(repository.details) if repository.details else "{}",
            ),
        )
    except sqlite3.IntegrityError:
        raise RegistryError(Fault.NAME_EXISTS, f"there is a repository {repository.name} already") from None
    assert cursor.lastrowid is not None
    set_pairs(db, "resource_tag", cursor.lastrowid, repository.tags)
    set_pairs(db, "label", cursor.lastrowid, repository.labels)


def ensure_repository(db: sqlite3.Connection, repository: Repository) -> Repository:
    """Insert a repository unless one of its name is there; the one that is there now."""
    found = repositories(db, name=repository.name)
    if found:
        return found[0]
    insert_repository(db, repository)
    return repository


def set_pairs(db: sqlite3.Connection, table: str, repository: int, pairs: Mapping[str, str]) -> None:
    """Make ``table`` (``resource_tag`` or ``label``) hold exactly ``pairs`` for a repository."""
    assert table in ("resource_tag", "label")
    db.execute(f"DELETE FROM {table} WHERE repository = ?", (repository,))  # noqa: S608
    db.executemany(
        f"INSERT INTO {table}(repository, key, value) VALUES(?, ?, ?)",
        [(repository, key, value) for key, value in pairs.items()],
    )


def repositories(
    db: sqlite3.Connection, *, name: str | None = None, labels: Mapping[str, str] | None = None
) -> tuple[Repository, ...]:
    """Repositories in the order of their names: the one called ``name``, or all that carry every one of ``labels``.

    Three statements whatever their number.
    """
    where, values = ["1 = 1"], []
    if name is not None:
        where.append("name = ?")
        values.append(name)
    for key, value in (labels or {}).items():
        where.append("id IN (SELECT repository FROM label WHERE key = ? AND value = ?)")
        values += [key, value]
    condition = " AND ".join(where)
    rows = db.execute(
        f"SELECT id, name, uid, created, mutability, details FROM repository WHERE {condition} ORDER BY name",  # noqa: S608
        values,
    ).fetchall()
    tags = _pairs(db, "resource_tag", condition, values)
    kept = _pairs(db, "label", condition, values)
    return tuple(
        Repository(
            name,
            uid,
            created,
            TagMutability(mutability),
            tags.get(row, {}),
            kept.get(row, {}),
            {} if details == "{}" else json.loads(details),
        )
        for row, name, uid, created, mutability, details in rows
    )


def _pairs(db: sqlite3.Connection, table: str, condition: str, values: Sequence[str]) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    query = (
        f"SELECT repository, key, value FROM {table} WHERE repository IN (SELECT id FROM repository WHERE {condition})"  # noqa: S608
    )
    for row, key, value in db.execute(
        f"{query} ORDER BY repository, key", values
    ):  # as the rows lie: nothing is sorted
        found.setdefault(row, {})[key] = value
    return found


def catalog(db: sqlite3.Connection, after: str, limit: int) -> tuple[str, ...]:
    """At most ``limit`` names of repositories behind ``after``."""
    rows = db.execute("SELECT name FROM repository WHERE name > ? ORDER BY name LIMIT ?", (after, limit))
    return tuple(name for (name,) in rows)


def update_repository(
    db: sqlite3.Connection,
    name: str,
    mutability: TagMutability | None,
    tags: Mapping[str, str] | None,
    labels: Mapping[str, str] | None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Set what is not None. Raises ``repository-unknown``."""
    row = repository_id(db, name)
    if details is not None:
        db.execute("UPDATE repository SET details = ? WHERE id = ?", (json.dumps(details), row))
    if mutability is not None:
        db.execute("UPDATE repository SET mutability = ? WHERE id = ?", (str(mutability), row))
    if tags is not None:
        set_pairs(db, "resource_tag", row, tags)
    if labels is not None:
        set_pairs(db, "label", row, labels)


def delete_repository(db: sqlite3.Connection, name: str, *, force: bool) -> None:
    """Raises ``repository-unknown``, and ``repository-not-empty`` unless ``force``."""
    row = repository_id(db, name)
    if not force and db.execute("SELECT 1 FROM manifest WHERE repository = ? LIMIT 1", (row,)).fetchone():
        raise RegistryError(
            Fault.NOT_EMPTY, f"the repository {name} holds images", hint="delete them first, or force the deletion"
        )
    db.execute("DELETE FROM document WHERE owner = (SELECT uid FROM repository WHERE id = ?)", (row,))
    db.execute("DELETE FROM repository WHERE id = ?", (row,))


# -- documents -----------------------------------------------------------------------------------------------------


def document(db: sqlite3.Connection, owner: str, name: str) -> str | None:
    """A document of an owner (a repository's uid; empty: the registry itself)."""
    found = db.execute("SELECT body FROM document WHERE owner = ? AND name = ?", (owner, name)).fetchone()
    return None if found is None else str(found[0])


def repository_document(db: sqlite3.Connection, repository: str, name: str) -> str | None:
    """A document of the repository ``repository``."""
    query = "SELECT body FROM document JOIN repository ON repository.uid = owner WHERE repository.name = ? AND document.name = ?"
    found = db.execute(query, (repository, name)).fetchone()
    return None if found is None else str(found[0])


def documents(db: sqlite3.Connection, owner: str, prefix: str) -> tuple[tuple[str, str], ...]:
    """(name, body) of an owner's documents whose names begin with ``prefix``, by name."""
    rows = db.execute(
        "SELECT name, body FROM document WHERE owner = ? AND substr(name, 1, ?) = ? ORDER BY name",
        (owner, len(prefix), prefix),
    )
    return tuple(rows)


def set_document(db: sqlite3.Connection, owner: str, name: str, body: str | None, now: float) -> str | None:
    """Write a document, or take it away (``body`` None); what was there before."""
    before = document(db, owner, name)
    if body is None:
        db.execute("DELETE FROM document WHERE owner = ? AND name = ?", (owner, name))
    else:
        db.execute(
            "INSERT INTO document(owner, name, body, changed) VALUES(?, ?, ?, ?) "
            "ON CONFLICT(owner, name) DO UPDATE SET body = excluded.body, changed = excluded.changed",
            (owner, name, body, now),
        )
    return before


# -- manifests and tags --------------------------------------------------------------------------------------------


def _manifest(row: Sequence[Any]) -> StoredManifest:
    digest, media_type, size, pushed, artifact_type, subject, annotations, pulled, config_type = row
    return StoredManifest(
        Digest(digest), media_type, size, pushed, artifact_type, Digest(subject) if subject else None,
        json.loads(annotations), pulled, config_type,
    )  # fmt: skip


def manifest(db: sqlite3.Connection, name: str, reference: str) -> StoredManifest:
    """The manifest that a tag or digest names. Raises ``repository-unknown``, ``manifest-unknown``, ``tag-unknown``."""
    row = repository_id(db, name)
    by_digest = ":" in reference
    if by_digest:
        query = f"SELECT {_MANIFEST} FROM manifest WHERE repository = ? AND digest = ?"  # noqa: S608
    else:
        query = (
            f"SELECT {_MANIFEST} FROM manifest WHERE repository = ?1 AND digest = "  # noqa: S608
            "(SELECT digest FROM tag WHERE repository = ?1 AND name = ?2)"
        )
    found = db.execute(query, (row, reference)).fetchone()
    if found is None:
        fault = Fault.MANIFEST_UNKNOWN if by_digest else Fault.TAG_UNKNOWN
        raise RegistryError(fault, f"the repository {name} has no {'manifest' if by_digest else 'tag'} {reference}")
    return _manifest(found)


def insert_manifest(
    db: sqlite3.Connection,
    name: str,
    digest: Digest,
    contents: Contents,
    size: int,
    now: float,
    *,
    link: Mapping[Digest, int],
    sparse: bool,
) -> None:
    """Record a manifest whose bytes are in the store.

    Its blobs have to be linked in the repository, or stand in ``link`` (digest -> size in the store) and are linked now;
    the manifests of an index have to be in the repository. ``sparse`` allows either to be missing. Raises
    ``manifest-blob-unknown`` naming the first that is missing, ``manifest-invalid`` where a size is not the blob's.
    """
    row = repository_id(db, name)
    for blob in contents.blobs:
        known = db.execute("SELECT size FROM blob WHERE repository = ? AND digest = ?", (row, blob.digest)).fetchone()
        size_there = known[0] if known else link.get(blob.digest)
        if size_there is None:
            if sparse:
                continue
            raise RegistryError(Fault.MANIFEST_BLOB_UNKNOWN, f"the repository {name} has no blob {blob.digest}")
        if size_there != blob.size:
            raise RegistryError(
                Fault.MANIFEST_INVALID, f"the blob {blob.digest} has {size_there} bytes, the manifest says {blob.size}"
            )
        if known is None:
            insert_blob(db, row, blob.digest, size_there, now)
    if not sparse:
        for child in contents.manifests:
            query = "SELECT 1 FROM manifest WHERE repository = ? AND digest = ?"
            if db.execute(query, (row, child.digest)).fetchone() is None:
                raise RegistryError(
                    Fault.MANIFEST_BLOB_UNKNOWN, f"the repository {name} has no manifest {child.digest}"
                )
    inserted = db.execute(
        f"INSERT INTO manifest(repository, {_MANIFEST}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, NULL, ?) ON CONFLICT DO NOTHING",
        (
            row,
            digest,
            contents.media_type,
            size,
            now,
            contents.artifact_type,
            contents.subject,
            json.dumps(contents.annotations),
            contents.config_type,
        ),
    )
    if inserted.rowcount:
        children = [(row, digest, blob.digest, "blob") for blob in contents.blobs]
        children += [(row, digest, child.digest, "manifest") for child in contents.manifests]
        db.executemany("INSERT OR IGNORE INTO child(repository, manifest, digest, kind) VALUES(?, ?, ?, ?)", children)


def set_tags(db: sqlite3.Connection, name: str, digest: Digest, tags: Iterable[str], now: float) -> None:
    """Point ``tags`` at a manifest of the repository. Raises ``tag-immutable`` and moves none of them."""
    row, mutability, details = db.execute(
        "SELECT id, mutability, details FROM repository WHERE name = ?", (name,)
    ).fetchone()
    repository = Repository(name, "", 0.0, TagMutability(mutability), details=json.loads(details))
    for tag in tags:
        current = db.execute("SELECT digest FROM tag WHERE repository = ? AND name = ?", (row, tag)).fetchone()
        if current is not None and current[0] == digest:
            continue
        if current is not None and repository.keeps(tag):
            what = "repository" if repository.mutability is TagMutability.IMMUTABLE else "tag"
            raise RegistryError(
                Fault.TAG_IMMUTABLE,
                f"The image tag '{tag}' already exists in the '{name}' repository and cannot be overwritten because "
                f"the {what} is immutable.",
                hint="push under another tag, or make the repository's tags MUTABLE",
            )
        db.execute(
            "INSERT INTO tag(repository, name, digest, pushed) VALUES(?, ?, ?, ?) "
            "ON CONFLICT(repository, name) DO UPDATE SET digest = excluded.digest, pushed = excluded.pushed",
            (row, tag, digest, now),
        )


def tags(db: sqlite3.Connection, name: str, after: str, limit: int) -> tuple[Tag, ...]:
    """At most ``limit`` tags behind ``after``, in the order of their bytes."""
    row = repository_id(db, name)
    rows = db.execute(
        "SELECT name, digest, pushed FROM tag WHERE repository = ? AND name > ? ORDER BY name LIMIT ?",
        (row, after, limit),
    )
    return tuple(Tag(tag, Digest(digest), pushed) for tag, digest, pushed in rows)


def tag_names(db: sqlite3.Connection, name: str, after: str, limit: int) -> tuple[str, ...]:
    """The names of :func:`tags` alone, at a tenth of the price where there are many."""
    row = repository_id(db, name)
    query = "SELECT name FROM tag WHERE repository = ? AND name > ? ORDER BY name LIMIT ?"
    return tuple(tag for (tag,) in db.execute(query, (row, after, limit)).fetchall())


def manifests(db: sqlite3.Connection, name: str) -> tuple[StoredManifest, ...]:
    """All manifests of a repository, oldest first."""
    row = repository_id(db, name)
    query = f"SELECT {_MANIFEST} FROM manifest WHERE repository = ? ORDER BY pushed, digest"  # noqa: S608
    return tuple(map(_manifest, db.execute(query, (row,))))


def sizes(db: sqlite3.Connection, name: str) -> dict[str, int]:
    """The bytes of each manifest's blobs, by its digest; manifests without blobs are left out."""
    query = (
        "SELECT child.manifest, sum(blob.size) FROM child JOIN blob ON blob.repository = child.repository "
        "AND blob.digest = child.digest WHERE child.repository = ? AND child.kind = 'blob' GROUP BY child.manifest"
    )
    return dict(db.execute(query, (repository_id(db, name),)))


def parents(db: sqlite3.Connection, name: str, digest: Digest) -> tuple[str, ...]:
    """The indexes of a repository that name a manifest."""
    query = "SELECT manifest FROM child WHERE repository = ? AND digest = ? AND kind = 'manifest' ORDER BY manifest"
    return tuple(found for (found,) in db.execute(query, (repository_id(db, name), digest)))


def note_pull(db: sqlite3.Connection, name: str, digest: Digest, now: float, least: float) -> None:
    """Record a pull, unless one was recorded in the last ``least`` seconds."""
    db.execute(
        "UPDATE manifest SET pulled = ?1 WHERE repository = (SELECT id FROM repository WHERE name = ?2) AND digest = ?3 "
        "AND (pulled IS NULL OR pulled < ?1 - ?4)",
        (now, name, digest, least),
    )


def delete_tag(db: sqlite3.Connection, name: str, tag: str) -> None:
    """Raises ``tag-unknown``."""
    if not db.execute("DELETE FROM tag WHERE repository = ? AND name = ?", (repository_id(db, name), tag)).rowcount:
        raise RegistryError(Fault.TAG_UNKNOWN, f"the repository {name} has no tag {tag}")


def delete_manifest(db: sqlite3.Connection, name: str, digest: Digest) -> None:
    """Delete a manifest with all its tags. Raises ``manifest-unknown``."""
    row = repository_id(db, name)
    if not db.execute("DELETE FROM manifest WHERE repository = ? AND digest = ?", (row, digest)).rowcount:
        raise RegistryError(Fault.MANIFEST_UNKNOWN, f"the repository {name} has no manifest {digest}")


def referrers(
    db: sqlite3.Connection, name: str, subject: Digest, artifact_type: str, after: str, limit: int
) -> tuple[StoredManifest, ...]:
    """At most ``limit`` manifests that name ``subject``, in the order of their digests; none in an unknown repository."""
    query = (
        f"SELECT {_MANIFEST} FROM manifest "  # noqa: S608
        "WHERE repository = (SELECT id FROM repository WHERE name = ?1) AND subject = ?2 AND digest > ?3 "
        "AND (?4 = '' OR artifact_type = ?4) ORDER BY digest LIMIT ?5"
    )
    rows = db.execute(query, (name, subject, after, artifact_type, limit))
    return tuple(map(_manifest, rows))


# -- blobs ---------------------------------------------------------------------------------------------------------


def insert_blob(db: sqlite3.Connection, repository: int, digest: Digest, size: int, now: float) -> None:
    """Link a blob of the store; a link that is there is seen again."""
    db.execute(
        "INSERT INTO blob(repository, digest, size, seen) VALUES(?, ?, ?, ?) "
        "ON CONFLICT(repository, digest) DO UPDATE SET seen = max(seen, excluded.seen), size = excluded.size",
        (repository, digest, size, now),
    )


def blob(db: sqlite3.Connection, name: str, digest: Digest) -> tuple[int, float, bool] | None:
    """(size, when it was last seen, whether a manifest of the repository names it), or None where it is not linked."""
    row = repository_id(db, name)
    found = db.execute(
        "SELECT size, seen, EXISTS(SELECT 1 FROM child WHERE repository = ?1 AND digest = ?2 AND kind = 'blob') "
        "FROM blob WHERE repository = ?1 AND digest = ?2",
        (row, digest),
    ).fetchone()
    return None if found is None else (found[0], found[1], bool(found[2]))


def blob_held(db: sqlite3.Connection, digest: Digest, name: str | None) -> bool:
    """Whether repository ``name`` (None: any) holds the blob; a repository that is not there holds nothing."""
    query = (
        "SELECT 1 FROM blob JOIN repository ON repository.id = blob.repository "
        "WHERE digest = ?1 AND (?2 IS NULL OR name = ?2) LIMIT 1"
    )
    return db.execute(query, (digest, name)).fetchone() is not None


def blob_holders(db: sqlite3.Connection, digest: Digest, most: int) -> tuple[str, ...]:
    """The names of repositories that hold the blob, at most ``most``."""
    query = "SELECT name FROM blob JOIN repository ON repository.id = blob.repository WHERE digest = ? LIMIT ?"
    return tuple(row[0] for row in db.execute(query, (digest, most)))


def delete_blob(db: sqlite3.Connection, name: str, digest: Digest) -> None:
    """Take a blob's link away. Raises ``blob-unknown``; ``denied`` while a manifest of the repository names it."""
    row = repository_id(db, name)
    found = blob(db, name, digest)
    if found is None:
        raise RegistryError(Fault.BLOB_UNKNOWN, f"the repository {name} has no blob {digest}")
    if found[2]:
        raise RegistryError(Fault.DENIED, f"a manifest of the repository {name} needs the blob {digest}")
    db.execute("DELETE FROM blob WHERE repository = ? AND digest = ?", (row, digest))


def expire_blobs(db: sqlite3.Connection, before: float) -> int:
    """Drop the links not seen since ``before`` that no manifest of their repository names; how many those were."""
    return db.execute(
        "DELETE FROM blob WHERE seen < ? AND NOT EXISTS (SELECT 1 FROM child WHERE child.repository = blob.repository "
        "AND child.digest = blob.digest)",
        (before,),
    ).rowcount


_KEPT_IN = "repository IN (SELECT id FROM repository WHERE coalesce(json_extract(details, '$.vault'), '') = ?)"


def references(db: sqlite3.Connection, since: float, vault: str = "") -> Iterator[Digest]:
    """Every digest that must stay in a vault (empty: the root's store): all manifests, and the blobs seen ``since`` then."""
    for (digest,) in db.execute(f"SELECT DISTINCT digest FROM manifest WHERE {_KEPT_IN}", (vault,)):  # noqa: S608
        yield Digest(digest)
    for (digest,) in db.execute(f"SELECT DISTINCT digest FROM blob WHERE seen >= ? AND {_KEPT_IN}", (since, vault)):  # noqa: S608
        yield Digest(digest)


def vault_of(db: sqlite3.Connection, name: str) -> str:
    """The vault that a repository is kept in; empty for the root's store, and where there is no such repository."""
    query = "SELECT json_extract(details, '$.vault') FROM repository WHERE name = ?"
    found = db.execute(query, (name,)).fetchone()
    return "" if found is None or found[0] is None else str(found[0])
