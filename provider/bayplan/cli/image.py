"""Images of this root, by hand: built, pulled, named, moved, removed.

What a name means: a name in the host's own store first, then a repository of the embedded registry
(bayplan.internal/NAME:TAG), then the registry that the name leads to, with the credentials of 'bayplan login' and docker.
"""

from __future__ import annotations

import argparse
import importlib

from bayplan.cli.container import function_name
from bayplan.cli.verbs import add_verbs

#: verb -> (help, the module that has ``VERB(arguments) -> int``)
VERBS: dict[str, tuple[str, str]] = {
    "build": ("build an image from a Dockerfile", "image_build"),
    "list": ("the names of images, or also those that bayplan keeps for itself", "image_show"),
    "pull": ("bring an image here", "image_move"),
    "push": ("bring an image of ours to its registry", "image_move"),
    "inspect": ("everything about one image", "image_show"),
    "history": ("the steps that made an image", "image_show"),
    "rm": ("remove names of images, and the content that nothing refers to any more", "image_move"),
    "tag": ("give an image another name", "image_move"),
    "load": ("bring images from an archive here (docker save, OCI layout)", "image_archive"),
    "save": ("write images to an archive (for docker load, podman load, skopeo)", "image_archive"),
    "import": ("make an image from a root file system: a folder or an archive", "image_move"),
    "prune": ("remove names that no container uses", "image_move"),
}
ALIASES = {"list": ("ls",), "rm": ("remove",)}


def configure(parser: argparse.ArgumentParser) -> None:
    add_verbs(parser, {name: text for name, (text, _) in VERBS.items()}, ALIASES, _ADD.__getitem__)


def run(arguments: argparse.Namespace) -> int:
    module = importlib.import_module(f"bayplan.cli.{VERBS[arguments.verb][1]}")
    result: int = getattr(module, function_name(arguments.verb))(arguments)
    return result


def _build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "context", nargs="?", default=".", metavar="FOLDER", help="what COPY and ADD read (default: here)"
    )
    parser.add_argument(
        "-t", "--tag", action="append", default=[], metavar="NAME", help="a name for the image (repeatable)"
    )
    parser.add_argument("-f", "--file", metavar="FILE", help="the Dockerfile (default: FOLDER/Dockerfile)")
    parser.add_argument("--target", default="", metavar="STAGE", help="build this stage")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME[=VALUE]", help="an ARG; without value: our variable"
    )
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label of the image")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="default: this machine's")
    parser.add_argument("--no-cache", action="store_true", help="run every step again")
    parser.add_argument("--pull", action="store_true", help="ask the registries for newer base images")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID[,src=FILE|,env=NAME]",
        help="for RUN --mount=type=secret",
    )
    parser.add_argument("--progress", choices=("auto", "plain", "tty"), default="auto", help="how it is shown")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the digest only")
    parser.add_argument("--iidfile", metavar="FILE", help="write the image's digest there")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="the names that stacks keep for themselves, too")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--digests", action="store_true", help="manifest digests, too")


def _pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="NAME, NAME:TAG or NAME@DIGEST")
    _platform(parser)
    parser.add_argument("--all-platforms", action="store_true", help="all of an image for several")
    _insecure(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print the digest only")


def _push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="an image that is here")
    parser.add_argument("to", nargs="?", metavar="NAME", help="where to (default: where its name leads)")
    _insecure(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print the digest only")


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a name, a digest, or the beginning of an id")
    _platform(parser)


def _history(parser: argparse.ArgumentParser) -> None:
    _inspect(parser)
    parser.add_argument("--no-trunc", action="store_true", help="whole lines")


def _rm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="names, or the beginnings of ids")
    parser.add_argument("-f", "--force", action="store_true", help="also names that a stack or a container uses")


def _tag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="an image that is here")
    parser.add_argument("name", metavar="NAME", help="its further name")


def _load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", "--input", metavar="FILE", help="an archive or an OCI layout's folder (default: standard input)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print names only")


def _save(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="names of one image that is here")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")
    parser.add_argument(
        "--format",
        choices=("docker", "oci"),
        default="docker",
        help="docker: an OCI layout that docker load reads, too (default)",
    )


def _import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="FILE", help="a tar archive (gz, zst, xz, bz2), a folder, or - for standard input"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the image's name")
    parser.add_argument(
        "-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="a Dockerfile's line: 'CMD [\"sh\"]'"
    )
    _platform(parser)


def _prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-a", "--all", action="store_true", help="every name that no container uses, not only content without a name"
    )
    parser.add_argument("-y", "--yes", "--force", action="store_true", dest="yes", help="do not ask")


def _platform(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--platform", metavar="OS/ARCH", help="of an image for several (default: this machine's)")


def _insecure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--insecure",
        action="append",
        default=[],
        metavar="REGISTRY",
        help="speak plain HTTP, or any certificate, with it",
    )


_ADD = {
    "build": _build,
    "list": _list,
    "pull": _pull,
    "push": _push,
    "inspect": _inspect,
    "history": _history,
    "rm": _rm,
    "tag": _tag,
    "load": _load,
    "save": _save,
    "import": _import,
    "prune": _prune,
}
