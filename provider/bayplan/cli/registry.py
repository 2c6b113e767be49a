"""The registry of this root, by hand: served to docker, podman, skopeo and the AWS CLI, and looked at.

Repositories that stacks declare stand in it; 'bayplan image push IMAGE bayplan.internal/NAME:TAG' needs no server.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.meaning import owner
from bayplan.cli.options import add_places, root_of
from bayplan.errors import BayplanError, UsageError

if TYPE_CHECKING:
    from bayplan.oci.digest import Digest
    from bayplan.oci.root import Root
    from bayplan.registry.configuration import Settings
    from bayplan.registry.exchange import Request
    from bayplan.registry.registry import Registry


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("serve", "serve the registry (OCI distribution API, Amazon ECR API) until SIGTERM or SIGINT"),
        ("list", "the repositories"),
        ("tags", "the tags of a repository"),
        ("rm", "remove a repository, a tag (NAME:TAG) or a manifest (NAME@DIGEST)"),
        ("gc", "remove content that nothing refers to; safe while the registry is served"),
        ("env", 'print the lines that let the AWS CLI and SDKs use this registry: eval "$(bayplan registry env)"'),
        ("user", "users of the registry's account: add, list, rm"),
        ("key", "access keys of users: add, list, rm"),
        ("key-file", "make a key file for encryption at rest, or add a new first key to one"),
        ("rekey", "wrap the data keys of all sealed blobs with the current key"),
        ("audit", "who did what: the records of the audit trail, the newest first"),
    ):
        aliases = {"list": ("ls",), "rm": ("remove",)}.get(name, ())
        verb = verbs.add_parser(name, help=text, description=text, aliases=aliases, allow_abbrev=False)
        verb.set_defaults(verb=name)
        add_places(verb)
        if name in ("user", "key"):
            from bayplan.cli.registry_access import configure_access

            configure_access(verb, name)
        elif name == "serve":
            _serve_options(verb)
        elif name == "key-file":
            verb.add_argument("file", metavar="FILE")
            verb.add_argument("--id", metavar="ID", help="the new key's id (default: today's date)")
        elif name == "audit":
            from bayplan.cli.registry_audit import configure_audit

            configure_audit(verb)
        elif name == "tags":
            verb.add_argument("repository", metavar="REPOSITORY")
        elif name == "rm":
            verb.add_argument("names", nargs="+", metavar="NAME[:TAG|@DIGEST]")
            verb.add_argument(
                "-f", "--force", action="store_true", help="with its images; also one that a stack declares"
            )


def _serve_options(verb: argparse.ArgumentParser) -> None:
    """Flags go before the file; None is what the file says, or its default."""
    verb.add_argument(
        "--config",
        metavar="FILE",
        help="how to serve, in YAML; 'bayplan schema registry' says what may stand in it",
    )
    verb.add_argument("--listen", metavar="ADDRESS:PORT", help="default 127.0.0.1:5000; port 0: a free one")
    verb.add_argument(
        "--anonymous",
        choices=("none", "pull", "push"),
        help="what callers without credentials may do (default none); with push, the first push makes a repository",
    )
    verb.add_argument(
        "--tls",
        action="store_true",
        help="serve over TLS, with the certificate of --config or, without one, one of its own",
    )
    verb.add_argument("--tls-certificate", metavar="FILE", help="serve over TLS with this certificate and chain (PEM)")
    verb.add_argument("--tls-key", metavar="FILE", help="its private key, where it is not in the same file")
    verb.add_argument(
        "--access-log", choices=("text", "json", "none"), help="the form of the line per request (default text)"
    )
    verb.add_argument("-q", "--quiet", action="store_true", help="no line per request")


def run(arguments: argparse.Namespace) -> int:
    result: int = globals()[f"_{arguments.verb.replace('-', '_')}"](arguments)
    return result


def _settings(arguments: argparse.Namespace) -> Settings:
    from bayplan.cli.registry_settings import read
    from bayplan.records import replace
    from bayplan.registry.access.guard import Anonymous
    from bayplan.registry.configuration import LogFormat, Logging, Settings, Tls

    settings = read(Path(arguments.config)) if arguments.config else Settings()
    if arguments.listen is not None:
        settings = replace(settings, listen=arguments.listen)
    if arguments.anonymous is not None:
        settings = replace(settings, anonymous=Anonymous(arguments.anonymous))
    if arguments.tls_certificate is not None:
        key = Path(arguments.tls_key) if arguments.tls_key is not None else None
        settings = replace(settings, tls=Tls(Path(arguments.tls_certificate), key))
    elif arguments.tls_key is not None:
        raise UsageError("usage", "--tls-key belongs to a --tls-certificate")
    elif arguments.tls and settings.tls is None:
        settings = replace(settings, tls=Tls())
    if arguments.quiet or arguments.access_log is not None:
        format = LogFormat.NONE if arguments.quiet else LogFormat(arguments.access_log)
        settings = replace(settings, logging=Logging(format, settings.logging.file))
    return settings


def _serve(arguments: argparse.Namespace) -> int:
    from bayplan.registry.access_log import AccessLog
    from bayplan.registry.configuration import LogFormat
    from bayplan.registry.server import serve

    settings = _settings(arguments)
    root = root_of(arguments).ensure()

    def ready(host: str, port: int) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if arguments.json:
            said = {"address": where, "root": str(root.path), "tls": settings.tls is not None}
            sys.stdout.write(json.dumps(said) + "\n")
        else:
            sys.stdout.write(f"serving {root.path} on {where}{' over TLS' if settings.tls else ''}\n")
        sys.stdout.flush()

    def failed(request: Request, error: Exception) -> None:
        show.warn(f"{request.method} {request.path}: {type(error).__name__}: {error}")

    log = AccessLog(settings.logging)
    try:
        quiet = settings.logging.format is LogFormat.NONE
        serve(
            root,
            settings=settings,
            log=None if quiet else log,
            failed=failed,
            ready=ready,
            in_use=lambda: _in_use(root),
        )
    finally:
        log.close()
    return 0


def _in_use(root: Root) -> set[Digest]:
    from bayplan.cli.pruning import digests_in_use
    from bayplan.runtime.containers import Runtime

    return digests_in_use(Runtime(root))


def _env(arguments: argparse.Namespace) -> int:
    from bayplan.cli.registry_access import env

    return env(arguments)


def _key_file(arguments: argparse.Namespace) -> int:
    from bayplan.registry.storage.keys import add_key

    id = arguments.id or time.strftime("%Y-%m-%d", time.gmtime())
    add_key(Path(arguments.file), id)
    if arguments.json:
        show.document({"file": arguments.file, "id": id})
    else:
        show.say(f"the first key of {arguments.file} is {id} now")
    return 0


def _rekey(arguments: argparse.Namespace) -> int:
    from bayplan.registry.registry import Registry

    registry = Registry(root_of(arguments))
    done = sum(registry.vault(name).rekey() for name in registry.vaults())
    if arguments.json:
        show.document({"rekeyed": done})
    else:
        show.say(f"{done} blobs have the current key now")
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from bayplan.cli.registry_audit import audit

    return audit(arguments)


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
            carry_out(registry, one.name, in_use=lambda: _in_use(root))
        expired = registry.expire()
    freed = collect(root, Store(root))
    if arguments.json:
        show.document({"blobs": freed.blobs, "bytes": freed.bytes, "layers": freed.layers, "expired_uploads": expired})
    else:
        show.say(f"freed {show.size(freed.bytes)} in {freed.blobs} blobs, {freed.layers} unpacked layers")
    return 0
