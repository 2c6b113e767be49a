"""A registry served for tests of the ECR API, with clients that check every answer against the API's own model."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from registry_processes import serving

from bayplan.oci.root import Root
from bayplan.registry.access.accounts import AccessKey, Accounts
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.server import Settings


class EcrSite:
    """A root with its registry on an address."""

    def __init__(self, root: Root, address: str) -> None:
        self.root = root
        self.address = address
        self.accounts = Accounts(root)

    @property
    def number(self) -> str:
        return self.accounts.load().number

    def client(self, key: AccessKey | None = None, service: str = "ecr", **more: Any) -> Any:
        """A boto3 client; what it is answered is checked (see :func:`checked`)."""
        account = self.accounts.load()
        used = key or account.root_key
        made = boto3.client(
            service,
            endpoint_url=f"http://{self.address}",
            region_name=account.region,
            aws_access_key_id=used.id,
            aws_secret_access_key=used.secret,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
            **more,
        )
        made.meta.events.register(f"after-call.{service}", checked)
        return made


def checked(http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:
    """Every answer has the members of its output shape and no others; every error is one that the operation declares."""
    if http_response.status_code == 200:
        body = {name: value for name, value in parsed.items() if name != "ResponseMetadata"}
        raw = json.loads(http_response.content)
        _fits(raw, model.output_shape, model.name)
        assert set(body) == set(raw), "boto3 reads all that is said"
        return
    code = parsed["Error"]["Code"]
    common = {"AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException"}
    assert code in {one.name for one in model.error_shapes} | common, f"{model.name} does not declare {code}"
    assert code != "ServerException"


def _fits(value: Any, shape: Any, path: str) -> None:
    if shape is None:
        assert value == {}, path
    elif shape.type_name == "structure":
        assert isinstance(value, dict), path
        assert set(value) <= set(shape.members), f"{path}: {set(value) - set(shape.members)}"
        assert set(shape.required_members) <= set(value), path
        for name, one in value.items():
            _fits(one, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        assert isinstance(value, list), path
        for one in value:
            _fits(one, shape.member, f"{path}[]")
    elif shape.type_name == "map":
        for one in value.values():
            _fits(one, shape.value, f"{path}{{}}")
    else:
        kinds = {
            "string": str,
            "integer": int,
            "long": int,
            "boolean": bool,
            "timestamp": (int, float),
            "double": float,
        }
        assert isinstance(value, kinds[shape.type_name]), f"{path}: {value!r} is no {shape.type_name}"
        if getattr(shape, "enum", None):
            assert value in shape.enum, f"{path}: {value!r}"


@contextlib.contextmanager
def ecr(
    folder: Path, anonymous: Anonymous = Anonymous.NONE, expected: Collection[str] = (), **more: Any
) -> Iterator[EcrSite]:
    """A registry in ``folder``; ``more`` are further settings of its server, ``expected`` codes of what may fail within it."""
    root = Root.at(folder).ensure()
    settings = Settings(**{"listen": "127.0.0.1:0", "anonymous": anonymous, **more})
    with serving(root, settings, expected=expected) as address:
        yield EcrSite(root, address)


@contextlib.contextmanager
def refused(code: str) -> Iterator[list[ClientError]]:
    """The block is answered with the error ``code``."""
    met: list[ClientError] = []
    with pytest.raises(ClientError) as caught:
        yield met
    assert caught.value.response["Error"]["Code"] == code, caught.value
    met.append(caught.value)


def eventually(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What ``look`` gives once it gives something; what goes on behind an answer has its own pace."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


def ask(
    site: EcrSite, method: str, path: str, data: bytes = b"", kind: str = "", password: str = ""
) -> tuple[int, str]:
    """One request of the distribution API with an ECR token (the root user's, or ``password``): (status, body)."""
    token = password or login(site.client())
    request = urllib.request.Request(f"http://{site.address}{path}", data or None, method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(f"AWS:{token}".encode()).decode())
    if kind:
        request.add_header("Content-Type", kind)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def login(client: Any) -> str:
    token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    return base64.b64decode(token).decode().partition(":")[2]
