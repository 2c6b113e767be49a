"""A runner of build steps that loads the runtime when the first step is to run: a build from the cache runs none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bayplan.build.port import Step
    from bayplan.oci.root import Root
    from bayplan.runtime.steps import OciStepRunner


class LateStepRunner:
    """Fulfils :class:`bayplan.build.port.StepRunner` by an :class:`~bayplan.runtime.steps.OciStepRunner` of its own."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._runner: OciStepRunner | None = None
        self._guard = threading.Lock()  # stages run side by side

    def __enter__(self) -> LateStepRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, step: Step, output: Callable[[bytes], None]) -> int:
        with self._guard:
            if self._runner is None:
                from bayplan.runtime.steps import OciStepRunner

                self._runner = OciStepRunner(self._root)
        return self._runner.run(step, output)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
