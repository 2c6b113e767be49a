"""``image pull``, ``push``, ``tag``, ``rm``, ``import`` and ``prune``: names and content that come and go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.image_show import entry, meaning_of
from bayplan.cli.meaning import INTERNAL, Meaning, config_id, owner
from bayplan.errors import BayplanError, UsageError
from bayplan.oci.reference import ImageName

if TYPE_CHECKING:
    from bayplan.oci.digest import Digest
    from bayplan.oci.names import NamedImage


def pull(arguments: argparse.Namespace) -> int:
    from bayplan.cli.transfers import showing
    from bayplan.oci.descriptor import Platform

    if arguments.all_platforms and arguments.platform:
        raise UsageError("usage", "--platform and --all-platforms contradict each other")
    meaning = meaning_of(arguments)
    meaning.root.ensure()
    platform = Platform.parse(arguments.platform) if arguments.platform else None

    def work(reference: str) -> dict[str, Any]:
        with meaning.store.lease(), showing(quiet=arguments.quiet or arguments.json) as progress:
            digest = meaning.pull(reference, platform=platform, every=arguments.all_platforms, progress=progress)
            return entry(meaning.store, _named(meaning, reference, digest))

    return show.each(arguments, "images", arguments.images, work, line=lambda one: str(one["digest"]))


def push(arguments: argparse.Namespace) -> int:
    from bayplan.cli.transfers import showing

    meaning = meaning_of(arguments)
    found = meaning.need(arguments.image)
    target = ImageName.parse(arguments.to or found.name)
    if not target.tag and not target.digest:
        target = ImageName(target.registry, target.repository, "latest")
    if target.registry == INTERNAL:
        from bayplan.registry.registry import Registry

        registry = Registry(meaning.root, store=meaning.store)
        registry.ensure_repository(target.repository)
        registry.push_local(target.repository, target.tag or "latest", found.digest)
    else:
        from bayplan.registry.client import RegistryClient

        quiet = arguments.quiet or arguments.json
        with showing(quiet=quiet) as progress, RegistryClient(insecure=arguments.insecure) as client:
            client.push(meaning.store, found.digest, target, progress=progress)
    if arguments.json:
        show.document({"name": target.familiar(), "digest": str(found.digest)})
    else:
        show.say(str(found.digest) if arguments.quiet else f"{target.familiar()} is {found.digest}")
    return 0


def tag(arguments: argparse.Namespace) -> int:
    meaning = meaning_of(arguments)
    found = meaning.need(arguments.image)
    with meaning.store.lease():
        meaning.store.touch(found.digest)
        name_it(meaning, arguments.name, found.digest)
    if arguments.json:
        show.document({"images": [entry(meaning.store, _named(meaning, arguments.name, found.digest))]})
    return 0


def name_it(meaning: Meaning, text: str, digest: Digest) -> None:
    """Let a name mean an image. Raises BayplanError ``image-owned`` for one that a stack declares, ``bad-image-name``."""
    name = ImageName.parse(text)
    if name.digest:
        raise BayplanError("bad-image-name", f"a digest cannot be given to an image: {text}", hint="write NAME:TAG")
    before = meaning.names.get(text)
    if before is not None and owner(before.labels):
        raise BayplanError(
            "image-owned", f"the name {name.familiar()} belongs to {owner(before.labels)}", hint="choose another"
        )
    meaning.names.set(text, digest)


def _named(meaning: Meaning, reference: str, digest: Digest) -> NamedImage:
    from bayplan.oci.names import NamedImage

    name = ImageName.parse(reference)
    found = meaning.names.get(reference) if not name.digest else None
    return found if found is not None else NamedImage(reference, digest)


def rm(arguments: argparse.Namespace) -> int:
    from bayplan.runtime.containers import Runtime
    from bayplan.targets.embedded.garbage import collect

    meaning = meaning_of(arguments)
    runtime = Runtime(meaning.root)
    gone = 0

    def work(reference: str) -> dict[str, Any]:
        nonlocal gone
        found = meaning.need(reference)
        whose = owner(found.labels)
        if whose and not arguments.force:
            raise BayplanError(
                "image-owned", f"{reference} belongs to {whose}", hint="destroy the stack, or use --force"
            )
        others = [one for one in meaning.names.list() if one.digest == found.digest and one.name != found.name]
        users = [one.name for one in runtime.list() if one.spec.image == found.digest]
        if users and not others and not arguments.force:
            raise BayplanError(
                "image-in-use",
                f"{reference} is used by {', '.join(sorted(users))}",
                hint="remove these first, or use --force",
            )
        if not meaning.names.remove(found.name):
            raise BayplanError(
                "no-such-image", f"{reference} has no name to be removed; 'bayplan system prune' frees content"
            )
        gone += 1
        return {
            "name": ImageName.parse(found.name).familiar(),
            "digest": str(found.digest),
            "id": config_id(meaning.store, found.digest),
        }

    code = show.each(arguments, "images", arguments.images, work, line=lambda one: f"removed {one['name']}")
    if gone:
        freed = collect(meaning.root, meaning.store)
        if not arguments.json and freed.blobs:
            show.say(f"freed {show.size(freed.bytes)} in {freed.blobs} blobs, {freed.layers} unpacked layers")
    return code


def import_(arguments: argparse.Namespace) -> int:
    from bayplan.oci.archive import load_rootfs
    from bayplan.oci.descriptor import Platform

    meaning = meaning_of(arguments)
    meaning.root.ensure()
    if arguments.name:
        ImageName.parse(arguments.name)
    platform = Platform.parse(arguments.platform) if arguments.platform else None
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bayplan-import-") as folder, meaning.store.lease():
        source = Path(arguments.source)
        if arguments.source == "-":
            import shutil

            source = Path(folder) / "rootfs.tar"
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        digest = load_rootfs(meaning.store, source, platform=platform)
        if arguments.change:
            digest = _changed(meaning, digest, arguments.change, Path(folder))
        if arguments.name:
            name_it(meaning, arguments.name, digest)
    if arguments.json:
        show.document({"name": arguments.name or "", "digest": str(digest), "id": config_id(meaning.store, digest)})
    else:
        show.say(str(digest))
    return 0


def _changed(meaning: Meaning, digest: Digest, lines: list[str], folder: Path) -> Digest:
    """The image with a Dockerfile's instructions on top, carried out by the builder itself."""
    from bayplan.build.builder import Builder
    from bayplan.build.spec import BuildSpec
    from bayplan.runtime.steps import OciStepRunner

    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM imported\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with OciStepRunner(meaning.root) as runner:
        return Builder(meaning.root, runner, lambda _name: digest).build(BuildSpec(context)).digest


def prune(arguments: argparse.Namespace) -> int:
    from bayplan.cli.pruning import unused_names
    from bayplan.runtime.containers import Runtime
    from bayplan.targets.embedded.garbage import collect

    meaning = meaning_of(arguments)
    found = unused_names(meaning.names, Runtime(meaning.root), meaning.store) if arguments.all else []
    what = f"{len(found)} image names" if found else "content that nothing refers to"
    if not show.agreed(arguments, what):
        return 1
    for one in found:
        meaning.names.remove(one.name)
    freed = collect(meaning.root, meaning.store)
    names = [ImageName.parse(one.name).familiar() for one in found]
    if arguments.json:
        show.document({"images": names, "blobs": freed.blobs, "bytes": freed.bytes, "layers": freed.layers})
    else:
        for name in names:
            show.say(f"removed {name}")
        show.say(f"freed {show.size(freed.bytes)} in {freed.blobs} blobs, {freed.layers} unpacked layers")
    return 0
