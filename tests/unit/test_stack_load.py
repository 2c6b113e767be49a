"""Loading: which files, what the cache does and must not do, places found late, secrets only in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bayplan.errors import BayplanError, BayplanErrors
from bayplan.stack import Secrets, Stack, edges, load
from bayplan.stack import secrets as secrets_module
from bayplan.stack.secrets import SecretOrigin

TEXT = "stack: shop\nresources:\n  Volume.data:\n    labels: {a: b}\n  Volume.logs:\n    name: ${stack.name}\n"


def loaded(folder: Path, text: str = TEXT, **options: Any) -> Stack:
    (folder / "bayplan.yaml").write_text(text, encoding="utf-8")
    return load([folder / "bayplan.yaml"], **{"variables": {}, "variable_files": [], "environ": {}, **options})


def codes(caught: pytest.ExceptionInfo[BayplanError]) -> list[str]:
    assert isinstance(caught.value, BayplanErrors)
    return [one.code for one in caught.value.errors]


# -- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bayplan.yaml", "bayplan.yml", "bayplan.json"])
def test_the_definition_of_the_current_folder_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text('{"stack": "shop"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load([], variables={}, variable_files=[], environ={}).name == "shop"
    assert load([tmp_path], variables={}, variable_files=[], environ={}).files == (tmp_path / name,)


def test_a_folder_without_a_definition_says_how_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BayplanError) as caught:
        load([], variables={}, variable_files=[], environ={})
    assert caught.value.code == "no-definition"
    assert "bayplan init" in caught.value.hint


def test_several_files_make_one_stack(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("stack: shop\nresources: {Volume.a: {}}\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("resources: {Volume.b: {}}\n", encoding="utf-8")
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "." / "a.yaml"]
    stack = load(files, variables={}, variable_files=[], environ={})
    assert list(stack.resources) == ["Volume.a", "Volume.b"]
    assert stack.files == (tmp_path / "a.yaml", tmp_path / "b.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BayplanError) as caught:
        load([tmp_path / "none.yaml"], variables={}, variable_files=[tmp_path / "no.yaml"], environ={})
    assert codes(caught) == ["unreadable-file", "unreadable-file"]


def test_a_place_is_found_when_it_is_asked_for(tmp_path: Path) -> None:
    stack = loaded(tmp_path)
    data = stack.resources["Volume.data"]
    assert (data.where.line, data.where.column) == (3, 3)
    assert (data.position(("labels", "a")).line, data.position(("labels", "a")).column) == (4, 14)
    assert {name: where.line for name, where in data.positions.items()} == {"": 3, "labels": 4}
    assert edges(stack) == {"Volume.data": set(), "Volume.logs": set()}


# -- the cache -----------------------------------------------------------------------------------------------------------


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "bayplan" / "stacks").iterdir())


def test_a_file_read_before_comes_from_the_cache_without_the_yaml_library(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = loaded(tmp_path, environ=environ)
    (entry,) = entries(tmp_path / "cache")
    assert entry.stat().st_mode & 0o777 == 0o600
    script = (
        "import sys; from pathlib import Path; from bayplan.stack import load;"
        "s = load([Path(sys.argv[1])], variables={}, variable_files=[], environ={'XDG_CACHE_HOME': sys.argv[2]});"
        "assert 'yaml' not in sys.modules; print(*s.resources, s.resources['Volume.logs'].properties['name'])"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "bayplan.yaml"), str(tmp_path / "cache")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [*first.resources, "shop"]


def test_the_cache_never_hides_a_mistake(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    text = (
        "stack: shop\nresources:\n  Volume.data: {nmae: x}\n  Volume.a: {name: ok}\n"
        "  Repository.r: {repository_name: r, registry: nowhere}\n"
    )
    for _ in range(2):
        with pytest.raises(BayplanError) as caught:
            loaded(tmp_path, text, environ=environ)
        assert codes(caught) == ["unknown-property", "unknown-registry"]


def test_a_damaged_entry_is_read_anew(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    loaded(tmp_path, environ=environ)
    (entry,) = entries(tmp_path / "cache")
    whole = entry.read_bytes()
    for damaged in (b"", whole[:-1], whole[:40] + b"\0" + whole[41:]):
        entry.write_bytes(damaged)
        assert list(loaded(tmp_path, environ=environ).resources) == ["Volume.data", "Volume.logs"]
        assert entry.read_bytes() == whole


def test_a_cache_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    loaded(tmp_path, environ=environ)
    (entry,) = entries(tmp_path / "cache")
    entry.parent.chmod(0o777)
    entry.write_bytes(b"planted")
    loaded(tmp_path, environ=environ)
    assert entry.read_bytes() == b"planted"


def test_without_a_usable_cache_folder_all_works(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for environ in ({"XDG_CACHE_HOME": str(tmp_path / "file")}, {"XDG_CACHE_HOME": "relative"}, {"HOME": "/proc/none"}):
        assert loaded(tmp_path, environ=environ).name == "shop"


def test_files_of_variables_are_never_cached_nor_shown(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("password: planted-value\n", encoding="utf-8")
    text = "stack: shop\nvariables: {password: {sensitive: true}}\n"
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    stack = loaded(tmp_path, text, environ=environ, variable_files=[tmp_path / "values.yaml"])
    assert stack.secrets.value("var.password") == "planted-value"
    assert "planted" not in repr(stack)
    assert all(b"planted" not in entry.read_bytes() for entry in entries(tmp_path / "cache"))
    for broken in ("password: 'planted-value\n", "password: [planted-value]\n", "passwort: planted-value\n"):
        (tmp_path / "values.yaml").write_text(broken, encoding="utf-8")
        with pytest.raises(BayplanError) as caught:
            loaded(tmp_path, text, environ=environ, variable_files=[tmp_path / "values.yaml"])
        assert "planted" not in caught.value.render()


# -- secrets -------------------------------------------------------------------------------------------------------------


def test_secrets_are_fetched_when_they_are_used_and_once(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n", encoding="utf-8")
    count = tmp_path / "count"
    text = (
        "stack: shop\nsecrets:\n  a: {env: APP}\n  b: {file: ./token}\n"
        "  c: {command: [sh, -c, 'echo x >> count; printf from-command']}\n"
    )
    secrets = loaded(tmp_path, text, environ={"APP": "from-env", "PATH": os.environ["PATH"]}).secrets
    assert not count.exists()
    assert [secrets.value(name) for name in "abcc"] == ["from-env", "from-file", "from-command", "from-command"]
    assert count.read_text(encoding="utf-8") == "x\n"
    assert "from-env" not in repr(secrets)


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (SecretOrigin(env="NOT_SET"), "NOT_SET, which is not set"),
        (SecretOrigin(env="EMPTY"), "is empty"),
        (SecretOrigin(file=Path("/nowhere/token")), "No such file"),
        (SecretOrigin(command=("false",)), "exit code 1"),
        (SecretOrigin(command=("sh", "-c", "echo planted; echo planted >&2; exit 3")), "exit code 3"),
        (SecretOrigin(command=("no-such-program-here",)), "cannot be started"),
        (SecretOrigin(command=("sleep", "30")), "did not end"),
        (SecretOrigin(command=("printf", "\\377planted")), "not text in UTF-8"),
        (SecretOrigin(command=("printf", "a\\000planted")), "zero byte"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_secret_that_cannot_be_had_is_told_without_a_value(
    origin: SecretOrigin, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets_module, "COMMAND_TIMEOUT", 0.3)
    secrets = Secrets({"token": origin}, {"EMPTY": "", "PATH": os.environ["PATH"]})
    with pytest.raises(BayplanError) as caught:
        secrets.value("token")
    assert caught.value.code == "secret-unavailable"
    assert words in caught.value.message
    assert "planted" not in caught.value.render() + repr(caught.value.__cause__)


def test_a_secret_that_is_not_declared_names_the_nearest() -> None:
    with pytest.raises(BayplanError) as caught:
        Secrets({"token": SecretOrigin(env="X")}).value("tokn")
    assert (caught.value.code, caught.value.hint) == ("unknown-secret", "did you mean token?")


# -- size ----------------------------------------------------------------------------------------------------------------


def test_a_long_chain_and_a_long_cycle_need_no_recursion(tmp_path: Path) -> None:
    lines = ["stack: long", "resources:"]
    for number in range(3000):
        lines += [
            f"  Container.c{number}:",
            "    image: nginx:1",
            f"    depends_on: [Container.c{(number + 1) % 3000}]",
        ]
    with pytest.raises(BayplanError) as caught:
        loaded(tmp_path, "\n".join(lines))
    assert codes(caught) == ["dependency-cycle"]
    lines[-1] = "    read_only: true"
    assert len(edges(loaded(tmp_path, "\n".join(lines)))) == 3000
