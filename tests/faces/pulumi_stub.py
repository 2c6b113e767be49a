"""The provider as Pulumi's engine starts it, and the engine's side of the protocol over the stubs of Pulumi's release."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import CommandLine

from bayplan.pulumi.protocol import Empty, grpc, provider_pb2, provider_pb2_grpc
from bayplan.pulumi.values import decode, encode

TIMEOUT = 120.0


@dataclass
class Stub:
    """A configured provider. ``call`` names a method of the protocol."""

    process: subprocess.Popen[str]
    service: Any
    port: int

    def call(self, method: str, request: Any) -> Any:
        return getattr(self.service, method)(request, timeout=TIMEOUT)

    def urn(self, kind: str, name: str) -> str:
        return f"urn:pulumi:dev::shop::bayplan:index:{kind}::{name}"

    def check(self, kind: str, name: str, inputs: Mapping[str, Any]) -> Any:
        return self.call("Check", provider_pb2.CheckRequest(urn=self.urn(kind, name), news=encode(inputs)))

    def diff(
        self,
        kind: str,
        name: str,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.call(
            "Diff",
            provider_pb2.DiffRequest(
                id=f"shop-dev/{kind}.{name}@1",
                urn=self.urn(kind, name),
                olds=encode(before if state is None else state),
                old_inputs=encode(before),
                news=encode(after),
            ),
        )

    def create(
        self, kind: str, name: str, inputs: Mapping[str, Any], *, preview: bool = False
    ) -> tuple[str, dict[str, Any]]:
        request = provider_pb2.CreateRequest(urn=self.urn(kind, name), properties=encode(inputs), preview=preview)
        told = self.call("Create", request)
        return told.id, decode(told.properties)

    def update(
        self,
        kind: str,
        name: str,
        id_: str,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> dict[str, Any]:
        request = provider_pb2.UpdateRequest(
            id=id_, urn=self.urn(kind, name), olds=encode(state), old_inputs=encode(before), news=encode(after)
        )
        return decode(self.call("Update", request).properties)

    def read(self, kind: str, name: str, id_: str, inputs: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        request = provider_pb2.ReadRequest(
            id=id_, urn=self.urn(kind, name), inputs=encode(inputs), properties=encode(state)
        )
        return self.call("Read", request)

    def delete(self, kind: str, name: str, id_: str, inputs: Mapping[str, Any]) -> None:
        request = provider_pb2.DeleteRequest(
            id=id_, urn=self.urn(kind, name), properties=encode(inputs), old_inputs=encode(inputs)
        )
        self.call("Delete", request)


@contextmanager
def started(line: CommandLine, **configuration: Any) -> Iterator[Stub]:
    """The provider in a process of its own, in the current folder of ``line``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bayplan.pulumi.main"],
        cwd=line.cwd,
        env={**os.environ, **line.environment()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = Stub(process, provider_pb2_grpc.ResourceProviderStub(channel), port)
            stub.call("Handshake", provider_pb2.ProviderHandshakeRequest(program_directory=str(line.cwd)))
            stub.call("Configure", provider_pb2.ConfigureRequest(args=encode(configuration)))
            yield stub
            stub.call("Cancel", Empty())
    finally:
        process.terminate()
        process.wait(15)


def tree(folder: Path, busybox: Path) -> None:
    """A root file system ``tree`` in ``folder``."""
    (folder / "tree/bin").mkdir(parents=True)
    (folder / "tree/bin/busybox").write_bytes(busybox.read_bytes())
    (folder / "tree/bin/busybox").chmod(0o755)


def kernel_limit(line: CommandLine, name: str, controller: str) -> int:
    """What the kernel holds a container to: ``memory`` in bytes, ``pids`` in processes."""
    from bayplan.oci.root import Root
    from bayplan.runtime import cgroup
    from bayplan.runtime.containers import Runtime

    root = Root.at(line.root)
    group = f"/bayplan-{root.hash}/{Runtime(root).inspect(name).id}"
    folder = cgroup.folder(group, controller)
    names = {"memory": ("memory.limit_in_bytes", "memory.max"), "pids": ("pids.max",)}[controller]
    return int(next(folder / one for one in names if (folder / one).exists()).read_text())
