"""The first stack loads as it is, stands on a static program, and overwrites nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.stack import edges, load
from bayplan.stack.init import BUSYBOX, is_static, stack_name, write_first_stack


def test_the_first_stack_loads_as_it_is(tmp_path: Path) -> None:
    written = write_first_stack(tmp_path / "new", "my.shop")
    assert [str(path.relative_to(tmp_path / "new")) for path in written] == [
        "app/Dockerfile", "app/index.html", "app/busybox", "bayplan.yaml",
    ]  # fmt: skip
    assert (tmp_path / "new/app/busybox").stat().st_mode & 0o777 == 0o755
    stack = load([tmp_path / "new" / "bayplan.yaml"], variables={}, variable_files=[], environ={})
    assert stack.name == "my.shop"
    assert edges(stack)["Container.app"] == {"Image.app"}
    assert stack.outputs == {"url": "http://127.0.0.1:8080/"}


@pytest.mark.parametrize("taken", ["bayplan.yaml", "bayplan.json", "app/Dockerfile"])
def test_nothing_is_overwritten(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("mine", encoding="utf-8")
    with pytest.raises(BayplanError) as caught:
        write_first_stack(tmp_path, "shop")
    assert caught.value.code == "already-there"
    assert (tmp_path / taken).read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "app" / "busybox").exists()


def test_a_program_that_needs_a_loader_does_not_do(tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    assert not is_static(Path(shell).resolve())
    assert any(path.is_file() and is_static(path) for path in BUSYBOX)
    with pytest.raises(BayplanError) as caught:
        write_first_stack(tmp_path, "shop", busybox=[Path(shell).resolve(), tmp_path / "none"])
    assert caught.value.code == "no-busybox"
    assert "busybox-static" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_name_comes_from_the_folder(tmp_path: Path) -> None:
    assert stack_name(tmp_path / "My Shop.") == "my-shop"
    assert stack_name(tmp_path / "___") == "first"
    with pytest.raises(BayplanError):
        write_first_stack(tmp_path, "My Shop")
