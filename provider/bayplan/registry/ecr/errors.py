"""What an operation of the ECR API answers when it does not do what it was asked: a declared error, by its name."""

from __future__ import annotations

from bayplan.registry.faults import Fault, RegistryError


class EcrError(Exception):
    """``code`` is the name of an exception shape of the API's model, ``members`` what it has besides a message; ``status`` the
    HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400, **members: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.members = members


def no_repository(name: str, account: str) -> EcrError:
    return EcrError(
        "RepositoryNotFoundException",
        f"The repository with name '{name}' does not exist in the registry with id '{account}'",
    )


def no_image(name: str, account: str, image: str) -> EcrError:
    return EcrError(
        "ImageNotFoundException",
        f"The image with imageId {{{image}}} does not exist within the repository with name '{name}' in the registry "
        f"with id '{account}'",
    )


#: What the state machine refuses, in the words of the API, where an operation does not say it more exactly itself.
_CODES = {
    Fault.NAME_UNKNOWN: "RepositoryNotFoundException",
    Fault.NAME_EXISTS: "RepositoryAlreadyExistsException",
    Fault.NAME_INVALID: "InvalidParameterException",
    Fault.NOT_EMPTY: "RepositoryNotEmptyException",
    Fault.TAG_IMMUTABLE: "ImageTagAlreadyExistsException",
    Fault.MANIFEST_BLOB_UNKNOWN: "LayersNotFoundException",
    Fault.UPLOAD_UNKNOWN: "UploadNotFoundException",
    Fault.BLOB_UNKNOWN: "LayersNotFoundException",
    Fault.BUSY: "LimitExceededException",
}


def told(error: RegistryError, declared: frozenset[str]) -> EcrError:
    """A refusal of the state machine as an error that the operation declares."""
    if error.fault is Fault.DENIED:
        return EcrError("AccessDeniedException", error.message)
    code = _CODES.get(error.fault, "InvalidParameterException")
    if code not in declared:
        code = "InvalidParameterException" if "InvalidParameterException" in declared else "ServerException"
    return EcrError(code, error.message)
