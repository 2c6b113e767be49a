#!/usr/bin/python
# Copyright (c) The bayplan authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack
short_description: Make the world what a definition says, or remove what it made
version_added: 0.1.0
description:
  - Hands a whole definition (images, repositories, networks, volumes, containers) to bayplan's engine, which looks,
    makes an exact plan, and carries out that plan.
  - Resources that the definition dropped since the last apply are removed. Nothing that bayplan did not make is touched.
  - A container in service is replaced only once its successor runs.
extends_documentation_fragment:
  - bayplan.containers.definition
attributes:
  check_mode:
    description: Can run in check mode and return what would change; it makes the plan and nothing else.
    support: full
  diff_mode:
    description: Returns what each operation changes, with values that may be secret masked.
    support: full
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second run changes nothing.
    support: full
options:
  state:
    description:
      - V(present) makes the world what the definition says.
      - V(absent) removes what the stack made, and only that, in the reverse order of its dependencies.
    type: str
    choices: [present, absent]
    default: present
  replace:
    description:
      - Addresses of resources to replace in any case. Every run replaces them. Only with O(state=present).
    type: list
    elements: str
    default: []
  lock_timeout:
    description:
      - How many seconds to wait while another run changes the same stack.
    type: float
    default: 60
notes:
  - Secrets with C(env) as their source come from the environment of the task (the keyword C(environment)).
seealso:
  - module: bayplan.containers.stack_info
"""

EXAMPLES = r"""
- name: What stands in bayplan.yaml beside the playbook
  bayplan.containers.stack:
    file: bayplan.yaml
    folder: "{{ playbook_dir }}"
    variables:
      port: 8080
  environment:
    APP_TOKEN: "{{ vault_app_token }}"

- name: A definition as data
  bayplan.containers.stack:
    folder: "{{ playbook_dir }}"
    definition:
      stack: shop
      secrets:
        token: {env: APP_TOKEN}
      resources:
        Image.shop:
          build: {context: ./app}
          tags: ["shop:1"]
        Container.shop:
          image: ${Image.shop.ref}
          ports: ["8080:3000"]
          env: {TOKEN: "${secret.token}"}
      outputs:
        image: ${Image.shop.ref}
  register: shop

- name: Replace one container in any case
  bayplan.containers.stack:
    file: bayplan.yaml
    folder: "{{ playbook_dir }}"
    replace: [Container.shop]

- name: Remove all of it
  bayplan.containers.stack:
    file: bayplan.yaml
    folder: "{{ playbook_dir }}"
    state: absent
"""

RETURN = r"""
stack:
  description: The stack's name.
  returned: when the definition could be read
  type: str
  sample: shop
plan:
  description: The plan in its short notation, one line an operation.
  returned: when a plan could be made
  type: str
  sample: |-
    shop: 1 operation
      [1] Container.shop   replace   memory; bayplan.yaml:9; the old one serves until the new one runs
    nothing else changes; 2 resources looked at in 5 calls
operations:
  description:
    - The operations of the plan, in its order. In check mode those that would be carried out.
    - On failure it tells which were carried out and which were not; C(changed) is true when at least one was.
  returned: always
  type: list
  elements: dict
  contains:
    number: {description: Its number in the plan., type: int, returned: always}
    address: {description: The resource., type: str, returned: always, sample: Container.shop}
    kind: {description: The kind of the resource., type: str, returned: always, sample: Container}
    place: {description: The host or registry it stands in., type: str, returned: always}
    action:
      description: The one effect, such as V(create), V(update), V(replace), V(delete), V(build) or V(push).
      type: str
      returned: always
    cause: {description: Why., type: str, returned: always}
    changes:
      description: The fields that change, with values that may be secret masked.
      type: list
      elements: dict
      returned: always
      contains:
        field: {description: The property., type: str, returned: always}
        before: {description: Its value now., type: raw, returned: always}
        after: {description: Its value afterwards., type: raw, returned: always}
        reason:
          description: V(declared), V(drift), V(removed) or V(upstream).
          type: str
          returned: always
        replaces: {description: Whether it takes a replacement., type: bool, returned: always}
        where: {description: The place in the file., type: dict, returned: when a file declares it}
    after:
      description: The numbers of the operations that have to end well before.
      type: list
      elements: int
      returned: always
    recovers:
      description: Whether it finishes what an interrupted run left.
      type: bool
      returned: always
    where: {description: The place in the file that asks for it., type: dict, returned: when a file does}
    note: {description: What it costs the service., type: str, returned: when it does}
    warning: {description: What to look out for., type: str, returned: when there is something}
    waits_for:
      description: What has to be started or healthy before.
      type: dict
      returned: when there is something
    result:
      description: How it ended, V(ok), V(failed), V(unknown), V(stale), V(skipped) or V(cancelled).
      type: str
      returned: when it was begun or given up
    seconds: {description: How long it took., type: float, returned: when it was begun or given up}
    detail: {description: What came of it., type: str, returned: when there is something}
    error: {description: The error with C(code) and C(message)., type: dict, returned: when it did not end well}
outputs:
  description:
    - The outputs of the stack, those with secrets masked. In check mode those of the last apply.
  returned: success
  type: dict
  sample: {image: "shop:1"}
errors:
  description: The errors as data, each with C(code), C(message), and where they are known C(where) and C(hint).
  returned: failure
  type: list
  elements: dict
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.bayplan.containers.plugins.module_utils._module import DefinitionModule
from ansible_collections.bayplan.containers.plugins.module_utils._result import (
    diffs,
    had_effect,
    masked,
    objects,
    operations,
)

if TYPE_CHECKING:
    from bayplan.engine import Definitions, Engine, Planned
    from bayplan.execute.events import Event, Finished

OPTIONS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "replace": {"type": "list", "elements": "str", "default": []},
    "lock_timeout": {"type": "float", "default": 60.0},
}


class Run:
    """One run of the module: the plan that was made last, and the operations that ended, whatever happens."""

    def __init__(self, module: DefinitionModule, engine: Engine, definitions: Definitions) -> None:
        self.module = module
        self.engine = engine
        self.definitions = definitions
        self.absent = module.params["state"] == "absent"
        self.planned: Planned | None = None
        self.finished: list[Finished] = []

    def plan(self) -> Planned:
        """Plan, and refuse what is known to fail. Raises BayplanError."""
        from bayplan.cli.execution import refuse

        self.planned = self.engine.plan(
            self.definitions,
            only=self.module.params["targets"],
            replace_=self.module.params["replace"],
            destroy=self.absent,
        )
        refuse(self.planned)
        return self.planned

    def check(self) -> dict[str, Any]:
        """What would be done, without effect."""
        planned = self.plan()
        state = self.engine.state(self.definitions.stack)
        outputs = state.outputs() if state.exists and not self.absent else {}
        state.close()
        return {"changed": not planned.plan.empty, "outputs": outputs}

    def apply(self) -> dict[str, Any]:
        """Do it. Raises BayplanError for what keeps it from beginning, and whatever stops it in between."""
        from bayplan.cli.interrupt import interruptible

        self.engine.mend(self.definitions)
        verb = "destroy" if self.absent else "apply"
        with interruptible() as cancel:
            _, applied = self.engine.plan_and_apply(self.plan, verb=verb, sink=self.note, cancel=cancel)
        report = applied.report
        self.finished = list(report.finished)
        result = {"changed": had_effect(self.finished), "outputs": dict(applied.outputs)}
        if not report.ok:
            self.fail(cancelled=report.cancelled)
        return result

    def note(self, event: Event) -> None:
        from bayplan.execute.events import Finished

        if isinstance(event, Finished):
            self.finished.append(event)

    def told(self) -> dict[str, Any]:
        """What is known of the plan and of the operations, masked."""
        from bayplan.plan import notation

        if self.planned is None:
            return {"stack": self.definitions.stack}
        shown = masked(self.planned, self.module.alias)
        told: dict[str, Any] = {
            "stack": self.definitions.stack,
            "plan": self.module.named(notation.short(shown.plan)),
            "operations": operations(shown, self.finished),
        }
        if self.module._diff:
            told["diff"] = diffs(shown)
        return told

    def fail(self, *, cancelled: bool) -> None:
        """The failed operations in words; those that were skipped for them are in the result."""
        errors = [one for one in self.finished if one.error is not None and one.result.value != "skipped"]
        parts = [f"{one.operation.address} {one.operation.action.value}: {_sentence(one)}" for one in errors]
        if cancelled:
            parts.insert(0, "stopped before the end")
        self.module.fail_json(
            "; ".join(parts) or "the plan could not be carried out",
            errors=[one.error.as_dict() for one in errors if one.error is not None],
            changed=self.touched(),
            **self.told(),
        )

    def touched(self) -> bool:
        """Whether a run that failed left something other than it was, asked of the world: a failed operation may have
        left an object behind, or have been undone."""
        from bayplan.errors import BayplanError

        if had_effect(self.finished):
            return True
        if self.planned is None or not self.finished:
            return False
        try:
            after = self.engine.plan(self.definitions, only=self.module.params["targets"], destroy=self.absent)
        except BayplanError:
            return True  # nobody can know; a change that is told too much is the smaller harm
        return objects(after) != objects(self.planned)


def _sentence(one: Finished) -> str:
    if one.error is None:
        return one.detail
    return f"{one.error.message} ({one.error.hint})" if one.error.hint else one.error.message


def main() -> None:
    module = DefinitionModule(OPTIONS)
    from bayplan.errors import BayplanError

    if module.params["state"] == "absent" and module.params["replace"]:
        module.fail_json("replace says what to make anew, which state: absent never does")
    with module.told():
        engine = module.engine()
        run = Run(module, engine, module.definitions(engine))
    try:
        result = run.check() if module.check_mode else run.apply()
    except BayplanError as error:
        module.refuse(error, changed=run.touched(), **run.told())
    except Exception as error:  # noqa: BLE001 -- whatever it was: what was done until then is told with it
        module.fail_json("bayplan met an error of its own", exception=error, changed=run.touched(), **run.told())
    if run.planned is not None:
        for warning in run.planned.plan.warnings:
            module.warn(module.named(warning))
    module.exit_json(**result, **run.told())


if __name__ == "__main__":
    main()
