"""What can be wrong with a call on the registry, once for both of its faces.

The state machine raises :class:`RegistryError` with a :class:`Fault`; the OCI face turns it into a status and a code of
the distribution specification ("Error codes"), another face into its own words. To a user of the command line it is a
BayplanError like any other.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus

from bayplan.errors import BayplanError

#: Codes of errors of where bytes lie, and of what they are sealed with: no caller's fault, and perhaps over in a while.
STORAGE_AWAY = "storage-unreachable"
KEYS_AWAY = frozenset({"sealing-key", "bad-key-file"})


class Fault(Enum):
    """(stable code of BayplanError, OCI error code, HTTP status)"""

    BLOB_UNKNOWN = ("blob-unknown", "BLOB_UNKNOWN", HTTPStatus.NOT_FOUND)
    UPLOAD_INVALID = ("upload-invalid", "BLOB_UPLOAD_INVALID", HTTPStatus.BAD_REQUEST)
    UPLOAD_RANGE = ("upload-range", "BLOB_UPLOAD_INVALID", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    UPLOAD_UNKNOWN = ("upload-unknown", "BLOB_UPLOAD_UNKNOWN", HTTPStatus.NOT_FOUND)
    DIGEST_INVALID = ("invalid-digest", "DIGEST_INVALID", HTTPStatus.BAD_REQUEST)
    MANIFEST_BLOB_UNKNOWN = ("manifest-blob-unknown", "MANIFEST_BLOB_UNKNOWN", HTTPStatus.NOT_FOUND)
    MANIFEST_INVALID = ("manifest-invalid", "MANIFEST_INVALID", HTTPStatus.BAD_REQUEST)
    MANIFEST_TOO_LARGE = ("manifest-too-large", "MANIFEST_INVALID", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    MANIFEST_UNKNOWN = ("manifest-unknown", "MANIFEST_UNKNOWN", HTTPStatus.NOT_FOUND)
    NAME_INVALID = ("bad-repository-name", "NAME_INVALID", HTTPStatus.BAD_REQUEST)
    NAME_UNKNOWN = ("repository-unknown", "NAME_UNKNOWN", HTTPStatus.NOT_FOUND)
    NAME_EXISTS = ("repository-exists", "NAME_INVALID", HTTPStatus.CONFLICT)
    NOT_EMPTY = ("repository-not-empty", "DENIED", HTTPStatus.CONFLICT)
    SIZE_INVALID = ("size-invalid", "SIZE_INVALID", HTTPStatus.BAD_REQUEST)
    TAG_INVALID = ("bad-tag", "TAG_INVALID", HTTPStatus.BAD_REQUEST)
    TAG_IMMUTABLE = ("tag-immutable", "TAG_INVALID", HTTPStatus.BAD_REQUEST)
    TAG_UNKNOWN = ("tag-unknown", "MANIFEST_UNKNOWN", HTTPStatus.NOT_FOUND)
    RANGE_INVALID = ("range-invalid", "RANGE_INVALID", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    PARAMETER_INVALID = ("parameter-invalid", "UNSUPPORTED", HTTPStatus.BAD_REQUEST)
    TOO_MANY_TAGS = ("too-many-tags", "TAG_INVALID", HTTPStatus.REQUEST_URI_TOO_LONG)
    UNSUPPORTED = ("unsupported", "UNSUPPORTED", HTTPStatus.METHOD_NOT_ALLOWED)
    DENIED = ("denied", "DENIED", HTTPStatus.FORBIDDEN)
    UNAUTHORIZED = ("unauthorized", "UNAUTHORIZED", HTTPStatus.UNAUTHORIZED)
    BUSY = ("registry-busy", "TOOMANYREQUESTS", HTTPStatus.TOO_MANY_REQUESTS)
    STORE_FULL = ("store-full", "UNKNOWN", HTTPStatus.INSUFFICIENT_STORAGE)

    def __init__(self, code: str, oci: str, status: HTTPStatus) -> None:
        self.code = code
        self.oci = oci
        self.status = status


class RegistryError(BayplanError):
    """A call that the registry refuses. ``fault`` says why in a form that programs can read."""

    def __init__(self, fault: Fault, message: str, *, hint: str = "") -> None:
        super().__init__(fault.code, message, hint=hint)
        self.fault = fault
