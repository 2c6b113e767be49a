#!/usr/bin/python
# Copyright (c) The bayplan authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: What an apply of a definition would do, and what changed outside
version_added: 0.1.0
description:
  - Looks at the world and makes the plan of a definition, without any effect.
  - Tells besides what differs from the last apply for another reason than the definition (drift).
extends_documentation_fragment:
  - bayplan.containers.definition
attributes:
  check_mode:
    description: Can run in check mode; the module has no effect in any mode.
    support: full
  diff_mode:
    description: Returns no diff, since it changes nothing; RV(operations) holds what would change.
    support: none
  idempotent:
    description: The module changes nothing.
    support: full
seealso:
  - module: bayplan.containers.stack
"""

EXAMPLES = r"""
- name: Does everything stand as it was applied?
  bayplan.containers.stack_info:
    file: bayplan.yaml
    folder: "{{ playbook_dir }}"
  register: shop

- name: Tell what changed outside
  ansible.builtin.assert:
    that: not shop.drift
    fail_msg: "{{ shop.drift | map(attribute='what') | join('; ') }}"
"""

RETURN = r"""
stack:
  description: The stack's name.
  returned: success
  type: str
  sample: shop
plan:
  description: The plan in its short notation, one line an operation.
  returned: success
  type: str
  sample: |-
    shop: no changes; 2 resources looked at in 5 calls
in_sync:
  description: Whether an apply would have nothing to do and meet no trouble.
  returned: success
  type: bool
operations:
  description:
    - The operations that an apply would carry out, in their order, as M(bayplan.containers.stack) returns them in check
      mode.
  returned: always
  type: list
  elements: dict
  contains:
    number: {description: Its number in the plan., type: int, returned: always}
    address: {description: The resource., type: str, returned: always, sample: Container.shop}
    action: {description: The one effect., type: str, returned: always, sample: replace}
    cause: {description: Why., type: str, returned: always}
    changes:
      description: The fields that change, with values that may be secret masked.
      type: list
      elements: dict
      returned: always
problems:
  description: What is known already to keep an apply from succeeding (a taken port, an image that nobody has).
  returned: success
  type: list
  elements: str
drift:
  description: What is not as the last apply left it.
  returned: success
  type: list
  elements: dict
  contains:
    address: {description: The resource., type: str, returned: always}
    what: {description: What happened to it in words., type: str, returned: always}
    changes:
      description: The fields with their values before and after, those that may be secret masked.
      type: list
      elements: dict
      returned: always
outputs:
  description: The outputs of the last apply, those with secrets masked.
  returned: success
  type: dict
errors:
  description: The errors as data, each with C(code), C(message), and where they are known C(where) and C(hint).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.bayplan.containers.plugins.module_utils._module import DefinitionModule
from ansible_collections.bayplan.containers.plugins.module_utils._result import masked, operations


def main() -> None:
    module = DefinitionModule({})
    from bayplan.engine import drift
    from bayplan.plan import notation

    with module.told():
        engine = module.engine()
        definitions = module.definitions(engine)
        planned = masked(engine.plan(definitions, only=module.params["targets"]), module.alias)
        state = engine.state(definitions.stack)
        outputs = state.outputs() if state.exists else {}
        state.close()
    plan = planned.plan
    for warning in plan.warnings:
        module.warn(module.named(warning))
    module.exit_json(
        changed=False,
        stack=plan.stack,
        plan=module.named(notation.short(plan)),
        in_sync=plan.empty and not plan.problems,
        operations=operations(planned),
        problems=[module.named(one) for one in plan.problems],
        drift=[one.as_dict() for one in drift(planned)],
        outputs=outputs,
    )


if __name__ == "__main__":
    main()
