# Copyright (c) The bayplan authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the options of a task to a loaded stack and an engine; from what went wrong to a failed task.

The modules are a thin face: they read options here, call the engine that every other face calls, and shape what it says
(:mod:`._result`). Nothing is decided on this side.

Two things a module of Ansible gives away by itself are kept back: results name the options they were called with
(``invocation``), and the system log of the target does too. Both may hold values of ``env`` or of sensitive variables, so
that both get the names alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import bayplan  # noqa: F401 -- whether it is there; what is used of it is imported where it is used
except ImportError as error:
    BAYPLAN_MISSING: ImportError | None = error
else:
    BAYPLAN_MISSING = None

if TYPE_CHECKING:
    from bayplan.engine import Definitions, Engine
    from bayplan.errors import BayplanError
    from bayplan.stack import Stack

#: Options that say which definition is meant (documented in ``doc_fragments/definition.py``).
DEFINITION: dict[str, dict[str, Any]] = {
    "file": {"type": "list", "elements": "path"},
    "definition": {"type": "dict"},
    "folder": {"type": "path"},
    "variables": {"type": "dict", "default": {}},
    "targets": {"type": "list", "elements": "str", "default": []},
    "bayplan_root": {"type": "path"},
    "bayplan_state": {"type": "path"},
}

#: What stands in messages for the file that a definition given as data is read from.
AS_DATA = "definition"
HIDDEN = "(masked)"


class DefinitionModule(AnsibleModule):
    """A module that takes a whole definition; ``options`` are those it takes besides.

    ``alias`` is the name of the file that data was read from: it is gone, and nobody should be told to look at it.
    """

    def __init__(self, options: Mapping[str, dict[str, Any]]) -> None:
        self.alias = ""
        super().__init__(
            argument_spec={**DEFINITION, **options},
            mutually_exclusive=[("file", "definition")],
            required_one_of=[("file", "definition")],
            supports_check_mode=True,
        )
        self._need_bayplan()

    # -- what Ansible tells of itself ------------------------------------------------------------------------------

    def log(self, msg: str, log_args: Mapping[str, Any] | None = None) -> None:
        """To the system log: of an invocation, which options were given; never what they hold."""
        super().log(f"Invoked with {', '.join(sorted(log_args))}" if log_args else msg)

    def exit_json(self, **result: Any) -> NoReturn:
        self._hide_options()
        super().exit_json(**result)

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        self._hide_options()
        super().fail_json(msg, **result)

    def _hide_options(self) -> None:
        options = getattr(self, "params", None) or {}
        if options.get("variables"):
            options["variables"] = names_alone(options["variables"])
        definition = options.get("definition")
        if isinstance(definition, dict):
            resources = definition.get("resources")
            told = {"stack": definition.get("stack"), "resources": names_alone(resources)}
            options["definition"] = {key: told.get(key, HIDDEN) for key in definition}
        elif definition is not None:
            options["definition"] = HIDDEN

    # -- the way to the engine -------------------------------------------------------------------------------------

    def _need_bayplan(self) -> None:
        if sys.version_info < (3, 11):
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            self.fail_json(
                f"bayplan needs Python 3.11 or later, and {sys.executable} is {version}: "
                "name another one in ansible_python_interpreter"
            )
        if BAYPLAN_MISSING is not None:
            hint = f"Install it with: {sys.executable} -m pip install bayplan"
            self.fail_json(f"{missing_required_lib('bayplan')} {hint}", exception=BAYPLAN_MISSING)

    def engine(self) -> Engine:
        """The engine for the root and the state that the options name."""
        from bayplan.cli.options import make_engine

        return make_engine(
            argparse.Namespace(
                root=self.params["bayplan_root"],
                state=self.params["bayplan_state"],
                lock_timeout=self.params.get("lock_timeout", 60.0),
            )
        )

    def definitions(self, engine: Engine) -> Definitions:
        """The definition of the options, loaded as every stack file is. Raises BayplanErrors with all its mistakes."""
        folder = self.params["folder"]
        if folder is not None:
            try:
                os.chdir(folder)
            except OSError as error:
                self.fail_json(f"the folder {folder} cannot be used: {error.strerror}")
        if self.params["definition"] is None:
            return engine.define(self._load([Path(one) for one in self.params["file"]], os.environ))
        return engine.define(self._load_data(self.params["definition"]))

    def _load(self, files: list[Path], environ: Mapping[str, str]) -> Stack:
        from bayplan.stack import load

        return load(files, variables=as_text(self.params["variables"]), variable_files=[], environ=environ)

    def _load_data(self, definition: Mapping[str, Any]) -> Stack:
        """Through the loader's front door: as a file in the folder where relative paths start, for as long as it is read.

        The file is for its owner alone. The loader's cache of parsed files stays out of it: the data may hold values that
        belong on no disk.
        """
        try:
            file = tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=".", prefix=".bayplan-", suffix=".json")
        except OSError as error:
            self.fail_json(
                f"a definition given as data is read in the folder where its paths start, and {Path.cwd()} cannot be "
                f"written to: {error.strerror}"
            )
        with file:
            self.alias = Path(file.name).name
            json.dump(definition, file, ensure_ascii=False, indent=1)
            file.flush()
            stack = self._load([Path(self.alias)], {**os.environ, "XDG_CACHE_HOME": os.devnull})
        return replace(stack, secrets=replace(stack.secrets, environ=os.environ))

    # -- what went wrong -------------------------------------------------------------------------------------------

    def named(self, text: str) -> str:
        """``text`` with the name of the file that is gone put right."""
        return text.replace(self.alias, AS_DATA) if self.alias else text

    def refuse(self, error: BayplanError, **result: Any) -> NoReturn:
        """Fail with the domain's words; ``errors`` in the result are all of them as data."""
        from bayplan.errors import BayplanErrors

        errors = error.errors if isinstance(error, BayplanErrors) else (error,)
        self.fail_json(
            "\n".join(self._sentence(one) for one in errors),
            errors=[self._as_data(one) for one in errors],
            **{"changed": False, "operations": [], **result},
        )

    def _sentence(self, error: BayplanError) -> str:
        where = "" if error.where is None else f"{AS_DATA if self._gone(error) else error.where}: "
        hint = f" ({self.named(error.hint)})" if error.hint else ""
        return f"{where}{self.named(error.message)}{hint}"

    def _as_data(self, error: BayplanError) -> dict[str, Any]:
        data = {key: self.named(value) if isinstance(value, str) else value for key, value in error.as_dict().items()}
        if self._gone(error):
            del data["where"]
        return data

    def _gone(self, error: BayplanError) -> bool:
        return bool(self.alias) and error.where is not None and error.where.file == self.alias

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within, an error of the domain fails the task: nothing was changed yet."""
        from bayplan.errors import BayplanError

        try:
            yield
        except BayplanError as error:
            self.refuse(error)


def as_text(variables: Mapping[str, Any]) -> dict[str, str]:
    """Values as the command line takes them: the declared type says how they are read. One that is null is not given."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in variables.items()
        if value is not None
    }


def names_alone(values: Any) -> Any:
    """A map with its values masked."""
    return dict.fromkeys(values, HIDDEN) if isinstance(values, dict) else HIDDEN
