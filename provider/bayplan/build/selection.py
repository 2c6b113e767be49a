"""Which files a COPY takes, and the digest of what they are.

The rules are the reference's: wildcards select paths; a directory means its contents; a link given as a source is
followed, links inside a directory are copied as links; ``--exclude`` leaves out; ``--parents`` keeps the source's path
from its pivot ``/./`` on. What comes out knows nothing of the destination but the names below it.

The digest covers names, kinds, permission bits, link targets and contents (owners too where they are kept), in a fixed
order: never times, inodes or paths of the machine.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterable

from bayplan.build import trees
from bayplan.build.patterns import BadPattern, PathFilter, has_wildcard
from bayplan.build.steps import CopyStep
from bayplan.build.trees import Kind, Node, Tree
from bayplan.errors import BayplanError, Where, nearest
from bayplan.records import dataclass

#: A file's content digest, by its path in the tree.
ContentOf = Callable[[str, Node], bytes]


@dataclass(frozen=True, slots=True)
class Picked:
    """One source that was found. ``name`` is what it is called in a destination directory; ``entries`` are
    (path below it, path in the tree, entry), ``""`` first for the source itself.

    A ``directory`` is copied as its contents, unless ``keeps_name`` (``--parents``).
    """

    name: str
    directory: bool
    entries: tuple[tuple[str, str, Node], ...]
    keeps_name: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """All that one COPY reads, in order."""

    picked: tuple[Picked, ...]

    @property
    def files(self) -> int:
        return sum(node.kind is Kind.FILE for each in self.picked for _, _, node in each.entries)

    def entries(self) -> Iterable[tuple[str, Node]]:
        """Every (path in the tree, entry)."""
        for each in self.picked:
            for _, path, node in each.entries:
                yield path, node

    def digest(self, content_of: ContentOf, *, owners: bool) -> str:
        """The digest of the selection (hex). ``owners``: numeric owners are part of it."""
        whole = hashlib.sha256()
        for each in self.picked:
            whole.update(f"\1{each.name}\0{each.directory:d}{each.keeps_name:d}\0".encode(errors="surrogateescape"))
            for below, path, node in each.entries:
                whole.update(entry_digest_parts(below, path, node, content_of, owners=owners))
        return whole.hexdigest()


def entry_digest_parts(below: str, path: str, node: Node, content_of: ContentOf, *, owners: bool) -> bytes:
    """What of one entry enters a digest."""
    owner = f"{node.uid}:{node.gid}" if owners else ""
    head = f"\2{below}\0{node.kind}{node.mode:o}{owner}\0{node.link}\0".encode(errors="surrogateescape")
    return head + content_of(path, node) if node.kind is Kind.FILE else head


def select(tree: Tree, step: CopyStep, where: Where, *, place: str) -> Selection:
    """What ``step`` takes from ``tree``; ``place`` names the tree in errors (``the build context``).

    Raises BayplanError ``copy-source-missing`` with the nearest name, ``bad-pattern``.
    """
    try:
        excluded = PathFilter(step.exclude)
        picked: list[Picked] = []
        for source in step.sources:
            picked.extend(_source(tree, source, step, excluded, where, place))
    except BadPattern as error:
        raise BayplanError("bad-pattern", f"{step.verb}: {error}", where=where) from None
    return Selection(tuple(picked))


def _source(tree: Tree, source: str, step: CopyStep, excluded: PathFilter, where: Where, place: str) -> list[Picked]:
    pivot = ""
    pattern = source
    if step.parents and "/./" in source:
        pivot, _, pattern = source.partition("/./")
    path = trees.normal(posixpath.join(pivot, pattern.lstrip("/")) if pivot else pattern)
    if has_wildcard(path):
        found = trees.glob(tree, path)
    else:
        found = [path]
        if tree.lookup(trees.resolve(tree, path)) is None:
            raise _missing(tree, path, step, where, place)
    start = trees.normal(pivot)
    out: list[Picked] = []
    for match in found:
        name = posixpath.basename(match)
        if step.parents:
            name = match.removeprefix(start).lstrip("/")
        out.extend(_pick(tree, match, name, step, excluded))
    return out


def _pick(tree: Tree, match: str, name: str, step: CopyStep, excluded: PathFilter) -> list[Picked]:
    followed = trees.resolve(tree, match)
    node = tree.lookup(followed) if followed else Node(Kind.DIRECTORY, 0o755)
    if node is None or (excluded and name and excluded.excludes(posixpath.basename(name))):
        return []
    if node.kind is not Kind.DIRECTORY:
        return [Picked(name, False, (("", followed, node),), step.parents)]
    entries: list[tuple[str, str, Node]] = [("", followed, node)]
    prefix = f"{followed}/" if followed else ""
    left_out: list[str] = []
    for below, inner in trees.walk(tree, followed):
        if excluded:
            if left_out and below.startswith(left_out[-1] + "/"):
                continue
            if excluded.excludes(below):
                if inner.kind is Kind.DIRECTORY and excluded.excludes_all_below(below):
                    left_out.append(below)
                continue
        entries.append((below, prefix + below, inner))
    return [Picked(name, True, tuple(entries), step.parents)]


def _missing(tree: Tree, path: str, step: CopyStep, where: Where, place: str) -> BayplanError:
    directory, _, name = path.rpartition("/")
    close = nearest(name, tree.names(directory))
    hint = ""
    if close:
        hint = f"did you mean {directory + '/' if directory else ''}{close}?"
    elif step.origin.context:
        hint = "paths are taken from the context's root; .dockerignore may leave it out"
    return BayplanError("copy-source-missing", f"{step.verb}: {path!r} is not in {place}", where=where, hint=hint)
