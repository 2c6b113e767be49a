"""Saved plans: ``plan --out FILE`` and ``apply FILE``.

The file holds the plan as it was shown and where its secrets come from (never their values). It is sealed with the digest
of the plan: a file that was edited is refused whole, an operation whose object changed since is refused alone.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from bayplan.engine import Definitions, Engine, Planned
from bayplan.engine.definitions import secret_source, secrets_again
from bayplan.errors import BayplanError
from bayplan.plan import codec
from bayplan.plan.model import World


def save(planned: Planned, path: Path) -> None:
    """Write the plan to ``path`` (0600), whole or not at all."""
    document = {
        "bayplan_saved_plan": 1,
        "plan": json.loads(codec.dump(planned.plan)),
        "secrets": dict(planned.definitions.secret_sources),
        "registries": {alias: dict(entry) for alias, entry in planned.definitions.registries.items()},
        "seen_run": planned.seen_run,
    }
    draft = path.with_name(path.name + ".part")
    descriptor = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, separators=(",", ":"))
        file.write("\n")
    draft.replace(path)


def load(engine: Engine, arguments: argparse.Namespace) -> Planned:
    """Read a saved plan back. Raises BayplanError ``not-a-plan`` and what :func:`bayplan.plan.codec.load` raises."""
    path: Path = arguments.plan
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise BayplanError("not-a-plan", f"the plan {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BayplanError(
            "not-a-plan", f"{path} is not a saved plan", hint="make one: bayplan plan --out FILE"
        ) from error
    if not isinstance(document, dict) or document.get("bayplan_saved_plan") != 1:
        raise BayplanError("not-a-plan", f"{path} is not a saved plan", hint="make one: bayplan plan --out FILE")
    plan = codec.load(json.dumps(document["plan"]), name=str(path))
    rows = engine.state(plan.stack).recorded()
    sources = document.get("secrets", {})
    secrets = secret_source(secrets_again(sources, os.environ, _sensitive(arguments)))
    return Planned(
        plan=plan,
        definitions=Definitions(
            plan.stack, {}, plan.outputs, secrets, sources, registries=document.get("registries", {})
        ),
        desired={},
        world=World(),
        recorded=rows,
        seen_run=int(document.get("seen_run", 0)),
        whole=False,
    )


def _sensitive(arguments: argparse.Namespace) -> dict[str, str]:
    """Sensitive variables of a saved plan: from ``--var`` or ``BAYPLAN_VAR_x``, since a plan keeps no values of theirs."""
    found = {f"var.{k.removeprefix('BAYPLAN_VAR_')}": v for k, v in os.environ.items() if k.startswith("BAYPLAN_VAR_")}
    for item in arguments.var:
        name, _, value = item.partition("=")
        found[f"var.{name}"] = value
    return found
