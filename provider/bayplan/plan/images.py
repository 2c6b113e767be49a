"""The decision about an Image: its content, the names that point at it, the registries that keep it.

An image is what its content is. What makes the content (the build's definition and context, a root file system, an image
elsewhere) has one digest, the forecast's ``key``; it is compared with the key that the stored image carries, so that no text
of a definition, time stamp or path ever makes a rebuild. Then come, each an operation of its own because each can be seen
from outside: the tags in the host's store that are missing or point elsewhere, and every push target that does not refer to
this digest now.

Where the new content is known before it is made (a build from cache) dependants are planned against it exactly; else they
hear that the image changes. An Image that stands on another one of this plan whose content is not known yet is made again
too: its content follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayplan.plan.board import Board, Decision
from bayplan.plan.leftovers import LEFT
from bayplan.plan.model import (
    FOLLOWS,
    Action,
    Change,
    Desired,
    Forecast,
    Observed,
    Reason,
    Recorded,
    Ref,
    Role,
    Template,
    Value,
)
from bayplan.plan.order import Draft
from bayplan.plan.values import fill, references

_SOURCES = {"build": Action.BUILD, "rootfs": Action.LOAD, "copy": Action.COPY}


def decide(board: Board, one: Desired) -> None:
    """Draft what ``one`` needs and note its decision, or that it stays."""
    forecast = board.world.forecasts.get(one.address, Forecast(key=""))
    if forecast.problem:
        board.problems.append(f"{one.address}: {forecast.problem}")
    objects = board.world.objects.get(one.address, ())
    current, others = _choose(objects, one, forecast)
    decision = Decision()
    recorded = board.recorded.get(one.address)
    content = _content(board, one, current, forecast, recorded)
    if content is not None:
        decision.drafts.append(board.add(content))
        decision.makes = True
        # What is made by hand takes nothing from the cache: nobody knows what comes of it.
        foretold = None if one.address in board.forced else forecast.outputs
        decision.outputs = foretold if foretold is not None else {}
    elif current is not None:
        decision.outputs = current.outputs or board.outputs_of(one.address, (current,))
    _tags(board, one, current, content, decision)
    _pushes(board, one, current, content, forecast, decision)
    for other in others:
        _remove(board, one, other, decision)
    if decision.drafts:
        board.decisions[one.address] = decision
        if content is None:
            board.known[one.address] = decision.outputs
    elif current is not None:
        board.stays(one, current)


def _choose(
    objects: Sequence[Observed], one: Desired, forecast: Forecast
) -> tuple[Observed | None, Sequence[Observed]]:
    """The stored image that is the resource's: the one with the forecast content, else the current one."""
    here = [found for found in objects if found.place == one.place]
    if not here:
        return None, list(objects)
    best = min(
        here,
        key=lambda found: (
            not forecast.key or found.fields.get("key") != forecast.key,
            found.role is not Role.CURRENT,
            found.uid,
            found.id,
        ),
    )
    return best, [found for found in objects if found is not best]


# -- content -------------------------------------------------------------------------------------------------------


def _content(
    board: Board, one: Desired, current: Observed | None, forecast: Forecast, recorded: Recorded | None
) -> Draft | None:
    """The operation that makes the content, or None where what is there is right."""
    cause = _why(board, one, current, forecast, recorded)
    if not cause:
        return None
    source, action = next(
        ((name, action) for name, action in _SOURCES.items() if name in one.properties), ("build", Action.BUILD)
    )
    forced = one.address in board.forced
    gone = current is None and recorded is not None and recorded.place == one.place
    detail: dict[str, Value] = {"key": forecast.key}
    detail.update({"replace": True} if forced else {}, **({"gone": True} if gone else {}))
    before = current.fields.get("key") if current else None
    upstream = any(_changes_content(board, address) for address in board.links.get(one.address, ()))
    where = forecast.where or one.positions.get(source, one.where)
    change = Change(
        source,
        before,
        forecast.key or None,
        Reason.UPSTREAM if upstream and not forecast.key else Reason.DECLARED,
        where=where,
    )
    pushed_to = {ref.address for ref in references(one.properties.get("push"))} - {
        ref.address for name, value in one.properties.items() if name != "push" for ref in references(value)
    }
    return Draft(
        one.address,
        "Image",
        one.place,
        action,
        cause,
        inputs=one.properties,
        changes=[change] if before != change.after or upstream else [],
        after=board.after(one, besides=pushed_to - set(one.depends_on)),
        precondition=current.hash if current else "",
        uid=current.uid if current else "",
        id=current.id if current else "",
        where=where,
        waits_for=board.waits_for(one),
        depends_on=board.depends_on(one),
        detail=detail,
    )


def _why(board: Board, one: Desired, current: Observed | None, forecast: Forecast, recorded: Recorded | None) -> str:
    """Why the content has to be made, in words; ``""`` where it stands."""
    if one.address in board.forced:
        return "asked for by --replace"
    if current is None:
        if forecast.cause:
            return forecast.cause
        return "removed by hand" if recorded is not None and recorded.place == one.place else "new"
    upstream = [address for address in board.links.get(one.address, ()) if _changes_content(board, address)]
    if forecast.key:
        if current.fields.get("key") != forecast.key:
            return forecast.cause or "its content changes"
        # The key was made against what the bases are now; of those that this plan makes it knows nothing.
        return f"{' and '.join(upstream)} changes" if upstream else ""
    if upstream:
        return forecast.cause or f"{' and '.join(upstream)} changes"
    if one.address in board.world.forecasts:
        return forecast.cause or "its content cannot be known before"
    return ""


def _changes_content(board: Board, address: str) -> bool:
    """Whether ``address`` is an Image of this plan whose new content nobody knows yet."""
    decision = board.decisions.get(address)
    return decision is not None and decision.makes and board.desired[address].kind == "Image" and not decision.outputs


# -- tags ----------------------------------------------------------------------------------------------------------


def _tags(board: Board, one: Desired, current: Observed | None, content: Draft | None, decision: Decision) -> None:
    if "tags" in one.lifecycle.ignore_changes and current is not None:
        return
    declared = fill(one.properties.get("tags") or [], board.output)
    names = {familiar(tag): tag for tag in declared if isinstance(tag, str)}
    there = {familiar(tag): tag for tag in (current.fields.get("tags") or () if current else ())}
    add = [tag for name, tag in names.items() if content is not None or name not in there]
    remove = [tag for name, tag in there.items() if name not in names]
    if not add and not remove:
        return
    recorded = board.recorded.get(one.address)
    kept = current.recorded if current and current.recorded else recorded.fields if recorded else {}
    drifted = "tags" in kept and kept["tags"] == board.digest(one.place)(one.properties.get("tags") or [])
    reason = Reason.UPSTREAM if content is not None else Reason.DRIFT if drifted else Reason.DECLARED
    words = [", ".join(map(_short, add))] if add else []
    if remove:
        words.append(f"no longer {', '.join(map(_short, remove))}")
    where = one.positions.get("tags", one.where)
    change = Change("tags", list(there.values()), list(names.values()), reason, where=where)
    decision.drafts.append(
        board.add(
            Draft(
                one.address,
                "Image",
                one.place,
                Action.TAG,
                "; ".join(words) + (" (drift)" if reason is Reason.DRIFT else ""),
                inputs=one.properties,
                changes=[change],
                after=[content] if content is not None else [],
                precondition=FOLLOWS if content is not None else current.hash if current else "",
                uid=current.uid if current else "",
                id=current.id if current else "",
                where=where,
                depends_on=board.depends_on(one),
                detail={"add": add, "remove": remove},
            )
        )
    )


def familiar(name: str) -> str:
    """An image's name in one form for comparison: as short as Docker shows it, with its tag."""
    name = name.removeprefix("docker.io/").removeprefix("library/") if name.startswith("docker.io/") else name
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _short(name: str) -> str:
    return name.removeprefix("docker.io/").removeprefix("library/") if name.startswith("docker.io/") else name


# -- pushes --------------------------------------------------------------------------------------------------------


def _pushes(
    board: Board,
    one: Desired,
    current: Observed | None,
    content: Draft | None,
    forecast: Forecast,
    decision: Decision,
) -> None:
    targets = one.properties.get("push") or ()
    if not targets or ("push" in one.lifecycle.ignore_changes and current is not None):
        return
    digest = _digest(decision, current, content)
    earlier = decision.drafts[:1]  # the new content, or else the tags, which are part of what a push is checked against
    pushes: list[Draft] = []
    for declared in targets if isinstance(targets, (list, tuple)) else (targets,):
        target = fill(declared, board.output)
        known = target if isinstance(target, str) else ""
        repository = next((ref.address for ref in references(declared)), "")
        remote = _remote(board, repository, known)
        if digest and remote == digest:
            continue
        if remote is None and content is None and known:
            continue  # nobody could look, and nothing here changed
        label = display(declared)
        _immutable(board, one, repository, label, remote, digest)
        cause = f"to {label}"
        if content is None and remote:
            cause += ", which has another image"
        waits = [draft for address in {repository} & board.decisions.keys() for draft in board.decisions[address].last]
        uid, id_ = (current.uid, current.id) if current else ("", "")
        pushes.append(
            board.add(
                Draft(
                    one.address,
                    "Image",
                    one.place,
                    Action.PUSH,
                    cause,
                    inputs={**one.properties, "push": [declared]},
                    after=[*earlier, *waits],
                    precondition=FOLLOWS if earlier else current.hash if current else "",
                    uid=uid,
                    id=id_,
                    where=one.positions.get("push", one.where),
                    note=forecast.pushes.get(str(declared), forecast.note),
                    depends_on=board.depends_on(one),
                    detail={"index": 0, "target": known or declared, "remote": remote},
                )
            )
        )
    decision.drafts += pushes


def _digest(decision: Decision, current: Observed | None, content: Draft | None) -> str:
    """The digest that is to be pushed, as far as it is known."""
    found = decision.outputs.get("digest")
    if not found and content is None and current is not None:
        found = current.fields.get("digest")
    return str(found or "")


def _remote(board: Board, repository: str, target: str) -> str | None:
    """What ``target`` refers to now: ``""`` nothing, None where nobody could look."""
    decision = board.decisions.get(repository)
    if not target or (decision is not None and decision.makes):
        return ""
    for found in board.world.objects.get(repository, ()):
        images = found.fields.get("images")
        if isinstance(images, Mapping):
            tag = target.rpartition("/")[2].partition(":")[2] or "latest"
            return str(images.get(tag, ""))
    return board.world.remotes.get(target, "")


def _immutable(board: Board, one: Desired, repository: str, label: str, remote: str | None, digest: str) -> None:
    """Say now what the registry would say at the push: that the tag is taken for good."""
    owner = board.desired.get(repository)
    if owner is None or not remote or remote == digest:
        return
    if str(owner.properties.get("image_tag_mutability", "")).upper() == "IMMUTABLE":
        board.problems.append(
            f"{one.address}: {label} is there already with another image, and {repository} is IMMUTABLE;"
            " push to another tag"
        )


def display(target: Value) -> str:
    """A push target as a plan shows it: ``Repository.shop:1.0`` for ``${Repository.shop.uri}:1.0``."""
    if isinstance(target, Ref):
        return target.address if target.attribute == "uri" else str(target)
    if isinstance(target, Template):
        return "".join(part if isinstance(part, str) else display(part) for part in target.parts)
    return str(target)


# -- removal -------------------------------------------------------------------------------------------------------


def _remove(board: Board, one: Desired, other: Observed, decision: Decision) -> None:
    """Another stored image under this identity: what an interrupted run, a moved tag or a move left."""
    after = decision.last
    if other.place != one.place:
        board.late.append((other, f"moved to {one.place}"))
        return
    board.add(
        Draft(
            one.address,
            "Image",
            other.place,
            Action.DELETE,
            LEFT,
            after=after,
            precondition=other.hash if not after else FOLLOWS,
            uid=other.uid,
            id=other.id,
            recovers=True,
            detail={"leftover": True, "tags": list(other.fields.get("tags") or ())},
        )
    )
