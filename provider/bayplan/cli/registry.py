"""The registry of this root, by hand: served to docker, podman, skopeo and the AWS CLI, and looked at.

Repositories that stacks declare stand in it; 'bayplan image push IMAGE bayplan.internal/NAME:TAG' needs no server.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.meaning import owner
from bayplan.cli.options import add_places, root_of
from bayplan.errors import BayplanError, UsageError

if TYPE_CHECKING:
    from bayplan.registry.exchange import Access, Request
    from bayplan.registry.registry import Registry


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("serve", "serve the registry (OCI distribution API) until SIGTERM or SIGINT"),
        ("list", "the repositories"),
        ("tags", "the tags of a repository"),
        ("rm", "remove a repository, a tag (NAME:TAG) or a manifest (NAME@DIGEST)"),
        ("gc", "remove content that nothing refers to; safe while the registry is served"),
        ("env", 'print the lines that let the AWS CLI and SDKs use this registry: eval "$(bayplan registry env)"'),
        ("user", "users of the registry's account: add, list, rm"),
        ("key", "access keys of users: add, list, rm"),
    ):
        aliases = {"list": ("ls",), "rm": ("remove",)}.get(name, ())
        verb = verbs.add_parser(name, help=text, description=text, aliases=aliases, allow_abbrev=False)
        verb.set_defaults(verb=name)
        add_places(verb)
        if name in ("user", "key"):
            from bayplan.cli.registry_access import configure_access

            configure_access(verb, name)
        elif name == "serve":
            verb.add_argument(
                "--listen",
                default="127.0.0.1:5000",
                metavar="ADDRESS:PORT",
                help="default 127.0.0.1:5000; port 0: a free one",
            )
            verb.add_argument(
                "--anonymous",
                choices=("none", "pull", "push"),
                default="none",
                help="what callers without credentials may do (default none); with push, the first push makes a repository",
            )
            verb.add_argument("-q", "--quiet", action="store_true", help="no line per request")
        elif name == "tags":
            verb.add_argument("repository", metavar="REPOSITORY")
        elif name == "rm":
            verb.add_argument("names", nargs="+", metavar="NAME[:TAG|@DIGEST]")
            verb.add_argument(
                "-f", "--force", action="store_true", help="with its images; also one that a stack declares"
            )


def run(arguments: argparse.Namespace) -> int:
    result: int = globals()[f"_{arguments.verb}"](arguments)
    return result


def _serve(arguments: argparse.Namespace) -> int:
    from bayplan.registry.access.guard import Anonymous
    from bayplan.registry.server import Settings, serve

    root = root_of(arguments).ensure()

    def ready(host: str, port: int) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if arguments.json:
            sys.stdout.write(f'{{"address": "{where}", "root": "{root.path}"}}\n')
        else:
            sys.stdout.write(f"serving {root.path} on {where}\n")
        sys.stdout.flush()

    def log(access: Access) -> None:
        show.warn(str(access))

    def failed(request: Request, error: Exception) -> None:
        show.warn(f"{request.method} {request.path}: {type(error).__name__}: {error}")

    settings = Settings(listen=arguments.listen, anonymous=Anonymous(arguments.anonymous))
    serve(root, settings=settings, log=None if arguments.quiet else log, failed=failed, ready=ready)
    return 0


def _env(arguments: argparse.Namespace) -> int:
    from bayplan.cli.registry_access import env

    return env(arguments)


def _user(arguments: argparse.Namespace) -> int:
    from bayplan.cli.registry_access import user

    return user(arguments)


def _key(arguments: argparse.Namespace) -> int:
    from bayplan.cli.registry_access import key

    return key(arguments)


def _registry(arguments: argparse.Namespace) -> Registry | None:
    """The registry of the root; None where there is none yet, so that looking makes nothing."""
    from bayplan.registry.registry import Registry

    root = root_of(arguments)
    return Registry(root) if (root.path / "registry" / "registry.db").exists() else None


def _list(arguments: argparse.Namespace) -> int:
    registry = _registry(arguments)
    rows: list[dict[str, Any]] = []
    for one in registry.list() if registry is not None else ():
        assert registry is not None
        rows.append(
            {
                "name": one.name,
                "uri": f"bayplan.internal/{one.name}",
                "mutability": one.mutability.value,
                "tags": len(registry.tags(one.name)),
                "created": show.stamp(one.created),
                "resource_tags": dict(one.tags),
                "labels": dict(one.labels),
            }
        )
    if arguments.json:
        show.document({"repositories": rows})
    else:
        show.table(
            ("NAME", "TAGS", "MUTABILITY", "OWNER"),
            ((row["name"], str(row["tags"]), row["mutability"].lower(), owner(row["labels"])) for row in rows),
        )
    return 0


def _need(arguments: argparse.Namespace, name: str) -> Registry:
    registry = _registry(arguments)
    if registry is None:
        raise BayplanError("repository-unknown", f"there is no repository {name}: the registry of this root is empty")
    return registry


def _tags(arguments: argparse.Namespace) -> int:
    name = arguments.repository.removeprefix("bayplan.internal/")
    registry = _need(arguments, name)
    rows = []
    for tag in registry.tags(name):
        manifest = registry.resolve(name, tag.name)
        rows.append(
            {
                "name": tag.name,
                "digest": str(tag.digest),
                "media_type": manifest.media_type,
                "size": manifest.size,
                "pushed": show.stamp(tag.pushed),
            }
        )
    if arguments.json:
        show.document({"tags": rows})
    else:
        show.table(("TAG", "DIGEST", "PUSHED"), ((row["name"], row["digest"], row["pushed"] or "") for row in rows))  # type: ignore[misc]
    return 0


def _rm(arguments: argparse.Namespace) -> int:
    from bayplan.oci.digest import Digest

    def work(text: str) -> dict[str, Any]:
        name, at, digest = text.removeprefix("bayplan.internal/").partition("@")
        repository, colon, tag = name.partition(":")
        registry = _need(arguments, repository)
        if at:
            registry.delete_manifest(repository, Digest.parse(digest))
        elif colon:
            registry.delete_tag(repository, tag)
        else:
            whose = owner(registry.describe(repository).labels)
            if whose and not arguments.force:
                raise BayplanError(
                    "repository-owned",
                    f"the repository {repository} belongs to {whose}",
                    hint="destroy the stack, or use --force",
                )
            registry.delete_repository(repository, force=arguments.force)
        return {"name": text}

    if not arguments.names:
        raise UsageError("usage", "nothing to remove")
    return show.each(arguments, "removed", arguments.names, work)


def _gc(arguments: argparse.Namespace) -> int:
    from bayplan.oci.store import Store
    from bayplan.registry.registry import Registry
    from bayplan.targets.embedded.garbage import collect

    root = root_of(arguments)
    expired = 0
    if (root.path / "registry" / "registry.db").exists():
        from bayplan.registry.ecr.lifecycle import carry_out

        registry = Registry(root)
        for one in registry.list():
            carry_out(registry, one.name)
        expired = registry.expire()
    freed = collect(root, Store(root))
    if arguments.json:
        show.document({"blobs": freed.blobs, "bytes": freed.bytes, "layers": freed.layers, "expired_uploads": expired})
    else:
        show.say(f"freed {show.size(freed.bytes)} in {freed.blobs} blobs, {freed.layers} unpacked layers")
    return 0
