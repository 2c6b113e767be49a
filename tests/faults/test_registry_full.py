"""A disk that fills up under the registry: pushes are refused with the reason, nothing dangles, and with room it works again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from registry_processes import ServerProcess, image

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.client import RegistryClient
from bayplan.registry.registry import Registry

pytestmark = pytest.mark.root
SIZE = 24 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], check=True, timeout=20)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def post(address: str, repository: str, data: bytes) -> tuple[int, bytes]:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    url = f"http://{address}/v2/{repository}/blobs/uploads/?digest={digest}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method="POST"), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_full_disk(small: Path, tmp_path: Path) -> None:
    server = ServerProcess(small / "root")
    address = server.start()
    here = Store(Root.at(tmp_path / "here").ensure())
    first = image(here, [os.urandom(1_000_000)])
    with RegistryClient(attempts=1, environment={"HOME": str(tmp_path)}) as client:
        client.push(here, first, ImageName(address, "app", "v1"))
        status, body = post(address, "app", os.urandom(SIZE))
        assert status == 507
        assert "full" in json.loads(body)["errors"][0]["message"]
        assert list((small / "root/oci/incoming").iterdir()) == [], "what came of it is gone"
        statuses = [post(address, "app", os.urandom(3_000_000))[0] for _ in range(10)]
        assert statuses[0] == 201
        assert statuses[-1] == 507
        filler = os.open(small / "filler", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):  # to the last byte
            while True:
                os.write(filler, bytes(4096))
        os.close(filler)
        second = image(here, [b"small"], tag="second")
        for _ in range(5):
            with pytest.raises(BayplanError):
                client.push(here, second, ImageName(address, "app", "v2"))
        assert client.resolve(ImageName(address, "app", "v1")).digest == first, "what is there is served"
        with pytest.raises(BayplanError, match="v2"):
            client.resolve(ImageName(address, "app", "v2"))
        (small / "filler").unlink()
        client.push(here, second, ImageName(address, "app", "v2"))
        assert client.resolve(ImageName(address, "app", "v2")).digest == second
    assert server.stop() == 0
    registry = Registry(Root.at(small / "root"))
    for tag in registry.tags("app"):
        _, content = registry.manifest("app", tag.name)
        for entry in (json.loads(content)["config"], *json.loads(content)["layers"]):
            with registry.store.open(Digest.parse(entry["digest"])) as file:
                assert "sha256:" + hashlib.sha256(file.read()).hexdigest() == entry["digest"]
    registry.close()
