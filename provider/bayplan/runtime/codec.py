"""Container specifications as JSON and back, without loss; secret values apart.

``container.json`` holds what this module writes. The values of ``secret_env`` do not go through it: they are taken
out here and given back here, and what is done with them in between (:mod:`.hostkey`) is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayplan.records import replace
from bayplan.runtime.spec import Attachment, ContainerSpec, Health, Mount, Port, RestartPolicy

_PLAIN = [
    "name",
    "image",
    "image_name",
    "working_dir",
    "user",
    "hostname",
    "network_mode",
    "read_only",
    "memory",
    "cpus",
    "pids_limit",
    "privileged",
    "restart_retries",
    "stop_signal",
    "stop_timeout",
    "init",
    "tty",
    "open_stdin",
]


def health_json(health: Health) -> dict[str, Any]:
    return {
        "test": list(health.test),
        "interval": health.interval,
        "timeout": health.timeout,
        "start_period": health.start_period,
        "start_interval": health.start_interval,
        "retries": health.retries,
        "on_unhealthy": health.on_unhealthy,
    }


def health_from(data: Mapping[str, Any] | None) -> Health | None:
    return None if data is None else Health(**{**data, "test": tuple(data["test"])})


def spec_json(spec: ContainerSpec) -> dict[str, Any]:
    """The specification; names of ``secret_env`` stay, their values do not."""
    out: dict[str, Any] = {name: getattr(spec, name) for name in _PLAIN}
    out["command"] = None if spec.command is None else list(spec.command)
    out["entrypoint"] = None if spec.entrypoint is None else list(spec.entrypoint)
    out["env"] = {name: value for name, value in spec.env.items() if name not in spec.secret_env}
    out["secret_env"] = sorted(spec.secret_env)
    out["ports"] = [
        {"container": p.container, "host": p.host, "host_ip": p.host_ip, "protocol": p.protocol} for p in spec.ports
    ]
    out["networks"] = [{"network": a.network, "aliases": list(a.aliases)} for a in spec.networks]
    out["mounts"] = [
        {"type": m.type, "target": m.target, "source": m.source, "read_only": m.read_only, "size": m.size}
        for m in spec.mounts
    ]
    out["cap_add"], out["cap_drop"] = list(spec.cap_add), list(spec.cap_drop)
    out["restart"] = spec.restart.value
    out["health"] = None if spec.health is None else health_json(spec.health)
    out["labels"], out["extra_hosts"] = dict(spec.labels), dict(spec.extra_hosts)
    return out


def spec_from(data: Mapping[str, Any]) -> ContainerSpec:
    """What :func:`spec_json` was given, but for the secret values."""
    plain = {name: data[name] for name in _PLAIN}
    return ContainerSpec(
        **plain,
        command=None if data["command"] is None else tuple(data["command"]),
        entrypoint=None if data["entrypoint"] is None else tuple(data["entrypoint"]),
        env=dict(data["env"]),
        secret_env=frozenset(data["secret_env"]),
        ports=tuple(Port(**port) for port in data["ports"]),
        networks=tuple(Attachment(entry["network"], tuple(entry["aliases"])) for entry in data["networks"]),
        mounts=tuple(Mount(**mount) for mount in data["mounts"]),
        cap_add=tuple(data["cap_add"]),
        cap_drop=tuple(data["cap_drop"]),
        restart=RestartPolicy(data["restart"]),
        health=health_from(data["health"]),
        labels=dict(data["labels"]),
        extra_hosts=dict(data["extra_hosts"]),
    )


def secrets_of(spec: ContainerSpec) -> dict[str, str]:
    """The values that must not be written in clear."""
    return {name: spec.env[name] for name in sorted(spec.secret_env) if name in spec.env}


def with_secrets(spec: ContainerSpec, values: Mapping[str, str]) -> ContainerSpec:
    """The specification with its secret values filled in again."""
    return replace(spec, env={**spec.env, **values})
