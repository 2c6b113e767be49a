"""What the provider tells the user through Pulumi's engine: lines of progress beside the resource, and warnings."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from bayplan.pulumi.protocol import engine_pb2, engine_pb2_grpc, grpc

if TYPE_CHECKING:
    from bayplan.execute.events import Event

#: Seconds that a line may take to get there. A line that is lost is no failure.
TIMEOUT = 5.0


class Talk:
    """A line to the engine at ``address`` (``""``: there is none, and nothing is told)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stub: Any = None
        self._lock = threading.Lock()

    def progress(self, urn: str, text: str) -> None:
        """A line that the next one of the same resource takes the place of."""
        self._log(urn, text, engine_pb2.INFO, ephemeral=True)

    def warn(self, urn: str, text: str) -> None:
        self._log(urn, text, engine_pb2.WARNING, ephemeral=False)

    def sink(self, urn: str) -> Any:
        """An execution's events as lines of progress: steps as they begin, the output of builds line by line."""
        from bayplan.execute.events import Output, Progress, Started

        def take(event: Event) -> None:
            if isinstance(event, Started):
                self.progress(urn, f"{event.operation.action}: {event.operation.cause}")
            elif isinstance(event, Progress):
                self.progress(urn, event.text)
            elif isinstance(event, Output):
                for line in event.data.decode("utf-8", "replace").splitlines():
                    if line.strip():
                        self.progress(urn, line)

        return take

    def _log(self, urn: str, text: str, severity: Any, *, ephemeral: bool) -> None:
        if not self._address:
            return
        with self._lock:
            if self._stub is None:
                self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(self._address))
        request = engine_pb2.LogRequest(severity=severity, message=text, urn=urn, ephemeral=ephemeral)
        try:
            self._stub.Log(request, timeout=TIMEOUT)
        except grpc.RpcError:
            return  # the engine went away; the call itself will notice
