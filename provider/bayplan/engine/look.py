"""One look at the world for one plan: what stands there, what the definitions of images would give, what names mean.

Places are looked at side by side, each by a few list calls; then images are forecast in the order of their edges, so that a
``FROM`` of a tag which another Image declares is known where that Image is; last the image names that containers give are
resolved to digests. Nothing here has an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from bayplan.engine.definitions import Definitions, canonical, declared_tags, references, with_bases
from bayplan.errors import BayplanError
from bayplan.execute.values import holds_secret, resolve
from bayplan.kinds.expressions import Template
from bayplan.plan.model import Desired, Forecast, Observed, Recorded, Role, Value, World
from bayplan.records import replace
from bayplan.targets.model import Place, Sight


def look(
    definitions: Definitions,
    places: Mapping[str, Place],
    recorded: Iterable[Recorded],
    *,
    forecasts: bool = True,
) -> tuple[dict[str, Desired], World]:
    """The desired resources with what only a look can tell filled in, and the world.

    ``forecasts=False`` leaves images and names alone (a destroy needs neither).
    """
    desired = dict(definitions.desired)
    sights = _observe(definitions, places, recorded)
    # A resource that moves stands in two places for a while.
    objects: dict[str, tuple[Observed, ...]] = {}
    for sight in sights:
        for address, found in sight.objects.items():
            objects[address] = objects.get(address, ()) + found
    problems: dict[str, tuple[str, ...]] = {}
    for sight in sights:
        for address, texts in sight.problems.items():
            problems[address] = problems.get(address, ()) + texts
    predicted: Mapping[str, Forecast] = {}
    remotes: dict[str, str | None] = {}
    if forecasts:

        def foretold(one: Desired) -> Forecast | None:
            return places[one.place].forecast(definitions.stack, one, current(objects, one.address), lambda _: None)

        images = _forecast(definitions.stack, desired, places, objects, declared_tags(definitions))
        repositories = {address: one for address, one in desired.items() if one.kind == "Repository"}
        predicted = _Forecasts(images, repositories, foretold)
        if images:
            remotes = _remotes(desired, places, objects, predicted)
        for address, one in [pair for pair in desired.items() if pair[1].kind == "Container"]:
            try:
                pinned = _pinned(_spelt(one, desired, foretold), places[one.place])
            except BayplanError as error:
                text = f"image '{one.properties.get('image')}': {error.message}"
                problems[address] = (*problems.get(address, ()), text)
                continue
            if pinned is not None:
                desired[address] = pinned
    world = World(
        objects=objects,
        forecasts=predicted,
        remotes=remotes,
        problems=problems,
        warnings=tuple(warning for sight in sights for warning in sight.warnings) if forecasts else (),
        looked_at=sum(sight.looked_at for sight in sights),
        calls=sum(sight.calls for sight in sights),
    )
    return desired, world


def _spelt(one: Desired, desired: Mapping[str, Desired], foretold: Callable[[Desired], Forecast | None]) -> Desired:
    """A container whose image's name is said by way of repositories, with the name that comes to."""
    image = one.properties.get("image")
    owners = references(image) if isinstance(image, Template) else set()
    if not owners or any(owner not in desired or desired[owner].kind != "Repository" for owner in owners):
        return one
    known = {
        owner: forecast.outputs
        for owner in owners
        if (forecast := foretold(desired[owner])) is not None and forecast.outputs is not None
    }
    return replace(one, properties={**one.properties, "image": str(resolve(image, known, _no_secret))})


def _pinned(one: Desired, place: Place) -> Desired | None:
    """A container whose image's name is pinned to the digest that it means here (a digest that is an index means the image
    for this host); None where nothing is to be pinned.

    Raises BayplanError where no one has the image, or ``pull_policy: never`` forbids to fetch it.
    """
    image = one.properties.get("image")
    policy = str(one.properties.get("pull_policy", "missing"))
    if not isinstance(image, str):
        return None
    digest = place.resolve_image(image, policy)
    if digest is not None:
        return replace(one, properties={**one.properties, "image": f"{image.partition('@')[0]}@{digest}"})
    if policy == "never":
        message = f"the image '{image}' is not on this host, and pull_policy never forbids to fetch it"
        raise BayplanError("image-not-found", message)
    raise BayplanError("image-not-found", f"there is no image '{image}' to be had")


class _Forecasts(Mapping[str, Forecast]):
    """Those of Images, which are made; those of Repositories are only asked for where one is to be made."""

    def __init__(
        self,
        images: Mapping[str, Forecast],
        repositories: Mapping[str, Desired],
        foretold: Callable[[Desired], Forecast | None],
    ) -> None:
        self._images = images
        self._repositories = repositories
        self._foretold = foretold

    def __getitem__(self, address: str) -> Forecast:
        found = self._images.get(address)
        if found is None and address in self._repositories:
            found = self._foretold(self._repositories[address])
        if found is None:
            raise KeyError(address)
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self._images
        yield from self._repositories

    def __len__(self) -> int:
        return len(self._images) + len(self._repositories)


def _observe(definitions: Definitions, places: Mapping[str, Place], recorded: Iterable[Recorded]) -> list[Sight]:
    wanted: dict[str, list[Desired]] = {place: [] for place in places}
    for one in definitions.desired.values():
        wanted[one.place].append(one)
    known: dict[str, list[Recorded]] = {place: [] for place in places}
    for row in recorded:
        if row.place in known:
            known[row.place].append(row)
    if len(places) == 1:
        ((name, place),) = places.items()
        return [place.observe(definitions.stack, wanted[name], known[name])]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max(1, min(16, len(places)))) as pool:
        futures = [
            pool.submit(place.observe, definitions.stack, wanted[name], known[name]) for name, place in places.items()
        ]
        return [future.result() for future in futures]


def current(objects: Mapping[str, tuple[Observed, ...]], address: str) -> Observed | None:
    """The object that bears the declared name of ``address`` now."""
    found = objects.get(address, ())
    if len(found) == 1 and found[0].role is Role.CURRENT:
        return found[0]
    return next((one for one in found if one.role is Role.CURRENT), None)


def bases_of(one: Desired, place: Place, tags: Mapping[str, str]) -> dict[str, str]:
    """The Images of the stack that an Image stands on: name as written -> address."""
    return {name: tags[base] for name in place.bases(one) if (base := canonical(name)) in tags}


def _forecast(
    stack: str,
    desired: dict[str, Desired],
    places: Mapping[str, Place],
    objects: Mapping[str, tuple[Observed, ...]],
    tags: Mapping[str, str],
) -> dict[str, Forecast]:
    """Forecasts of all Images, those that others stand on first; fills the found edges into ``desired``."""
    images = {address: one for address, one in desired.items() if one.kind == "Image"}
    bases: dict[str, dict[str, str]] = {}
    done: dict[str, Forecast] = {}
    for address, one in images.items():
        try:
            bases[address] = bases_of(one, places[one.place], tags)
        except BayplanError as error:
            # A definition that cannot be read is this Image's problem, told with all the others.
            done[address] = Forecast(key="", problem=error.message, where=error.where or one.where)
            continue
        desired[address] = images[address] = with_bases(one, bases[address])

    def visit(address: str, trail: tuple[str, ...]) -> None:
        if address in done:
            return
        if address in trail:
            circle = " -> ".join((*trail[trail.index(address) :], address))
            raise BayplanError(
                "cycle", f"images stand on each other in a circle: {circle}", where=desired[address].where
            )
        one = images[address]
        needed = [*bases[address].values(), *(a for a in references(one.properties) if a in images)]
        for earlier in needed:
            visit(earlier, (*trail, address))

        def meaning(name: str) -> str | None:
            owner = tags.get(canonical(name))
            if owner is not None and owner != address:
                outputs = done[owner].outputs
                return None if outputs is None else str(outputs["digest"])
            found = places[one.place].resolve_image(name, "")
            if found is None:
                raise BayplanError("image-not-found", f"there is no image '{name}' to be had")
            return found

        try:
            done[address] = places[one.place].forecast(stack, one, current(objects, address), meaning) or Forecast(
                key=""
            )
        except BayplanError as error:
            done[address] = Forecast(key="", problem=error.message, where=error.where or one.where)

    for address in images:
        visit(address, ())
    return done


def _remotes(
    desired: Mapping[str, Desired],
    places: Mapping[str, Place],
    objects: Mapping[str, tuple[Observed, ...]],
    predicted: Mapping[str, Forecast],
) -> dict[str, str | None]:
    """What each push target refers to now, as far as its name is known before the apply."""
    known: dict[str, Mapping[str, Value]] = {
        address: outputs for address, one in predicted.items() if (outputs := one.outputs) is not None
    }
    for address in objects:
        found = current(objects, address)
        if found is not None:
            known[address] = found.outputs
    remotes: dict[str, str | None] = {}
    for one in desired.values():
        for target in one.properties.get("push") or () if one.kind == "Image" else ():
            if references(target) <= known.keys() and not holds_secret(target):
                text = str(resolve(target, known, _no_secret))
                digest = places[one.place].remote(text)
                if digest != "":
                    remotes[text] = digest
    return remotes


def _no_secret(name: str) -> str:
    raise BayplanError("unresolved", f"a push target may not hold the secret '{name}'")
