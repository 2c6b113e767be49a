"""`pulumi-resource-bayplan`: a server on a free port of the loopback, whose number is its first line of output."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from bayplan.errors import BayplanError

#: Calls at once. One that works waits for its turn; one that only compares must never wait for it.
THREADS = 64
#: As Pulumi's own servers have it: large programs send large states.
MESSAGE_BYTES = 400 << 20
#: Seconds that calls have to end once the process is told to.
GRACE = 4.0
#: Seconds between two looks whether the process that started this one is still there.
WATCH = 1.0


def main(argv: Sequence[str]) -> int:
    """Serve until the engine ends the process. ``argv``: flags (ignored), then the engine's address (none when attached to)."""
    from concurrent.futures import ThreadPoolExecutor

    from bayplan.pulumi.protocol import grpc, provider_pb2_grpc
    from bayplan.pulumi.service import Provider

    address = next((one for one in reversed(argv) if not one.startswith("-") and ":" in one and "//" not in one), "")
    server = grpc.server(
        ThreadPoolExecutor(max_workers=THREADS),
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.server_max_unrequested_time_in_server", 1800),
        ],
    )
    provider = Provider(address, Path.cwd())
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    ended = threading.Event()
    # Pulumi starts its providers in a process group of their own and ends them by SIGINT, with five seconds to do so.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    parent = os.getppid()
    while not ended.wait(WATCH) and (not address or os.getppid() == parent):
        pass  # one that Pulumi started goes when Pulumi is gone
    provider.stop()
    server.stop(GRACE).wait(GRACE)
    return 0


def command() -> None:
    """The console script."""
    try:
        sys.exit(main(sys.argv[1:]))
    except BayplanError as error:
        sys.stderr.write(error.render() + "\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    command()
