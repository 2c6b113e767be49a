"""What differs from the build before: the first instruction, and the first file that made it differ.

A finished build is recorded as one row for each FROM and instruction, with a digest of what that one alone depends on (not
what is below it), so that the first row that differs is the cause and everything behind it merely follows. For a COPY from
the context, the list of its files is kept too, by its digest, once for all builds that read the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from bayplan.build.cache import BuildCache, StepReads
from bayplan.build.context import ContextDigests
from bayplan.build.keys import KeyedStep, Keys, foundation_key
from bayplan.build.planning import Planner, StagePlan
from bayplan.build.selection import Selection, entry_digest_parts
from bayplan.build.steps import CopyStep, RunStep
from bayplan.build.trees import Kind
from bayplan.errors import Where
from bayplan.records import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a build: ``reads`` of the record, with what it stands for now."""

    reads: StepReads
    where: Where
    keyed: KeyedStep | None  # None for a FROM
    stage: StagePlan


def rows(planner: Planner, keys: Keys) -> list[Row]:
    """All rows of a build, stage by stage in the order in which stages need each other."""
    found: list[Row] = []
    for plan in planner.order():
        if plan.base is None:
            own = foundation_key(plan.foundation)
            found.append(Row(StepReads(f"FROM {plan.image}", own), plan.where, None, plan))
        for keyed in keys.stages[plan.index]:
            reads = StepReads(keyed.step.text, keyed.own, keyed.content)
            found.append(Row(reads, keyed.step.instruction.where, keyed, plan))
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """The first row that differs, and why. ``row`` is None where nothing but the image's outer attributes differs."""

    row: Row | None
    reason: str = "changed"
    path: str = ""
    others: int = 0


def difference(old: Sequence[StepReads], new: Sequence[Row], cache: BuildCache, digests: ContextDigests) -> Difference:
    """Compare with a recorded build. Reads files again only where a selection differs."""
    for before, now in zip(old, new, strict=False):
        if before.key == now.reads.key and before.text == now.reads.text:
            continue
        if now.keyed is None:
            return Difference(now, "is another image now" if before.text == now.reads.text else "changed")
        selection = now.keyed.selection
        if before.text == now.reads.text and selection is not None and before.reads and before.reads != now.reads.reads:
            known = cache.reads(before.reads)
            if known:
                return _files(now, known, listing(selection, digests))
        return Difference(
            now, _same_words(now.keyed) if before.text == now.reads.text else _edited(before, now, old, new)
        )
    if len(new) > len(old):
        return Difference(new[len(old)], "is new")
    if len(new) < len(old):
        return Difference(new[-1], "is the last instruction now")
    return Difference(None, "")


def _same_words(keyed: KeyedStep) -> str:
    """How a step differs whose text is the same and whose files of the context are not known."""
    files = keyed.step.files
    if isinstance(files, RunStep):
        return "sees other values now"
    if isinstance(files, CopyStep) and files.origin.image:
        return "copies from another image now"
    return "changed"


def _edited(before: StepReads, now: Row, old: Sequence[StepReads], new: Sequence[Row]) -> str:
    """How the text of a row came to differ: it is new where the old row stands further down."""
    kept = any(row.reads.text == before.text for row in new)
    known = any(row.text == now.reads.text for row in old)
    return "is new" if kept and not known else "changed"


def _files(now: Row, before: dict[str, str], after: dict[str, str]) -> Difference:
    changed = sorted(path for path in after if path in before and before[path] != after[path])
    added = sorted(after.keys() - before.keys())
    gone = sorted(before.keys() - after.keys())
    for names, reason in ((changed, "changed"), (added, "is new"), (gone, "is gone")):
        if names:
            return Difference(now, reason, names[0], len(changed) + len(added) + len(gone) - 1)
    return Difference(now, "changed")


def listing(selection: Selection, digests: ContextDigests) -> dict[str, str]:
    """The files of a selection: path in the context -> a short digest of what the key takes of it."""
    import hashlib

    found: dict[str, str] = {}
    for path, node in selection.entries():
        if node.kind is not Kind.DIRECTORY:
            parts = entry_digest_parts("", path, node, digests.content, owners=False)
            found[path] = hashlib.blake2b(parts, digest_size=8).hexdigest()
    return found
