"""What goes into a plan and what comes out: plain frozen data, no behaviour beyond reading itself.

Three views of a resource meet in the planner:

* :class:`Desired`: what the files say, variables and loops resolved, references to other resources still expressions;
* :class:`Recorded`: what the last apply wrote down: one keyed digest per declared field, and outputs;
* :class:`Observed`: what is really there, field values normalised by the same rules as the desired ones.

The result is a :class:`Plan`: a DAG of :class:`Operation`, each one effect in the world with its cause, its changes and
a precondition (the hash of the object it was planned against). Everything here can be written as JSON and read back
without loss (``plan/codec.py``), so that a saved plan is applied exactly as it was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from bayplan.errors import Where
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.records import dataclass, field

__all__ = [
    "FOLLOWS",
    "Action",
    "Change",
    "Condition",
    "Desired",
    "Digester",
    "Forecast",
    "Lifecycle",
    "Observed",
    "Operation",
    "Plan",
    "Reason",
    "Recorded",
    "Redacted",
    "Ref",
    "Role",
    "SecretRef",
    "Template",
    "Unknown",
    "Value",
    "World",
]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that only the apply will know, and who makes it. ``hint`` is what can be said already."""

    address: str
    attribute: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"(known after {self.address})"


@dataclass(frozen=True, slots=True)
class Redacted:
    """A secret value as plans may show it: a digest under the place's key. Equal secrets have equal digests."""

    digest: str

    def __str__(self) -> str:
        return f"(secret {self.digest[:8]})"


#: The precondition of an operation that follows another one of the same resource in the same plan: what the earlier one
#: left is what this one works on, so there is nothing observed that it could be checked against.
FOLLOWS = "*"

#: JSON values, with Ref, SecretRef or Template at any leaf (desired), Unknown or Redacted (observed and shown).
Value = Any

#: Turns a normalised value into its keyed digest; the key belongs to the place (DESIGN 5, label ``fields``). A SecretRef
#: (also in a Template or deeper) is digested as the secret's value: the planner itself never holds one in clear.
Digester = Callable[[Value], str]


class Condition(StrEnum):
    """What ``depends_on`` waits for."""

    STARTED = "started"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """``lifecycle:`` of a resource."""

    prevent_destroy: bool = False
    ignore_changes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Desired:
    """One resource as the files want it.

    ``properties`` holds only declared properties, each normalised by its kind (sizes in bytes, durations in seconds,
    lists where the schema says list). ``place`` is the identity of the host or registry (``embedded:/var/lib/bayplan``).
    ``positions`` gives the place of each declared property by name; ``""`` is the resource's own key. Looking one up may
    cost a second reading of the file, so nobody does before there is something to tell.
    """

    address: str
    kind: str
    name: str
    place: str
    properties: Mapping[str, Value]
    depends_on: Mapping[str, Condition] = field(default_factory=dict)
    lifecycle: Lifecycle = Lifecycle()
    positions: Mapping[str, Where] = field(default_factory=dict)

    @property
    def where(self) -> Where | None:
        """The place of the resource's own key; None where no file declares it."""
        return self.positions.get("")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the last apply wrote: in the object's labels where it has labels, in the state besides.

    ``fields`` maps each property declared at that time to its keyed digest. ``values`` are the same properties in clear
    where they are not secret, so that a plan can say *before -> after*; it may be missing (state rebuilt from labels).
    """

    address: str
    kind: str
    place: str
    uid: str
    id: str
    fields: Mapping[str, str]
    values: Mapping[str, Value] = field(default_factory=dict)
    outputs: Mapping[str, Value] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    imported: bool = False


class Role(StrEnum):
    """What an object is for its address while a replacement is under way or was interrupted."""

    CURRENT = "current"  # bears the declared name
    NEXT = "next"  # made to take over, not there yet
    ASIDE = "aside"  # handed over, or kept to come back


@dataclass(frozen=True, slots=True)
class Observed:
    """One object found in the world that carries our identity (or that the state knows as imported).

    ``fields`` are normalised values of the properties that can be read back; secret ones as :class:`Redacted` (of the
    whole property, or at the leaf: ``env.TOKEN``; an empty digest says that it is there and cannot be read).
    ``defaults`` are the values each property takes when nobody declares it (image configuration, engine defaults): a
    property that equals its default is never drift. ``recorded`` are the digests of the label ``fields``.
    ``hash`` covers identity and fields; it is the precondition of whatever is planned against this object.
    ``healthy`` is None where no health is declared or nobody watches it.

    Besides properties, ``fields`` tells what the planner needs of a kind:

    * Container: ``state`` (``running``, ``paused``, ``exited``, ``created``, ``stopped``), and of one that ended
      ``exit_code``; ``stopped`` is True when somebody asked it to stop. ``image`` is a digest or ends in ``@<digest>``.
    * Repository: ``images``, the digest that each tag refers to (absent: nobody looked; then ``World.remotes`` is asked).
    * Image: ``key`` (see :class:`Forecast`), ``digest``, and ``tags``: the names in the store that point at it for us.
    """

    address: str
    kind: str
    place: str
    uid: str
    id: str
    fields: Mapping[str, Value]
    hash: str
    role: Role = Role.CURRENT
    defaults: Mapping[str, Value] = field(default_factory=dict)
    recorded: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Value] = field(default_factory=dict)
    name: str = ""
    healthy: bool | None = None
    op: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was read, without effect, about a resource whose content is computed: an Image's build.

    ``key`` is the digest of everything that determines the content (definition, context, base). ``outputs`` are given
    where the content is already known (cached), so that dependants can be planned exactly. ``cause`` says in words what
    makes it change (``COPY . . (app/Dockerfile:5) reads app/server.js, which changed; 2 of 7 steps run again``), ``where``
    the place in the definition. ``pushes`` gives what each push costs (``1 of 6 layers, about 12 kB``) by the target as
    declared (``str`` of the value); ``note`` stands for all that are not in it. Any kind may have a forecast just for its
    ``outputs`` (the uri that a repository will have). ``key`` ``""`` says that nobody can know: the base is made by this
    plan. ``problem`` names what will make the operation fail, where that can be known now (base image absent).
    """

    key: str
    outputs: Mapping[str, Value] | None = None
    cause: str = ""
    where: Where | None = None
    note: str = ""
    problem: str = ""
    pushes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """One consistent look at the world for a plan.

    ``objects`` holds everything found under this stack's identity, by address (more than one object where a replacement
    was interrupted); ``forecasts`` by address; ``remotes`` maps a push target outside the stack's repositories
    (``ghcr.io/team/shop:1.0``) to the digest that it refers to now: absent where there is none, None where it could not be
    looked at; ``problems`` by address are troubles that can be known before the apply (a taken
    port); ``calls`` counts the list and read calls the look took, ``looked_at`` the objects.
    """

    objects: Mapping[str, tuple[Observed, ...]] = field(default_factory=dict)
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    remotes: Mapping[str, str | None] = field(default_factory=dict)
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    looked_at: int = 0
    calls: int = 0


class Action(StrEnum):
    """The one effect of an operation."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    BUILD = "build"
    LOAD = "load"  # a root file system becomes an image
    COPY = "copy"  # an image is copied from another registry
    TAG = "tag"
    PUSH = "push"
    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    UNPAUSE = "unpause"


class Reason(StrEnum):
    """Why a field changes."""

    DECLARED = "declared"  # the files changed
    DRIFT = "drift"  # the world changed outside
    REMOVED = "removed"  # no longer declared: goes back to its default
    UPSTREAM = "upstream"  # depends on a value that this plan changes


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs. Secret values are :class:`Redacted`; a value not known yet is :class:`Unknown`."""

    field: str
    before: Value
    after: Value
    reason: Reason
    replaces: bool = False
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One effect that an outside observer could see.

    ``number`` counts from 1 in the order of the plan; ``after`` are the numbers that must have ended well before.
    ``precondition`` is the hash of the observed object (``""``: it must not exist; :data:`FOLLOWS`: an earlier operation
    of this plan made it what it is); an operation whose object differs now fails alone, with its dependants. ``inputs``
    are all declared properties (expressions still in place: values of other operations and secrets are filled in at the
    last moment). ``cause`` is one line for people; ``note`` what it costs the service. ``recovers`` marks an operation
    that finishes what an interrupted run left.
    """

    number: int
    address: str
    kind: str
    place: str
    action: Action
    cause: str
    inputs: Mapping[str, Value] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    after: tuple[int, ...] = ()
    precondition: str = ""
    uid: str = ""
    id: str = ""
    where: Where | None = None
    note: str = ""
    warning: str = ""
    recovers: bool = False
    waits_for: Mapping[str, Condition] = field(default_factory=dict)
    #: Addresses that the resource depends on, to be recorded with it: its deletion waits for theirs.
    depends_on: tuple[str, ...] = ()
    #: What the action needs besides the inputs, so that nobody decides later (JSON values). By action:
    #:
    #: * create, replace: ``name`` on the host. ``gone``: it was there and somebody removed it.
    #: * replace: ``stop_first`` (the old one cannot serve meanwhile), ``keeps_old`` (the old one is set aside, a later
    #:   delete of this plan removes it once its users moved), ``old_role`` ``aside`` (its name is given away already).
    #: * update: ``restore`` (the object left aside becomes the current one again, under ``name``).
    #: * delete: ``leftover`` (the resource itself stays: only this object of it goes), ``tags`` of an Image.
    #: * build, load, copy: ``replace`` (asked for by hand: take nothing from the cache).
    #: * tag: ``add`` and ``remove``, lists of names.
    #: * push: ``target`` (text, or the expression where it is not known yet); filled in it is ``inputs["push"][index]``
    #:   (the inputs of a push name this one target, ``index`` is 0). ``remote``: the digest that the target had when the
    #:   plan was made (``""``: none; None: nobody could look).
    #: * create, replace, start, stop, pause, unpause of a Container: ``desired_state``.
    detail: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan of one stack. ``outputs`` are the stack's outputs as expressions."""

    stack: str
    operations: tuple[Operation, ...]
    #: What addresses that keep their object output now (references to them resolve without an operation).
    known: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    outputs: Mapping[str, Value] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    looked_at: int = 0
    calls: int = 0

    @property
    def empty(self) -> bool:
        return not self.operations
