"""``image list``, ``inspect`` and ``history``: looking, without any effect."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.meaning import Meaning, is_internal
from bayplan.cli.options import root_of
from bayplan.errors import BayplanError
from bayplan.oci.reference import ImageName

if TYPE_CHECKING:
    from bayplan.oci.image import Image
    from bayplan.oci.names import NamedImage
    from bayplan.oci.store import Store


def meaning_of(arguments: argparse.Namespace) -> Meaning:
    """The names of the root that the options say."""
    from bayplan.oci.store import Store

    root = root_of(arguments)
    return Meaning(root, Store(root), insecure=tuple(getattr(arguments, "insecure", ())))


def entry(store: Store, named: NamedImage) -> dict[str, Any]:
    """An image in a list (``schemas/output/images.schema.json``)."""
    from bayplan.oci.image import Image

    try:
        image: Image | None = Image.load(store, named.digest)
    except BayplanError:
        image = None  # an index for other machines, or content that somebody removed
    return {
        "name": ImageName.parse(named.name).familiar() if not named.name.startswith("sha256:") else "",
        "digest": str(named.digest),
        "id": str(image.config_descriptor.digest) if image else "",
        "platform": platform(image) if image else "",
        "size": image.size if image else 0,
        "created": _created(image) if image else None,
        "named": show.stamp(named.created),
        "labels": dict(named.labels),
    }


def platform(image: Image) -> str:
    """``linux/arm64/v8``."""
    config = image.config
    return "/".join(filter(None, (config.os, config.architecture, config.variant)))


def _created(image: Image) -> str | None:
    return image.config.created or None


def list_(arguments: argparse.Namespace) -> int:
    meaning = meaning_of(arguments)
    found = [one for one in meaning.names.list() if arguments.all or not is_internal(one.name)]
    rows = [entry(meaning.store, one) for one in found]
    if arguments.json:
        show.document({"images": rows})
    elif arguments.quiet:
        sys.stdout.writelines(
            f"{short}\n" for short in dict.fromkeys(show.short(row["id"] or row["digest"]) for row in rows)
        )
    else:
        headers = ("NAME", "ID", *(("DIGEST",) if arguments.digests else ()), "PLATFORM", "CREATED", "SIZE")
        show.table(headers, (_row(row, digests=arguments.digests) for row in rows))
    return 0


def _row(row: dict[str, Any], *, digests: bool) -> tuple[str, ...]:
    digest = (row["digest"],) if digests else ()
    return (row["name"], show.short(row["id"]), *digest, row["platform"], _age(row["created"]), show.size(row["size"]))


def _age(created: str | None) -> str:
    if not created:
        return "-"
    try:
        from datetime import datetime

        when = datetime.fromisoformat(created).timestamp()
    except ValueError:
        return "-"
    return f"{show.span(time.time() - when)} ago" if when > 0 else "-"  # reproducible images are from 1970


def inspect(arguments: argparse.Namespace) -> int:
    meaning = meaning_of(arguments)
    named, image = _image(meaning, arguments)
    config = image.config
    show.document(
        {
            **entry(meaning.store, named),
            "id": str(image.config_descriptor.digest),
            "manifest": str(image.digest),
            "media_type": image.media_type,
            "platform": platform(image),
            "size": image.size,
            "created": _created(image),
            "names": [
                ImageName.parse(one.name).familiar()
                for one in meaning.names.list()
                if one.digest in (named.digest, image.digest) and not is_internal(one.name)
            ],
            "layers": [
                {
                    "digest": str(layer.descriptor.digest),
                    "diff_id": str(layer.diff_id),
                    "media_type": layer.descriptor.media_type,
                    "size": layer.descriptor.size,
                }
                for layer in image.layers
            ],
            "annotations": dict(image.annotations),
            "config": dict(config.raw.get("config") or {}),
            "history": [dict(one) for one in config.history],
        }
    )
    return 0


def _image(meaning: Meaning, arguments: argparse.Namespace) -> tuple[NamedImage, Image]:
    from bayplan.oci.descriptor import Platform
    from bayplan.oci.image import Image

    named = meaning.need(arguments.image)
    return named, Image.load(
        meaning.store, named.digest, Platform.parse(arguments.platform) if arguments.platform else None
    )


def history(arguments: argparse.Namespace) -> int:
    _, image = _image(meaning_of(arguments), arguments)
    rows: list[dict[str, Any]] = []
    layers = iter(image.layers)
    for step in image.config.history:
        layer = None if step.get("empty_layer") else next(layers, None)
        rows.append(
            {
                "created": str(step.get("created") or "") or None,
                "created_by": str(step.get("created_by") or ""),
                "comment": str(step.get("comment") or ""),
                "size": layer.descriptor.size if layer else 0,
                "layer": str(layer.descriptor.digest) if layer else None,
            }
        )
    for layer in layers:  # an image that tells less than it has
        size = layer.descriptor.size
        rows.append(
            {"created": None, "created_by": "", "comment": "", "size": size, "layer": str(layer.descriptor.digest)}
        )
    rows.reverse()
    if arguments.json:
        show.document({"history": rows})
        return 0

    def line(row: dict[str, Any]) -> tuple[str, ...]:
        text = " ".join(row["created_by"].split())
        text = text if arguments.no_trunc or len(text) <= 72 else f"{text[:69]}..."
        return (show.short(row["layer"] or ""), _age(row["created"]), show.size(row["size"]), text)

    show.table(("LAYER", "CREATED", "SIZE", "STEP"), map(line, rows))
    return 0
