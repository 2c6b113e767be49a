"""Images of a few bytes, pushed by the ECR API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def upload(client: Any, repository: str, data: bytes, *, part: int = 0) -> str:
    """Push a layer by the API, in parts of ``part`` bytes; its digest."""
    begun = client.initiate_layer_upload(repositoryName=repository)
    size = part or begun["partSize"]
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        told = client.upload_layer_part(
            repositoryName=repository,
            uploadId=begun["uploadId"],
            partFirstByte=start,
            partLastByte=start + len(piece) - 1,
            layerPartBlob=piece,
        )
        assert told["lastByteReceived"] == start + len(piece) - 1
    done = client.complete_layer_upload(
        repositoryName=repository, uploadId=begun["uploadId"], layerDigests=[digest_of(data)]
    )
    return str(done["layerDigest"])


def put(client: Any, repository: str, word: str, *tags: str) -> str:
    """Push an image of one layer that holds ``word``; its digest."""
    return put_layers(client, repository, [word.encode()], *tags)


def put_layers(client: Any, repository: str, layers: Sequence[bytes], *tags: str) -> str:
    """Push an image of these layers; its digest."""
    config = json.dumps({"os": "linux", "layers": [digest_of(layer) for layer in layers]}).encode()
    for data in (config, *layers):
        found = client.batch_check_layer_availability(repositoryName=repository, layerDigests=[digest_of(data)])
        if found["layers"][0]["layerAvailability"] == "UNAVAILABLE":
            upload(client, repository, data)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest_of(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": digest_of(layer),
                    "size": len(layer),
                }
                for layer in layers
            ],
        }
    )
    for tag in tags or (None,):
        more = {"imageTag": tag} if tag else {}
        client.put_image(repositoryName=repository, imageManifest=manifest, **more)
    return digest_of(manifest.encode())
