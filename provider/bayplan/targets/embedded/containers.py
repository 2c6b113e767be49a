"""Containers of an embedded root: one list call to see them all, and the effects of a plan on one.

While a replacement is under way two containers bear one address. Which is which stands in their names, as the runtime's
hand-over leaves them: ``NAME.next-UID`` has not taken over yet, ``NAME.aside-UID`` has handed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from bayplan.errors import BayplanError
from bayplan.execute.port import Feedback, Order, Outcome, Stale
from bayplan.kinds import values
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image
from bayplan.oci.reference import ImageName
from bayplan.oci.store import Store
from bayplan.plan.model import FOLLOWS, Action, Desired, Observed, Redacted, Role, Value
from bayplan.runtime.container import Container, State
from bayplan.runtime.containers import Runtime
from bayplan.runtime.spec import ContainerSpec, Port, RestartPolicy
from bayplan.targets import identity
from bayplan.targets.embedded.translate import defaults_of, fields_of, spec_of

_ROLE = re.compile(r"(.+)\.(next|aside)-[0-9a-f]{16}")
_STATES = {State.CREATED: "created", State.RUNNING: "running", State.PAUSED: "paused", State.RESTARTING: "running"}
#: (host port, protocol) -> (address of this machine, who declares it).
Wanted = Mapping[tuple[int, str], Sequence[tuple[str, str]]]
_SETTLE = 0.3  # seconds that a container without a health check must stay up to count as started


class Containers:
    """The containers of a root, in the words of plans. ``fetch`` brings an image's digest into the store."""

    def __init__(
        self,
        place: str,
        runtime: Runtime,
        store: Store,
        digest: Callable[[Value], str],
        fetch: Callable[[str, Feedback], Digest],
    ) -> None:
        self._place = place
        self._runtime = runtime
        self._store = store
        self._digest = digest
        self._fetch = fetch
        self._made: dict[str, Digest] | None = None

    # -- looking ---------------------------------------------------------------------------------------------------

    def observe(self, stack: str) -> list[Observed]:
        """Every container under the stack's identity."""
        self._made = None
        return [self._seen(one) for one in self._runtime.list({identity.STACK: stack})]

    def by_id(self, reference: str) -> Observed | None:
        """A container whoever made it, by name or id."""
        found = self._runtime.get(reference)
        return None if found is None else self._seen(found)

    def _seen(self, one: Container) -> Observed:
        address = one.labels.get(identity.ADDRESS, "")
        name, role = role_of(one.name)
        config = self._defaults(one)
        fields = {**config, **fields_of(one.spec, labels=identity.own(one.labels), alias=alias_of(address))}
        fields["env"] = self._env(one, config)
        fields["image"] = one.spec.image
        fields["name"] = name
        fields["state"] = _STATES.get(one.state, "exited")
        if fields["state"] == "exited":
            fields["exit_code"] = one.status.exit_code
            fields["stopped"] = one.status.stopped
        return Observed(
            address=address,
            kind="Container",
            place=self._place,
            uid=one.labels.get(identity.UID, one.id[:16]),
            id=one.id,
            fields=fields,
            hash=hash_of(one),
            role=role,
            defaults=config,
            recorded=identity.recorded(one.labels),
            outputs=outputs_of(one),
            name=one.name,
            healthy={"healthy": True, "unhealthy": False}.get(one.health.status),
        )

    def _env(self, one: Container, config: Mapping[str, Value]) -> dict[str, Value]:
        env: dict[str, Value] = {**(config.get("env") or {}), **one.spec.env}
        if one.spec.secret_env:
            whole = self._runtime.declared(one.id).env
            env.update({name: Redacted(self._digest(whole[name])) for name in one.spec.secret_env})
        return env

    def _defaults(self, one: Container) -> dict[str, Value]:
        try:
            config = Image.load(self._store, Digest.parse(one.spec.image)).config
        except BayplanError:
            return {}  # its image is gone from the store; what it declares can still be compared
        return defaults_of(config, one.id)

    def problems(
        self,
        desired: Desired,
        taken: Mapping[str, Container],
        ours: Sequence[Observed],
        keeping: Mapping[tuple[str, str], Desired],
        wanted: Wanted,
    ) -> list[str]:
        """Troubles that an apply would meet: a foreign container of this name, a port that somebody else holds.

        ``keeping`` are the declared containers by (stack, address). One of this stack that is to have another name or
        port, or to go, is no trouble: the plan makes room in its order. ``wanted``: :func:`wanted_ports` of them all.
        """
        found: list[str] = []

        def keeper(one: Container) -> Desired | None:
            return keeping.get((one.labels.get(identity.STACK, ""), one.labels.get(identity.ADDRESS, "")))

        stacks = {stack for stack, _ in keeping}
        # One that bears this very identity was made since the look, by an apply that is under way: no trouble either.
        mine = {one.id for one in ours} | {one.id for one in taken.values() if keeper(one) is desired}
        peers = {i: o for o in taken.values() if (i := o.id) in mine or o.labels.get(identity.STACK) in stacks}
        other = taken.get(desired.name)
        if other is not None and other.id not in mine:
            whose = other.labels.get(identity.STACK)
            kept = keeper(other)
            if other.id not in peers or (kept is not None and kept.name == desired.name):
                owner = f"{other.labels.get(identity.ADDRESS)} of the stack {whose}" if whose else "nobody's"
                found.append(
                    f"a container named {desired.name} exists and is {owner}: import it, or choose another name"
                )
        ports = [_port(text) for text in desired.properties.get("ports") or () if isinstance(text, str)]
        running = any(one.fields.get("state") in ("running", "paused") for one in ours)
        for port in ports:
            rivals = [other for other in _rivals(port, wanted) if other != desired.address]
            if rivals:
                found.append(f"host port {port.host}/{port.protocol} is declared by {', '.join(rivals)} too")
        if ports and (not running or not _same_ports(ports, ours)):
            for port in ports:
                giving = [id for id, one in peers.items() if id in mine or not _declares(keeper(one), port)]
                found.extend(self._runtime.networks.check_ports([port], besides=giving))
        return list(dict.fromkeys(found))

    def everything(self) -> dict[str, Container]:
        """All containers of the root by name, for the search of foreign ones."""
        return {one.name: one for one in self._runtime.list()}

    def made_from(self, name: ImageName) -> Digest | None:
        """The image that the newest container was made from under this name, while it is whole in the store.

        What was pulled bears no name of its own here; what runs of it is what the host has. As of the last look.
        """
        if self._made is None:
            self._made = {}
            for one in sorted(self._runtime.list(), key=lambda one: one.created):
                given = one.spec.image_name
                if given and not given.startswith("sha256:"):
                    self._made[ImageName.parse(given).canonical()] = Digest.parse(one.spec.image)
        digest = self._made.get(name.canonical())
        return digest if digest is not None and self._store.has(digest) else None

    # -- acting ----------------------------------------------------------------------------------------------------

    def perform(self, order: Order, feedback: Feedback) -> Outcome:
        action = order.operation.action
        if action is Action.CREATE:
            return self._create(order, feedback)
        if action is Action.REPLACE:
            return self._replace(order, feedback)
        if action is Action.DELETE:
            return self._delete(order)
        one = self._checked(order)
        if action is Action.UPDATE:
            return self._update(order, one)
        steps: Mapping[Action, Callable[[str], object]] = {
            Action.START: self._runtime.start,
            Action.STOP: self._runtime.stop,
            Action.PAUSE: self._runtime.pause,
            Action.UNPAUSE: self._runtime.unpause,
        }
        # The record first: a crash between the two leaves a container to be brought to the recorded state, which the next
        # plan sees; the other way round nobody would see that the record is behind.
        self._relabel(one, order)
        steps[action](one.id)
        if action is Action.START and order.operation.detail.get("desired_state", "running") == "running":
            self._settle(one.id, order, feedback)
        return self._told(one.id)

    def _checked(self, order: Order) -> Container:
        """The container of an operation, as it is now. Raises Stale where it is not what was planned against."""
        operation = order.operation
        one = self._runtime.get(operation.id) if operation.id else None
        if one is None and operation.precondition == FOLLOWS:
            one = self._current(order)
        if one is None:
            raise Stale(operation.address, "the container is gone")
        if operation.precondition not in (FOLLOWS, hash_of(one)):
            raise Stale(operation.address, "the container is not what it was")
        return one

    def _current(self, order: Order) -> Container | None:
        wanted = {identity.STACK: order.stack, identity.ADDRESS: order.operation.address}
        return next((one for one in self._runtime.list(wanted) if role_of(one.name)[1] is Role.CURRENT), None)

    def _spec(self, order: Order, name: str, feedback: Feedback) -> ContainerSpec:
        digest = self._fetch(str(order.inputs["image"]), feedback)
        hidden = frozenset(entry.partition(".")[2] for entry in order.secrets if entry.startswith("env."))
        if "env" in order.secrets:
            hidden = frozenset(order.inputs.get("env") or ())
        return spec_of(
            order.inputs,
            name=name,
            digest=str(digest),
            labels=identity.labels(order.stack, order.operation.address, order.uid, order.fields),
            secret=hidden,
            alias=alias_of(order.operation.address),
        )

    def _create(self, order: Order, feedback: Feedback) -> Outcome:
        operation = order.operation
        if operation.precondition == "" and self._current(order) is not None:
            raise Stale(operation.address, "a container under this identity is there already")
        with self._store.lease():
            made = self._runtime.create(self._spec(order, str(operation.detail["name"]), feedback))
        try:
            self._bring_up(made, order, feedback)
        except BayplanError as error:
            if error.code in ("cancelled", "port-taken"):
                self._runtime.remove(made, force=True)
            raise
        return self._told(made)

    def _replace(self, order: Order, feedback: Feedback) -> Outcome:
        old = self._checked(order)
        if order.operation.detail.get("stop_first"):
            return self._replace_stopped(order, old, feedback)
        name = str(order.operation.detail["name"])
        current, role = role_of(old.name)
        with self._store.lease():
            made = self._runtime.create(self._spec(order, f"{name}.next-{order.uid}", feedback), succeeds=old.id)
        try:
            self._bring_up(made, order, feedback)
            feedback.progress("takes over")
            if role is Role.CURRENT and current == name:
                self._runtime.hand_over(old.id, made, f"{name}.aside-{order.uid}")
            else:
                # The old one bears another name (declared otherwise now, or set aside): nothing to change places with.
                self._runtime.hand_over(old.id, made, f"{current}.aside-{order.uid}")
                self._runtime.rename(made, name)
        except BayplanError:
            # The old one never stopped serving: the new one goes, and all is as it was.
            with suppress(BayplanError):
                self._runtime.remove(made, force=True)
            raise
        if not order.operation.detail.get("keeps_old"):
            self._end(old.id)
        return self._told(made)

    def _replace_stopped(self, order: Order, old: Container, feedback: Feedback) -> Outcome:
        """Where two cannot stand side by side: the old one waits aside, and comes back if the new one fails."""
        name = str(order.operation.detail["name"])
        was_running = old.running
        with self._store.lease():
            spec = self._spec(order, name, feedback)
            feedback.progress("the old one stops")
            self._runtime.stop(old.id)
            if role_of(old.name)[1] is Role.CURRENT:
                self._runtime.rename(old.id, f"{name}.aside-{order.uid}")
            made = ""
            try:
                made = self._runtime.create(spec)
                self._bring_up(made, order, feedback)
            except BayplanError:
                if made:
                    self._runtime.remove(made, force=True)
                self._runtime.rename(old.id, name)
                if was_running:
                    self._runtime.start(old.id)
                raise
        if not order.operation.detail.get("keeps_old"):
            self._end(old.id)
        return self._told(made)

    def _bring_up(self, made: str, order: Order, feedback: Feedback) -> None:
        """Start a new container as far as its declared state says, and see it stay."""
        wanted = str(order.operation.detail.get("desired_state", "running"))
        if wanted == "stopped":
            return
        self._runtime.start(made)
        self._settle(made, order, feedback)
        if wanted == "paused":
            self._runtime.pause(made)

    def _settle(self, container: str, order: Order, feedback: Feedback) -> None:
        """Healthy where there is a health check, else still up after a moment. Raises BayplanError."""
        timeout = float(order.inputs.get("wait_timeout", 60.0))
        effective = self._runtime.inspect(container).effective
        if effective.health is not None:
            if order.operation.action is not Action.REPLACE:
                feedback.started(outputs_of(self._runtime.inspect(container)))
            feedback.progress("waits until it is healthy")
            self._runtime.wait_healthy(container, timeout=timeout, cancel=lambda: feedback.cancelled)
        else:
            self._runtime.wait_started(container, settle=_SETTLE)
        if feedback.cancelled:
            raise BayplanError("cancelled", "stopped before it was up")

    def _update(self, order: Order, one: Container) -> Outcome:
        inputs = order.inputs
        if order.operation.detail.get("restore"):
            self._runtime.rename(one.id, str(order.operation.detail["name"]))
        restart = values.parse_restart(str(inputs.get("restart", "no")))
        limits = {name: inputs.get(name) for name in ("memory", "cpus", "pids_limit")}
        policy: dict[str, Any] = {"restart": RestartPolicy(restart.policy), "restart_retries": restart.retries}
        # What the plan does not say stays: a limit that is ignored, or that somebody else set and nobody declared.
        named = {change.field for change in order.operation.changes}
        given: dict[str, Any] = {name: value for name, value in limits.items() if name in named}
        self._runtime.update(one.id, labels=self._labels(one, order), **given, **(policy if "restart" in named else {}))
        return self._told(one.id)

    def _relabel(self, one: Container, order: Order) -> None:
        labels = self._labels(one, order)
        if labels != dict(one.labels):
            self._runtime.update(one.id, labels=labels)

    def _labels(self, one: Container, order: Order) -> dict[str, str]:
        uid = one.labels.get(identity.UID, order.uid)
        ours = identity.labels(order.stack, order.operation.address, uid, order.fields, one.labels.get(identity.OP, ""))
        return {**identity.own(one.labels), **ours}

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        """Another identity for a container, or none."""
        one = self._runtime.inspect(observed.id)
        labels = identity.own(one.labels)
        if stack:
            labels.update(identity.labels(stack, address, observed.uid, observed.recorded))
        self._runtime.update(one.id, labels=labels)

    def _delete(self, order: Order) -> Outcome:
        operation = order.operation
        gone = not operation.detail.get("leftover")
        if self._runtime.get(operation.id) is None:
            return Outcome(gone=gone)
        self._end(self._checked(order).id)
        return Outcome(gone=gone)

    def _end(self, container: str) -> None:
        self._runtime.stop(container)
        self._runtime.remove(container, force=True)

    def _told(self, container: str) -> Outcome:
        one = self._runtime.inspect(container)
        return Outcome(uid=one.labels.get(identity.UID, ""), id=one.id, outputs=outputs_of(one))


def role_of(name: str) -> tuple[str, Role]:
    """The declared name that a container's name is made of, and its part in a replacement."""
    found = _ROLE.fullmatch(name)
    if found is None:
        return name, Role.CURRENT
    return found[1], Role.NEXT if found[2] == "next" else Role.ASIDE


def alias_of(address: str) -> str:
    """The short name by which containers of a stack reach each other: ``db`` for ``Container.db``."""
    short = address.partition(".")[2]
    return short if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", short) else ""


def hash_of(one: Container) -> str:
    """What a plan is made against: identity, specification, name and state; not how healthy it is."""
    state = _STATES.get(one.state, "exited")
    return identity.object_hash(one.id, one.name, state, repr(one.spec))


def outputs_of(one: Container) -> dict[str, Value]:
    """``id``, ``name``, ``ip_address``, ``ports`` as the schema says."""
    ports = [str(values.Port(container, host, ip, protocol)) for container, host, ip, protocol in one.status.ports]
    return {
        "id": one.id,
        "name": role_of(one.name)[0],
        "ip_address": next(iter(one.status.addresses.values()), ""),
        "ports": ports,
    }


def _port(text: str) -> Port:
    found = values.parse_port(text)
    return Port(found.container, found.host, found.host_ip, found.protocol)


def _same_ports(ports: Sequence[Port], ours: Sequence[Observed]) -> bool:
    """Whether running containers of this address hold all these host ports already."""
    held = {(p.host_ip, p.host, p.protocol) for one in ours for p in map(_port, one.fields.get("ports") or ())}
    return all((port.host_ip, port.host, port.protocol) in held for port in ports if port.host)


def wanted_ports(desired: Iterable[Desired]) -> Wanted:
    """Every host port that is declared for a container that is to run, with the address and who declares it."""
    found: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for one in desired:
        if one.properties.get("desired_state", "running") == "stopped":
            continue
        for port in [_port(text) for text in one.properties.get("ports") or () if isinstance(text, str)]:
            if port.host:
                found.setdefault((port.host, port.protocol), []).append((port.host_ip, one.address))
    return found


def _rivals(port: Port, wanted: Wanted) -> list[str]:
    """Who declares a host port that cannot be had beside ``port``."""
    everywhere = ("", "0.0.0.0")  # noqa: S104  (an address to compare with)
    return [
        address
        for ip, address in wanted.get((port.host, port.protocol), ())
        if ip == port.host_ip or ip in everywhere or port.host_ip in everywhere
    ]


def _declares(desired: Desired | None, port: Port) -> bool:
    """Whether a declared container goes on to publish this host port."""
    texts = desired.properties.get("ports") or () if desired is not None else ()
    held = {(one.host, one.protocol) for one in (_port(text) for text in texts if isinstance(text, str))}
    return (port.host, port.protocol) in held
