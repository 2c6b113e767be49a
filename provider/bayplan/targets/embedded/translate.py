"""Between the words of kinds and the words of the runtime: a container's declared properties and its specification.

:func:`spec_of` makes a specification from properties in canonical form, :func:`fields_of` reads one back; going there and
back is the identity on every property that can be declared, which a test holds for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayplan import kinds
from bayplan.kinds import values
from bayplan.oci.image import ImageConfig
from bayplan.plan.model import Value
from bayplan.runtime.spec import Attachment, ContainerSpec, Health, Mount, Port, RestartPolicy

#: What a container has that declares nothing, beside what its image says.
_DEFAULTS: Mapping[str, Value] = {
    "ports": [],
    "networks": [],
    "network_mode": "bridge",
    "volumes": [],
    "tmpfs": [],
    "read_only": False,
    "memory": None,
    "cpus": None,
    "pids_limit": None,
    "cap_add": [],
    "cap_drop": [],
    "privileged": False,
    "restart": "no",
    "stop_timeout": 10.0,
    "labels": {},
    "extra_hosts": {},
    "init": False,
}


def spec_of(
    inputs: Mapping[str, Value],
    *,
    name: str,
    digest: str,
    labels: Mapping[str, str],
    secret: frozenset[str],
    alias: str,
) -> ContainerSpec:
    """The specification of a container. ``secret`` are names of environment variables; ``alias`` its short name in the
    stack, to which it answers on every network it joins by name."""
    restart = values.parse_restart(str(inputs.get("restart", "no")))
    return ContainerSpec(
        name=name,
        image=digest,
        image_name=str(inputs.get("image", "")).partition("@")[0],
        command=_texts(inputs.get("command")),
        entrypoint=_texts(inputs.get("entrypoint")),
        env=dict(inputs.get("env") or {}),
        secret_env=secret,
        working_dir=inputs.get("working_dir"),
        user=inputs.get("user"),
        hostname=inputs.get("hostname"),
        ports=tuple(_port(text) for text in inputs.get("ports") or ()),
        networks=tuple(_attachment(one, alias) for one in inputs.get("networks") or ()),
        network_mode=inputs.get("network_mode", "bridge"),
        mounts=(
            *(_mount(text) for text in inputs.get("volumes") or ()),
            *(_tmpfs(text) for text in inputs.get("tmpfs") or ()),
        ),
        read_only=bool(inputs.get("read_only", False)),
        memory=inputs.get("memory"),
        cpus=inputs.get("cpus"),
        pids_limit=inputs.get("pids_limit"),
        cap_add=tuple(inputs.get("cap_add") or ()),
        cap_drop=tuple(inputs.get("cap_drop") or ()),
        privileged=bool(inputs.get("privileged", False)),
        restart=RestartPolicy(restart.policy),
        restart_retries=restart.retries,
        health=health_of(inputs["healthcheck"]) if inputs.get("healthcheck") else None,
        stop_signal=inputs.get("stop_signal"),
        stop_timeout=float(inputs.get("stop_timeout", 10.0)),
        labels={**(inputs.get("labels") or {}), **labels},
        extra_hosts=dict(inputs.get("extra_hosts") or {}),
        init=bool(inputs.get("init", False)),
    )


def fields_of(spec: ContainerSpec, *, labels: Mapping[str, str], alias: str) -> dict[str, Value]:
    """The properties that a specification says, canonical; what it leaves to the image is left out."""
    found: dict[str, Value] = {
        "ports": [str(values.Port(p.container, p.host, p.host_ip, p.protocol)) for p in spec.ports],
        "networks": [_network(one, alias) for one in spec.networks],
        "network_mode": spec.network_mode,
        "volumes": [
            str(values.Mount(m.type, m.source, m.target, m.read_only)) for m in spec.mounts if m.type != "tmpfs"
        ],
        "tmpfs": [str(values.Tmpfs(m.target, m.size)) for m in spec.mounts if m.type == "tmpfs"],
        "read_only": spec.read_only,
        "memory": spec.memory,
        "cpus": spec.cpus,
        "pids_limit": spec.pids_limit,
        "cap_add": list(spec.cap_add),
        "cap_drop": list(spec.cap_drop),
        "privileged": spec.privileged,
        "restart": str(values.Restart(spec.restart.value, spec.restart_retries)),
        "stop_timeout": spec.stop_timeout,
        "labels": dict(labels),
        "extra_hosts": dict(spec.extra_hosts),
        "init": spec.init,
        "env": dict(spec.env),
    }
    optional: Mapping[str, Value] = {
        "command": None if spec.command is None else list(spec.command),
        "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "working_dir": spec.working_dir,
        "user": spec.user,
        "hostname": spec.hostname,
        "stop_signal": spec.stop_signal,
        "healthcheck": None if spec.health is None else _health(spec.health),
    }
    found.update({name: value for name, value in optional.items() if value is not None})
    return kinds.normalise("Container", {name: value for name, value in found.items() if value is not None})


def defaults_of(config: ImageConfig, container_id: str) -> dict[str, Value]:
    """What each property is where nobody declares it: the image's word, else Docker's default."""
    found: dict[str, Value] = {
        "command": list(config.cmd or ()),
        "entrypoint": list(config.entrypoint or ()),
        "env": dict(item.partition("=")[::2] for item in config.env),
        "working_dir": config.working_dir or "/",
        "user": config.user or "",
        "hostname": container_id[:12],
        "stop_signal": values.parse_signal(config.stop_signal or "SIGTERM"),
    }
    if config.healthcheck is not None:
        health = config.healthcheck
        given: dict[str, Any] = {
            "test": list(health.test),
            "interval": health.interval,
            "timeout": health.timeout,
            "start_period": health.start_period,
            "start_interval": health.start_interval,
            "retries": health.retries,
        }
        found["healthcheck"] = {name: value for name, value in given.items() if value is not None}
        found.update(kinds.normalise("Container", {"healthcheck": found["healthcheck"]}))
    return {**_DEFAULTS, **found}


def health_of(value: Mapping[str, Value]) -> Health:
    """A health check in the runtime's words."""
    return Health(
        test=tuple(value["test"]),
        interval=float(value.get("interval", 30.0)),
        timeout=float(value.get("timeout", 30.0)),
        start_period=float(value.get("start_period", 0.0)),
        start_interval=float(value.get("start_interval", 5.0)),
        retries=int(value.get("retries", 3)),
        on_unhealthy=str(value.get("on_unhealthy", "none")),
    )


def _health(health: Health) -> dict[str, Value]:
    return {
        "test": list(health.test),
        "interval": health.interval,
        "timeout": health.timeout,
        "start_period": health.start_period,
        "start_interval": health.start_interval,
        "retries": health.retries,
        "on_unhealthy": health.on_unhealthy,
    }


def _texts(value: Value) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(one) for one in value)


def _port(text: str) -> Port:
    found = values.parse_port(text)
    return Port(found.container, found.host, found.host_ip, found.protocol)


def _mount(text: str) -> Mount:
    found = values.parse_mount(text)
    return Mount(found.type, found.target, found.source, found.read_only)


def _tmpfs(text: str) -> Mount:
    found = values.parse_tmpfs(text)
    return Mount("tmpfs", found.target, size=found.size)


def _attachment(value: Value, alias: str) -> Attachment:
    if isinstance(value, str):
        return Attachment(value, (alias,) if alias else ())
    aliases = [str(one) for one in value.get("aliases") or ()]
    return Attachment(str(value["name"]), tuple(dict.fromkeys([*aliases, *([alias] if alias else [])])))


def _network(one: Attachment, alias: str) -> Value:
    aliases = [name for name in one.aliases if name != alias]
    return {"name": one.network, "aliases": aliases} if aliases else one.network
