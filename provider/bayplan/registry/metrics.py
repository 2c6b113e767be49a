"""What the server counts, as Prometheus reads it (text format 0.0.4).

Counted from the lines of the access log, so that what is logged and what is counted cannot differ. Labels have few values: no
repository, no caller stands in one.
"""

from __future__ import annotations

import bisect
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping

from bayplan.registry.exchange import Access

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"})
_ENDPOINTS = ("/manifests/", "/blobs/uploads", "/blobs/", "/tags/list", "/referrers/")


def endpoint_of(target: str) -> str:
    """The part of the API that a request's target belongs to: ``manifests``, ``uploads``, ``ecr`` ..."""
    path = target.partition("?")[0]
    if path.startswith("/v2/"):
        for mark in _ENDPOINTS:
            if mark in path:
                return "uploads" if mark == "/blobs/uploads" else mark.strip("/").partition("/")[0]
        return "catalog" if path == "/v2/_catalog" else "root"
    return {"/": "ecr", "/token": "token", "/v2": "root", "/healthz": "health", "/metrics": "metrics"}.get(
        path, "other"
    )


class Metrics:
    """The counters of one server. Called on the event loop with each :class:`Access`."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, tuple[list[int], list[float]]] = {}  # endpoint: (counts by bound, [sum])
        self._received = self._sent = 0
        self._began = time.time()

    def __call__(self, access: Access) -> None:
        endpoint = endpoint_of(access.target)
        key = (endpoint, access.method if access.method in _METHODS else "other", access.status)
        self._requests[key] = self._requests.get(key, 0) + 1
        counts, total = self._times.setdefault(endpoint, ([0] * (len(_BOUNDS) + 1), [0.0]))
        counts[bisect.bisect_left(_BOUNDS, access.seconds)] += 1
        total[0] += access.seconds
        self._received += access.received
        self._sent += access.sent

    def text(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> str:
        """The page. ``gauges``: by name, what it means and how to read it now."""
        return "".join(f"{line}\n" for line in self._lines(gauges))

    def _lines(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> Iterator[str]:
        yield from _head("bayplan_registry_requests_total", "counter", "Requests answered.")
        for (endpoint, method, status), count in sorted(self._requests.items()):
            labels = f'endpoint="{endpoint}",method="{method}",status="{status}"'
            yield f"bayplan_registry_requests_total{{{labels}}} {count}"
        name = "bayplan_registry_request_seconds"
        yield from _head(name, "histogram", "Time from a request's head to its answer's end.")
        for endpoint, (counts, total) in sorted(self._times.items()):
            seen = 0
            for bound, count in zip((*map(str, _BOUNDS), "+Inf"), counts, strict=True):
                seen += count
                yield f'{name}_bucket{{endpoint="{endpoint}",le="{bound}"}} {seen}'
            yield f'{name}_sum{{endpoint="{endpoint}"}} {total[0]:.6f}'
            yield f'{name}_count{{endpoint="{endpoint}"}} {seen}'
        for name, help, value in (
            ("bayplan_registry_received_bytes_total", "Bytes of requests' bodies.", self._received),
            ("bayplan_registry_sent_bytes_total", "Bytes of answers' bodies.", self._sent),
        ):
            yield from _head(name, "counter", help)
            yield f"{name} {value}"
        for name, (help, read) in gauges.items():
            yield from _head(name, "gauge", help)
            yield f"{name} {read():.15g}"
        yield from _process(self._began)


def _process(began: float) -> Iterator[str]:
    """The metrics that every Prometheus client library gives of its process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (no path of a user)
        pages = int(file.read().split()[1])
    yield from _head("process_cpu_seconds_total", "counter", "User and system CPU time.")
    yield f"process_cpu_seconds_total {used.ru_utime + used.ru_stime:.2f}"
    yield from _head("process_resident_memory_bytes", "gauge", "Resident memory.")
    yield f"process_resident_memory_bytes {pages * os.sysconf('SC_PAGE_SIZE')}"
    yield from _head("process_open_fds", "gauge", "Open file descriptors.")
    yield f"process_open_fds {len(os.listdir('/proc/self/fd'))}"
    yield from _head("process_start_time_seconds", "gauge", "When the server began, in Unix seconds.")
    yield f"process_start_time_seconds {began:.2f}"


def _head(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"
