"""Planted secrets: after and during every command they are looked for where nobody may find them.

They come in every way that there is: from the environment, a file, a command, an ``env_file``, a sensitive variable; and a
program prints one on purpose, at its start and when it dies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_site import Site, busybox_context, root_with_box, sleeper
from runtime_world import World

pytestmark = pytest.mark.root

SECRETS = {
    "env": "planted-ENV-7d1f3c",
    "file": "planted-FILE-91ba20",
    "command": "planted-COMMAND-5e6f70",
    "env_file": "planted-ENVFILE-c0ffee",
    "variable": "planted-VARIABLE-facade",
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with root_with_box(tmp_path / "root") as world:
        made = Site(tmp_path / "site", world, "vault")
        made.environment["APP_TOKEN"] = SECRETS["env"]
        made.environment["BAYPLAN_VAR_password"] = SECRETS["variable"]
        (made.folder / "token").write_text(SECRETS["file"] + "\n")
        (made.folder / "app.env").write_text(f"FROM_FILE={SECRETS['env_file']}\nPLAIN=nothing\n")
        (made.folder / "tell").write_text(f"#!/bin/sh\necho {SECRETS['command']}\n")
        (made.folder / "tell").chmod(0o755)
        yield made
        made.run("destroy")


def definition(site: Site, outputs: dict[str, str] | None = None, **more: object) -> None:
    site.write(
        {
            "Container.app": sleeper(
                env={
                    "TOKEN": "${secret.token}",
                    "LINE": "user:${secret.key}@host",
                    "TOLD": "${secret.told}",
                    "PASSWORD": "${var.password}",
                    "OPEN": "not a secret",
                },
                env_file=["./app.env"],
                **more,
            )
        },
        variables={"password": {"type": "string", "sensitive": True}},
        secrets={
            "token": {"env": "APP_TOKEN"},
            "key": {"file": "./token"},
            "told": {"command": [str(site.folder / "tell")]},
        },
        outputs=outputs or {"open": "${Container.app.name}"},
    )


def leaks(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [name for name, value in SECRETS.items() if value.encode() in data]


def found_below(*folders: Path) -> list[str]:
    """Files below ``folders`` in which a secret stands in clear."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found += [f"{path}: {name}" for name in leaks(path.read_bytes())]
    return found


class Watch:
    """Reads the command lines of all processes as fast as it can."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            self.looks += 1
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        self.seen.add((entry / "cmdline").read_bytes())
                    except OSError:
                        continue

    @property
    def leaked(self) -> list[bytes]:
        return [line for line in self.seen if leaks(line)]


def everything_said(site: Site) -> list[str]:
    """What every command that looks says, in both its forms."""
    said = []
    for words in (
        ["plan", "-v"],
        ["plan", "--json"],
        ["drift"],
        ["drift", "--json"],
        ["output"],
        ["output", "--json"],
        ["validate"],
        ["state", "show", "Container.app"],
        ["state", "history", "1"],
        ["graph"],
        ["container", "inspect", "vault-app"],
        ["container", "list", "--json"],
    ):
        ran = site.run(*words, code=None)
        assert ran.code in (0, 2), f"{words}: {ran.text}"
        said.append(ran.text)
    return said


def clean(site: Site, world: World) -> None:
    folders = [world.root.path, site.state, site.folder / "cache"]
    assert found_below(*(folder for folder in folders if folder.exists())) == []


def test_no_planted_secret_is_to_be_found_anywhere(site: Site) -> None:
    world = site.world
    definition(site)
    plan = site.folder / "saved.plan"
    assert not leaks(site.run("plan", "--out", str(plan), "-v").text)
    assert not leaks(plan.read_bytes())
    with Watch() as watch:
        process = site.process("apply")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert not leaks(out + err)
    assert watch.looks > 5
    assert watch.leaked == []
    # It did arrive where it belongs.
    for name, word in (("TOKEN", "env"), ("TOLD", "command"), ("PASSWORD", "variable"), ("FROM_FILE", "env_file")):
        assert site.inside("vault-app", "sh", "-c", f"echo ${name}") == SECRETS[word]
    assert site.inside("vault-app", "sh", "-c", "echo $LINE") == f"user:{SECRETS['file']}@host"
    site.nothing_to_do()
    assert not [text[:2000] for text in everything_said(site) if leaks(text)]
    clean(site, world)
    for folder in world.root.run_dir.rglob("*"):
        if folder.name == "config.json":
            assert folder.stat().st_mode & 0o077 == 0, "the bundle is its owner's alone"


def test_a_changed_secret_is_seen_and_shown_by_digest_alone(site: Site) -> None:
    definition(site)
    site.settle()
    before = SECRETS["file"]
    (site.folder / "token").write_text("planted-FILE-91ba20-changed\n")
    shown = site.run("plan", "-v").out
    assert "replace" in shown
    assert not leaks(shown)
    assert before not in site.run("plan", "--json").out
    plan = site.folder / "saved.plan"
    site.run("plan", "--out", str(plan))
    assert not leaks(plan.read_bytes())
    site.run("apply", str(plan))
    site.nothing_to_do()
    assert site.inside("vault-app", "sh", "-c", "echo $LINE") == "user:planted-FILE-91ba20-changed@host"
    clean(site, site.world)


def test_a_program_that_prints_its_secret_and_dies_does_not_bring_it_into_an_error(site: Site) -> None:
    definition(site, command=["sh", "-c", "echo cannot use $TOKEN; exit 4"])
    ran = site.apply(code=1)
    assert "cannot use ***" in ran.text
    assert not leaks(ran.text)
    ran = site.apply("--json", code=1)
    assert not leaks(ran.text)
    assert not leaks(site.run("state", "history", "1").text)
    state = [file.read_bytes() for file in site.state.iterdir()]
    assert not [data for data in state if leaks(data)]


def test_a_health_check_that_prints_a_secret_does_not_bring_it_into_an_error(site: Site) -> None:
    check = {"test": ["CMD-SHELL", "echo wrong: $TOKEN; false"], "start_interval": "100ms", "start_period": "30s"}
    definition(site, healthcheck=check, wait_timeout="1s")
    ran = site.apply(code=1)
    assert not leaks(ran.text)
    assert not [file for file in site.state.iterdir() if leaks(file.read_bytes())]


def test_a_mistake_in_the_file_does_not_show_a_secret(site: Site) -> None:
    definition(site, memory="${secret.token}")
    ran = site.run("plan", code=None)
    assert not leaks(ran.text)
    definition(site, volumes=["${var.password}:/data"])
    assert not leaks(site.run("plan", code=None).text)
    assert not leaks(site.apply(code=None).text)
    definition(site)


def test_a_secret_in_a_build_argument_is_refused_or_hidden(site: Site) -> None:
    context = busybox_context(site.folder / "app", "FROM box:1\nARG TOKEN\nLABEL got=yes\n", {})
    site.write(
        {"Image.app": {"build": {"context": str(context), "args": {"TOKEN": "${secret.token}"}}, "tags": ["vault:1"]}},
        secrets={"token": {"env": "APP_TOKEN"}},
    )
    assert not leaks(site.run("plan", code=None).text)
    assert not leaks(site.apply(code=None).text)
    clean(site, site.world)
    site.write({})


def test_an_output_that_would_keep_a_secret_is_refused(site: Site) -> None:
    definition(site, outputs={"line": "it is ${secret.token}", "password": "${var.password}"})
    ran = site.run("validate", code=1)
    assert ran.err.count("misplaced-secret") == 2
    assert not leaks(ran.text)
    definition(site)


def test_a_stack_whose_secret_is_not_to_be_had_says_which_and_nothing_else(site: Site) -> None:
    definition(site)
    del site.environment["APP_TOKEN"]
    ran = site.apply(code=1)
    assert "APP_TOKEN" in ran.text
    assert not leaks(ran.text)
    site.environment["APP_TOKEN"] = SECRETS["env"]
