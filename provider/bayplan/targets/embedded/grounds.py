"""Networks and volumes of an embedded root: what containers stand on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from bayplan.errors import BayplanError
from bayplan.execute.port import Order, Outcome, Stale
from bayplan.plan.model import FOLLOWS, Action, Observed, Value
from bayplan.runtime.containers import Runtime
from bayplan.runtime.net import Network
from bayplan.runtime.volumes import Volume
from bayplan.targets import identity


class NetworkGround:
    """The networks of a root, in the words of plans."""

    def __init__(self, place: str, runtime: Runtime) -> None:
        self._place = place
        self._networks = runtime.networks

    def observe(self, stack: str) -> list[Observed]:
        return [self._seen(one) for one in self._networks.list({identity.STACK: stack})]

    def find(self, name: str) -> Observed | None:
        """A network by its name, or by its id: that is what an import records."""
        found = self._networks.get(name) or self._by_id(name)
        return None if found is None else self._seen(found)

    def owner(self, name: str) -> tuple[str, str] | None:
        """The stack and address of the network of this name (empty: nobody's); None where there is none."""
        found = self._networks.get(name)
        return None if found is None else _owner(found.labels)

    def _seen(self, one: Network) -> Observed:
        fields: dict[str, Value] = {
            "name": one.name,
            "internal": one.internal,
            "labels": identity.own(one.labels),
            "subnet": str(one.subnet),
        }
        defaults: Mapping[str, Value] = {} if one.pinned else {"subnet": str(one.subnet)}
        return Observed(
            address=one.labels.get(identity.ADDRESS, ""),
            kind="Network",
            place=self._place,
            uid=one.labels.get(identity.UID, one.id),
            id=one.id,
            fields=fields,
            hash=identity.object_hash(one.id, fields),
            defaults=defaults,
            recorded=identity.recorded(one.labels),
            outputs=_told(one, "").outputs,
            name=one.name,
            role=identity.role(one.labels),
        )

    def perform(self, order: Order) -> Outcome:
        operation = order.operation
        if operation.action is Action.DELETE:
            found = self._by_id(operation.id)
            if found is not None:
                _check(order, self._seen(found))
                self._networks.remove(found.name)
            return Outcome(gone=not operation.detail.get("leftover"))
        labels = {
            **(order.inputs.get("labels") or {}),
            **identity.labels(order.stack, operation.address, order.uid, order.fields),
        }
        if operation.action in (Action.REPLACE, Action.UPDATE):
            old = self._by_id(operation.id)
            if old is None:
                raise Stale(operation.address, "the network is gone")
            _check(order, self._seen(old))
            if operation.action is Action.UPDATE:
                return _told(self._networks.relabel(old.name, labels), order.uid)
            if old.name != operation.detail["name"]:
                return self._beside(order, old, labels)
            self._networks.remove(old.name)
        return _told(self._make(order, labels), order.uid)

    def _make(self, order: Order, labels: Mapping[str, str]) -> Network:
        return self._networks.create(
            str(order.operation.detail["name"]),
            labels=labels,
            internal=bool(order.inputs.get("internal", False)),
            subnet=order.inputs.get("subnet"),
        )

    def _beside(self, order: Order, old: Network, labels: Mapping[str, str]) -> Outcome:
        """A successor of another name: made beside the old one, which goes now or when its users have moved."""
        self._networks.relabel(old.name, identity.aside(old.labels))
        try:
            made = self._make(order, labels)
        except BayplanError:
            self._networks.relabel(old.name, old.labels)
            raise
        if not order.operation.detail.get("keeps_old"):
            self._networks.remove(old.name)
        return _told(made, order.uid)

    def _by_id(self, id_: str) -> Network | None:
        return next((one for one in self._networks.list() if one.id == id_), None)

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        found = self._by_id(observed.id)
        if found is None:
            raise BayplanError("not-found", f"the network {observed.name} is gone")
        labels = identity.own(found.labels)
        if stack:
            labels.update(identity.labels(stack, address, observed.uid, observed.recorded))
        self._networks.relabel(found.name, labels)


class VolumeGround:
    """The volumes of a root, in the words of plans."""

    def __init__(self, place: str, runtime: Runtime) -> None:
        self._place = place
        self._runtime = runtime
        self._volumes = runtime.volumes

    def observe(self, stack: str) -> list[Observed]:
        return [self._seen(one) for one in self._volumes.list({identity.STACK: stack})]

    def find(self, name: str) -> Observed | None:
        found = self._volumes.get(name)
        return None if found is None else self._seen(found)

    def owner(self, name: str) -> tuple[str, str] | None:
        """The stack and address of the volume of this name (empty: nobody's); None where there is none."""
        found = self._volumes.get(name)
        return None if found is None else _owner(found.labels)

    def _seen(self, one: Volume) -> Observed:
        fields: dict[str, Value] = {"name": one.name, "labels": identity.own(one.labels)}
        uid = one.labels.get(identity.UID, one.name)
        return Observed(
            address=one.labels.get(identity.ADDRESS, ""),
            kind="Volume",
            place=self._place,
            uid=uid,
            id=one.name,
            fields=fields,
            hash=identity.object_hash(uid, one.created, fields),
            recorded=identity.recorded(one.labels),
            outputs=_volume_outputs(one),
            name=one.name,
            role=identity.role(one.labels),
        )

    def perform(self, order: Order) -> Outcome:
        operation = order.operation
        found = self._volumes.get(operation.id) if operation.id else None
        if found is not None:
            _check(order, self._seen(found))
        if operation.action is Action.DELETE:
            if found is not None:
                self._volumes.remove(found.name, self.users())
            return Outcome(gone=not operation.detail.get("leftover"))
        name = str(operation.detail.get("name") or operation.id)
        labels = {
            **(order.inputs.get("labels") or {}),
            **identity.labels(order.stack, operation.address, order.uid, order.fields),
        }
        if operation.action is Action.CREATE:
            made = self._volumes.create(name, labels)
        elif found is None:
            raise Stale(operation.address, "the volume is gone")
        elif operation.action is Action.UPDATE:
            made = self._volumes.relabel(found.name, labels)
        elif found.name == name:
            self._volumes.remove(found.name, self.users())
            made = self._volumes.create(name, labels)
        else:
            made = self._beside(order, found, name, labels)
        return Outcome(uid=order.uid, id=made.name, outputs=_volume_outputs(made))

    def _beside(self, order: Order, old: Volume, name: str, labels: Mapping[str, str]) -> Volume:
        """A successor of another name: made beside the old one, which goes now or when its users have moved."""
        self._volumes.relabel(old.name, identity.aside(old.labels))
        try:
            made = self._volumes.create(name, labels)
            if not order.operation.detail.get("keeps_old"):
                self._volumes.remove(old.name, self.users())
        except BayplanError:
            self._volumes.relabel(old.name, old.labels)
            raise
        return made

    def users(self) -> dict[str, list[str]]:
        """Volume -> names of the containers that mount it."""
        found: dict[str, list[str]] = {}
        for one in self._runtime.list():
            for mount in one.spec.mounts:
                if mount.type == "volume":
                    found.setdefault(mount.source, []).append(one.name)
        return found

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        with suppress(KeyError):
            labels = identity.own((self._volumes.get(observed.id) or _gone(observed)).labels)
            if stack:
                labels.update(identity.labels(stack, address, observed.uid, observed.recorded))
            self._volumes.relabel(observed.id, labels)


def _owner(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get(identity.STACK, ""), labels.get(identity.ADDRESS, "")


def _told(one: Network, uid: str) -> Outcome:
    return Outcome(uid=uid, id=one.id, outputs={"name": one.name, "id": one.id, "subnet": str(one.subnet)})


def _gone(observed: Observed) -> Volume:
    raise BayplanError("not-found", f"the volume {observed.name} is gone")


def _volume_outputs(one: Volume) -> dict[str, Value]:
    return {"name": one.name, "mountpoint": str(one.path)}


def _check(order: Order, observed: Observed) -> None:
    if order.operation.precondition not in (FOLLOWS, observed.hash):
        raise Stale(order.operation.address, f"the {observed.kind.lower()} is not what it was")
