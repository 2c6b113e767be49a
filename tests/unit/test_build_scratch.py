"""Builds that begin at one instant: each keeps its folder, whatever the others take for left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bayplan.build import scratch
from bayplan.build.scratch import Scratch


def test_a_folder_that_another_build_reclaims_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = scratch.os.open, []

    def late(path: Any, flags: int, **more: Any) -> int:
        if not taken:
            taken.append(path)
            Path(str(path)).rmdir()
        return real(path, flags, **more)

    monkeypatch.setattr(scratch.os, "open", late)
    with Scratch(tmp_path) as made:
        assert made.folder().is_dir()
    assert taken
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_have_a_folder_each(tmp_path: Path) -> None:
    def work(_: int) -> bool:
        with Scratch(tmp_path) as made:
            folder = made.folder()
            (folder / "file").write_text("x")
            return folder.is_dir()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(400)))
    assert list(tmp_path.iterdir()) == []
