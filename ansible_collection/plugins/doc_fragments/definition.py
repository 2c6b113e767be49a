# Copyright (c) The bayplan authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every module over a whole definition takes, and how it behaves."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of ``module_utils/_module.py``'s ``DEFINITION``."""

    DOCUMENTATION = r"""
options:
  file:
    description:
      - The stack files, or folders that hold a C(bayplan.yaml). All of them make one stack.
      - A relative path starts at O(folder). What stands in a file starts at the folder of that file.
      - Exactly one of O(file) and O(definition) is needed.
    type: list
    elements: path
  definition:
    description:
      - The definition as data, in the form of a stack file (C(stack), C(variables), C(secrets), C(resources),
        C(outputs)). Relative paths in it start at O(folder), which must be writable for a moment.
      - Name secrets under C(secrets) instead of writing them here; whatever stands in here is in the playbook in clear.
    type: dict
  folder:
    description:
      - The folder where relative paths start, usually C({{ playbook_dir }}). Default is the folder where the
        module runs, which for a local connection is the playbook's.
    type: path
  variables:
    description:
      - Values for the variables that the definition declares. They take the declared type.
      - The values appear nowhere in results, sensitive or not.
    type: dict
    default: {}
  targets:
    description:
      - Addresses (C(Container.web)) of the only resources to look after, with what they need. Default is all of them.
    type: list
    elements: str
    default: []
  bayplan_root:
    description:
      - The folder of what this host keeps.
      - Default is the environment variable E(BAYPLAN_ROOT), else C(/var/lib/bayplan), for an ordinary user
        C(~/.local/share/bayplan).
    type: path
  bayplan_state:
    description:
      - The folder of the states of stacks.
      - Default is the environment variable E(BAYPLAN_STATE), else C(/var/lib/bayplan/state), for an ordinary user
        C(~/.local/state/bayplan).
    type: path
requirements:
  - Python 3.11 or later where the module runs
  - bayplan (C(pip install bayplan)), importable by that Python
attributes:
  action_group:
    description: Use C(group/bayplan.containers.bayplan) in C(module_defaults) to set defaults for these modules.
    support: full
    membership:
      - bayplan.containers.bayplan
  platform:
    description: Where the module can run.
    platforms: linux
    support: full
author:
  - The bayplan authors (!UNKNOWN)
"""
