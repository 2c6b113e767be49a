"""``image load`` and ``save``: images in one file."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bayplan.cli import show
from bayplan.cli.image_move import name_it
from bayplan.cli.image_show import entry, meaning_of
from bayplan.errors import BayplanError, UsageError
from bayplan.oci.names import NamedImage
from bayplan.oci.reference import ImageName


def load(arguments: argparse.Namespace) -> int:
    from bayplan.oci.layout import load_archive

    meaning = meaning_of(arguments)
    meaning.root.ensure()
    if arguments.input is None and sys.stdin.isatty():
        raise UsageError(
            "usage", "load reads an archive from standard input, which is a terminal", hint="give --input FILE"
        )
    rows = []
    with tempfile.TemporaryDirectory(prefix="bayplan-load-") as folder, meaning.store.lease():
        path = Path(arguments.input) if arguments.input not in (None, "-") else Path(folder) / "archive"
        if arguments.input in (None, "-"):
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        for names, digest in load_archive(meaning.store, path):
            for name in names:
                name_it(meaning, name, digest)
            rows += [entry(meaning.store, NamedImage(ImageName.parse(name).canonical(), digest)) for name in names] or [
                entry(meaning.store, NamedImage(str(digest), digest))
            ]
    if arguments.json:
        show.document({"images": rows})
        return 0
    for row in rows:
        name = row["name"] or row["digest"]
        show.say(name if arguments.quiet else f"loaded {name}")
    if any(not row["name"] for row in rows):
        show.warn("note: an image without a name is gone with the next prune; name it: bayplan image tag DIGEST NAME")
    return 0


def save(arguments: argparse.Namespace) -> int:
    from bayplan.oci.layout import save_archive

    if arguments.json and arguments.output is None:
        raise UsageError("usage", "--json and the archive cannot both go to standard output", hint="give --output FILE")
    if arguments.output is None and sys.stdout.isatty():
        raise UsageError("usage", "the archive is not for a terminal's eyes", hint="give --output FILE")
    meaning = meaning_of(arguments)
    found = [meaning.need(one) for one in arguments.images]
    if len({one.digest for one in found}) > 1:
        raise BayplanError(
            "several-images", "one archive holds one image under any number of names", hint="save each into its own"
        )
    names = [one.name for one in found if not one.name.startswith("sha256:") and "@" not in one.name]
    with tempfile.TemporaryDirectory(prefix="bayplan-save-") as folder, meaning.store.lease():
        path = Path(arguments.output or f"{folder}/archive")
        save_archive(meaning.store, found[0].digest, names, path, arguments.format)
        if arguments.output is None:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
    if arguments.json:
        size = Path(arguments.output).stat().st_size
        show.document({"file": arguments.output, "digest": str(found[0].digest), "size": size})
    return 0
