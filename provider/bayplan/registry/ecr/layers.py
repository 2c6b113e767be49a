"""Layers by the ECR API: asked for, uploaded in parts, downloaded by a URL that holds for an hour."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from bayplan.oci.digest import Digest
from bayplan.registry.access import tokens
from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import digest_name
from bayplan.registry.uploads import Upload

PART = 10 << 20  # bytes of a part that are asked for
_LEAST = 5 << 20  # of every part but the last
_MEDIA_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@operation("BatchCheckLayerAvailability")
def batch_check_layer_availability(call: Call) -> Body:
    one = call.repository()
    layers: list[Body] = []
    failures: list[Body] = []
    for text in call.get("layerDigests"):
        try:
            digest = digest_name(text)
        except RegistryError as error:
            failures.append({"layerDigest": text, "failureCode": "InvalidLayerDigest", "failureReason": error.message})
            continue
        found: Body = {"layerDigest": text, "layerAvailability": "UNAVAILABLE"}
        try:
            size = call.registry.blob(one.name, digest)
            found = {"layerDigest": text, "layerAvailability": "AVAILABLE", "layerSize": size, "mediaType": _MEDIA_TYPE}
        except RegistryError as error:
            if error.fault is not Fault.BLOB_UNKNOWN:
                raise
        layers.append(found)
    return {"layers": layers, "failures": failures}


@operation("GetDownloadUrlForLayer")
def get_download_url_for_layer(call: Call) -> Body:
    one = call.repository()
    digest = _digest(str(call.get("layerDigest")))
    try:
        call.registry.blob(one.name, digest)
    except RegistryError as error:
        if error.fault is not Fault.BLOB_UNKNOWN:
            raise
        raise _no_layers(call, one.name, [digest]) from None
    link = tokens.link(call.account, one.name, digest, call.now)
    return {"downloadUrl": f"{call.origin}/v2/{one.name}/blobs/{digest}?link={link}", "layerDigest": str(digest)}


def _no_layers(call: Call, name: str, digests: list[Digest]) -> EcrError:
    listed = ", ".join(f"'{digest}'" for digest in digests)
    return EcrError(
        "LayersNotFoundException",
        f"The layers with digests {listed} do not exist in the repository with name '{name}' in the registry with id "
        f"'{call.account.number}'",
    )


def _digest(text: str) -> Digest:
    try:
        return digest_name(text)
    except RegistryError as error:
        raise EcrError("InvalidParameterException", f"Invalid parameter at 'layerDigest': {error.message}") from None


# -- uploads -------------------------------------------------------------------------------------------------------


@operation("InitiateLayerUpload")
def initiate_layer_upload(call: Call) -> Body:
    upload = call.uploads.begin(call.repository().name)
    return {"uploadId": upload.id, "partSize": PART}


def _upload(call: Call, name: str) -> Upload:
    try:
        return call.uploads.get(name, str(call.get("uploadId")))
    except RegistryError:
        raise EcrError(
            "UploadNotFoundException",
            f"The upload with id '{call.get('uploadId')}' does not exist in the repository with name '{name}' in the "
            f"registry with id '{call.account.number}'",
        ) from None


@operation("UploadLayerPart")
def upload_layer_part(call: Call) -> Body:
    one = call.repository()
    upload = _upload(call, one.name)
    first, last = int(call.get("partFirstByte")), int(call.get("partLastByte"))
    try:
        part = base64.b64decode(call.get("layerPartBlob"), validate=True)
    except (binascii.Error, ValueError):
        raise EcrError("InvalidParameterException", "Invalid parameter at 'layerPartBlob': it is not base64") from None
    with upload.claimed():
        if first != upload.offset or last - first + 1 != len(part):
            raise EcrError(
                "InvalidLayerPartException",
                f"the part of bytes {first} to {last} is not the one that follows, or has not that many bytes",
                registryId=call.account.number,
                repositoryName=one.name,
                uploadId=upload.id,
                lastValidByteReceived=max(upload.offset - 1, 0),
            )
        if upload.offset and upload.least_part < _LEAST:
            raise _too_small()
        call.uploads.append(upload, [memoryview(part)])
        upload.least_part = min(upload.least_part, len(part))
    return {
        "registryId": call.account.number,
        "repositoryName": one.name,
        "uploadId": upload.id,
        "lastByteReceived": last,
    }


def _too_small() -> EcrError:
    return EcrError("LayerPartTooSmallException", f"every part but the last has at least {_LEAST} bytes")


@operation("CompleteLayerUpload")
def complete_layer_upload(call: Call) -> Body:
    one = call.repository()
    upload = _upload(call, one.name)
    digests = [_digest(text) for text in call.get("layerDigests")]
    with upload.claimed():
        if not upload.offset:
            raise EcrError("EmptyUploadException", "nothing was uploaded")
        digest = digests[0]
        answer: dict[str, Any] = {
            "registryId": call.account.number,
            "repositoryName": one.name,
            "uploadId": upload.id,
            "layerDigest": str(digest),
        }
        known = False
        try:
            call.registry.blob(one.name, digest)
            known = True
        except RegistryError as error:
            if error.fault is not Fault.BLOB_UNKNOWN:
                raise
        if known:
            call.uploads.drop(upload)
            raise EcrError(
                "LayerAlreadyExistsException",
                f"Layer with digest '{digest}' already exists in the repository with name '{one.name}' in the registry with "
                f"id '{call.account.number}'",
            )
        try:
            call.uploads.finish(upload, digest)
        except RegistryError as error:
            if error.fault is not Fault.DIGEST_INVALID:
                raise
            raise EcrError("InvalidLayerException", f"the upload has not the digest '{digest}'") from None
    return answer
