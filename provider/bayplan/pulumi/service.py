"""The servicer: Pulumi's calls, each a few lines over :mod:`.checking` (pure) and :mod:`.works` (the engine)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayplan import __version__
from bayplan.errors import BayplanError
from bayplan.pulumi import faults
from bayplan.pulumi.checking import GROUND, Difference, Sealed, changed, check, compare, seal
from bayplan.pulumi.names import ADDRESS, CONTENT, kind_of, output_name, outward
from bayplan.pulumi.protocol import Empty, plugin_pb2, provider_pb2, provider_pb2_grpc
from bayplan.pulumi.talk import Talk
from bayplan.pulumi.values import UNKNOWN, decode, encode, plain, unknown_paths
from bayplan.pulumi.works import Identity, Standing, Where, Works
from bayplan.records import dataclass

if TYPE_CHECKING:
    from bayplan.execute.walk import Cancel as Wish

SCHEMA = Path(__file__).with_name("schema_generated.json")
#: Top-level keys of the provider's configuration that are maps: JSON text where a language host flattens them.
_MAPS = ("hosts", "registries")
_KINDS = {
    (change, replaces): getattr(provider_pb2.PropertyDiff, f"{change.upper()}{'_REPLACE' if replaces else ''}")
    for change in ("add", "delete", "update")
    for replaces in (False, True)
}


@dataclass(frozen=True, slots=True)
class Named:
    """A resource by its urn: ``urn:pulumi:STACK::PROJECT::PARENT$TYPE::NAME``."""

    urn: str
    stack: str
    project: str
    kind: str
    name: str

    @classmethod
    def of(cls, urn: str) -> Named:
        head, project, type_, name = urn.split("::", 3)
        return cls(urn, head.rpartition(":")[2], project, kind_of(type_.rpartition("$")[2]), name)


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """``folder`` is where relative paths start: the program's folder, in which Pulumi starts its providers."""

    def __init__(self, engine_address: str, folder: Path) -> None:
        self._talk = Talk(engine_address)
        self._folder = folder
        self._stack = ""
        self._works: Works | None = None
        self._running: set[Wish] = set()
        self._guard = threading.Lock()
        # Of one command (between two Configures): the resources that Pulumi knows from before, and the ids of objects that a
        # Create found. A Create of one of the former is the first half of a replacement; a Delete of one of the latter is
        # the second half, and would remove what the first half kept.
        self._known: set[str] = set()
        self._kept: set[str] = set()

    # -- the plugin ------------------------------------------------------------------------------------------------

    @faults.told
    def Handshake(self, request: Any, context: Any) -> Any:
        if request.engine_address:
            self._talk = Talk(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    def Attach(self, request: Any, context: Any) -> Any:
        self._talk = Talk(request.address)
        return Empty()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=__version__)

    def GetSchema(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetSchemaResponse(schema=SCHEMA.read_text(encoding="utf-8"))

    def GetMapping(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetMappingResponse()

    def GetMappings(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetMappingsResponse()

    def Cancel(self, request: Any, context: Any) -> Any:
        """Stops what is running now; calls that come later are not touched (an attached server outlives a command)."""
        self.stop()
        return Empty()

    def stop(self) -> None:
        """Ask all effects that are under way to end."""
        with self._guard:
            for cancel in self._running:
                cancel.set()

    # -- the provider's configuration ------------------------------------------------------------------------------

    @faults.told
    def CheckConfig(self, request: Any, context: Any) -> Any:
        news = decode(request.news)
        failures = []
        for name in _MAPS:
            value = plain(news.get(name))
            try:
                _as_map(value)
            except ValueError as error:
                failures.append(provider_pb2.CheckFailure(property=name, reason=str(error)))
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    @faults.told
    def DiffConfig(self, request: Any, context: Any) -> Any:
        """Another root or stack is another world: what stands in the old one has to be made in the new one."""
        old, new = plain(decode(request.old_inputs or request.olds)), plain(decode(request.news))
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        replaces = [name for name in names if name in ("root", "stack")]
        changes = provider_pb2.DiffResponse.DIFF_SOME if names else provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(changes=changes, diffs=names, replaces=replaces)

    @faults.told
    def Configure(self, request: Any, context: Any) -> Any:
        given = {name: value for name, value in plain(decode(request.args)).items() if value is not UNKNOWN}
        self._stack = str(given.get("stack") or "")
        self._known.clear()
        self._kept.clear()
        places = {name: given.get(name) for name in ("root", "state")}
        self._works = Works(_where(places, self._folder))
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @property
    def works(self) -> Works:
        if self._works is None:
            raise BayplanError("not-configured", "the provider was not configured before it was used")
        return self._works

    def _identity(self, one: Named, inputs: Mapping[str, Any]) -> Identity:
        stack = self._stack or f"{one.project}-{one.stack}"
        return Identity(stack, f"{one.kind}.{plain(inputs.get(ADDRESS)) or one.name}")

    # -- without effect --------------------------------------------------------------------------------------------

    @faults.told
    def Check(self, request: Any, context: Any) -> Any:
        one = Named.of(request.urn)
        inputs = decode(request.news)
        if request.olds.fields:
            self._known.add(one.urn)
        failures = [
            provider_pb2.CheckFailure(property=found.path, reason=found.reason)
            for found in check(one.kind, str(plain(inputs.get(ADDRESS)) or one.name), inputs)
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    @faults.told
    def Diff(self, request: Any, context: Any) -> Any:
        one = Named.of(request.urn)
        self._known.add(one.urn)
        state = decode(request.olds)
        before = decode(request.old_inputs) if request.HasField("old_inputs") else state
        after = decode(request.news)
        found = compare(one.kind, before, after)
        found.extend(self._content_change(one, state, after))
        replaces = [each.path for each in found if each.replaces]
        grounded = one.kind in GROUND and bool(replaces) and not any(_top(path) == "name" for path in replaces)
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if found else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=list(dict.fromkeys(_top(each.path) for each in found)),
            replaces=list(dict.fromkeys(map(_top, replaces))),
            deleteBeforeReplace=grounded,
            detailedDiff={
                each.path: provider_pb2.PropertyDiff(kind=_KINDS[each.change, each.replaces], inputDiff=each.input)
                for each in found
            },
            hasDetailedDiff=True,
        )

    def _content_change(self, one: Named, state: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
        """An image whose definition reads other files than when it was made."""
        known = state.get(CONTENT)
        if one.kind != "Image" or not known or any(unknown_paths(after)):
            return []
        now = self.works.content(self._identity(one, after).stack, f"Image.{one.name}", seal(one.kind, after))
        path = "rootfs" if "rootfs" in after else "build.context"
        return [Difference(path, "update", replaces=False, input=False)] if now and now != known else []

    # -- effects ---------------------------------------------------------------------------------------------------

    @faults.told
    def Create(self, request: Any, context: Any) -> Any:
        one = Named.of(request.urn)
        inputs = decode(request.properties)
        identity = self._identity(one, inputs)
        if request.preview:
            return provider_pb2.CreateResponse(properties=encode(_foreseen(one.kind, identity, inputs, {}, None)))
        sealed = seal(one.kind, inputs)
        with self._cancel(request.timeout) as cancel:
            replacing = one.urn in self._known
            came = self.works.make(identity, sealed, self._talk.sink(one.urn), cancel, replacing=replacing)
        if came.standing is None:
            raise _failed(came.reasons, cancelled=came.cancelled)
        if came.kept:
            self._kept.add(str(came.standing.id))
        state = self._state(one.kind, identity, inputs, sealed, came.standing)
        if came.reasons:
            faults.half_done(context, str(came.standing.id), state, inputs, came.reasons)
        return provider_pb2.CreateResponse(id=str(came.standing.id), properties=encode(state))

    @faults.told
    def Update(self, request: Any, context: Any) -> Any:
        one = Named.of(request.urn)
        inputs, olds = decode(request.news), decode(request.olds)
        before = decode(request.old_inputs) if request.HasField("old_inputs") else olds
        identity = Identity.parse(request.id)
        fields = frozenset(changed(one.kind, before, inputs))
        if request.preview:
            return provider_pb2.UpdateResponse(
                properties=encode(_foreseen(one.kind, identity, inputs, olds, fields if fields else None))
            )
        sealed = seal(one.kind, inputs)
        with self._cancel(request.timeout) as cancel:
            came = self.works.change(identity, sealed, fields, self._talk.sink(one.urn), cancel)
        if came.standing is None:
            raise _failed(came.reasons, cancelled=came.cancelled)
        state = self._state(one.kind, identity, inputs, sealed, came.standing)
        if came.reasons:
            faults.half_done(context, str(came.standing.id), state, inputs, came.reasons)
        left = sorted(came.standing.drift)
        if left:
            self._talk.warn(one.urn, f"changed outside and left as it is: {', '.join(left)} (pulumi refresh shows it)")
        return provider_pb2.UpdateResponse(properties=encode(state))

    @faults.told
    def Delete(self, request: Any, context: Any) -> Any:
        one = Named.of(request.urn)
        if request.id in self._kept:
            return Empty()
        inputs = decode(request.old_inputs) if request.HasField("old_inputs") else decode(request.properties)
        with self._cancel(request.timeout) as cancel:
            reasons = self.works.remove(
                Identity.parse(request.id), seal(one.kind, inputs), self._talk.sink(one.urn), cancel
            )
        if reasons:
            raise _failed(reasons, cancelled=cancel.is_set)
        return Empty()

    @faults.told
    def Read(self, request: Any, context: Any) -> Any:
        """With inputs it is a refresh, without an import. The id is ``""`` only where nothing stands there."""
        one = Named.of(request.urn)
        identity = Identity.parse(request.id)
        inputs = decode(request.inputs)
        sealed = seal(one.kind, inputs) if inputs else None
        found = self.works.look(identity, sealed)
        if found is None:
            return provider_pb2.ReadResponse()
        state = decode(request.properties)
        if sealed is None:
            known = {name: found.fields[name] for name in found.declared if name in found.fields}
            inputs = outward(one.kind, _readable(known))
            sealed = seal(one.kind, inputs)
            content = self.works.content(identity.stack, identity.address, sealed)
        else:
            moved = outward(one.kind, found.drift)
            inputs = {**inputs, **{name: value for name, value in moved.items() if value is not None}}
            content = str(plain(state.get(CONTENT)) or "")
        told = {**inputs, **_outputs(one.kind, found.outputs, content)}
        return provider_pb2.ReadResponse(id=str(found.id), properties=encode(told), inputs=encode(inputs))

    # -- data sources ----------------------------------------------------------------------------------------------

    @faults.told
    def Invoke(self, request: Any, context: Any) -> Any:
        """``bayplan:index:getContainer`` and the like: what an object of the host gives, by its name there."""
        kind = kind_of(request.tok.replace(":get", ":"))
        name = plain(decode(request.args)).get("name")
        if not isinstance(name, str) or not name:
            failure = provider_pb2.CheckFailure(property="name", reason=f"name: the {kind.lower()}'s name is missing")
            return provider_pb2.InvokeResponse(failures=[failure])
        found = self.works.find(kind, name)
        told = {output_name(kind, key): value for key, value in found.items()}
        return provider_pb2.InvokeResponse(**{"return": encode(told)})

    def _state(
        self, kind: str, identity: Identity, inputs: Mapping[str, Any], sealed: Sealed, found: Standing
    ) -> dict[str, Any]:
        content = self.works.content(identity.stack, identity.address, sealed)
        return {**inputs, **_outputs(kind, found.outputs, content)}

    @contextmanager
    def _cancel(self, timeout: float) -> Iterator[Wish]:
        """A wish to stop that Cancel and the ``timeout`` (seconds; 0: none) of a call can make."""
        from bayplan.execute.walk import Cancel as Wish

        cancel = Wish()
        timer = threading.Timer(timeout, cancel.set) if timeout else None
        with self._guard:
            self._running.add(cancel)
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            yield cancel
        finally:
            if timer is not None:
                timer.cancel()
            with self._guard:
                self._running.discard(cancel)


def _where(places: Mapping[str, Any], folder: Path) -> Where:
    from argparse import Namespace

    from bayplan.cli.options import root_folder, state_folder

    arguments = Namespace(**places)
    return Where(root_folder(arguments), state_folder(arguments), folder)


def _as_map(value: Any) -> Mapping[str, Any]:
    """A map, or JSON text of one. Raises ValueError."""
    if value is None or value is UNKNOWN:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"must be a map, or JSON text of one: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("must be a map, or JSON text of one")
    return value


def _top(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]


def _failed(reasons: tuple[str, ...], *, cancelled: bool) -> BayplanError:
    return BayplanError("cancelled" if cancelled else "cannot-apply", "; ".join(reasons) or "nothing stands there")


def _outputs(kind: str, outputs: Mapping[str, Any], content: str) -> dict[str, Any]:
    told = {output_name(kind, name): value for name, value in outputs.items()}
    return {**told, CONTENT: content} if kind == "Image" else told


def _foreseen(
    kind: str,
    identity: Identity,
    inputs: Mapping[str, Any],
    before: Mapping[str, Any],
    fields: frozenset[str] | None,
) -> dict[str, Any]:
    """What a preview can say: the inputs, a name that follows from them, and what an update leaves as it was. The rest is
    left out, which means not known yet. ``fields`` None: everything that is computed may change."""
    from bayplan import kinds

    told = dict(inputs)
    computed = {output_name(kind, name) for name in kinds.load()[kind].outputs} - inputs.keys()
    if "name" in computed and kind != "Repository":
        told["name"] = f"{identity.stack}-{identity.address.partition('.')[2]}"
    content = {"build", "rootfs", "copy"} if kind == "Image" else set()
    if before and fields is not None and not content & fields:
        told.update({name: before[name] for name in (*computed, CONTENT) if name in before})
    return {**told, **dict.fromkeys(computed - told.keys(), UNKNOWN)}


def _readable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values as an import can give them: what is secret, or cannot be read, is left out."""
    from bayplan.plan.model import Redacted

    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Redacted) or value is None:
            continue
        if isinstance(value, Mapping):
            found[name] = {key: one for key, one in value.items() if not isinstance(one, Redacted)}
        else:
            found[name] = value
    return found
