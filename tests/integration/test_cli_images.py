"""``bayplan image`` and ``registry``: built, named, moved between roots, registries and archives, removed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import LIMIT, CommandLine, check, command_line

pytestmark = pytest.mark.root

_DOCKERFILE = """\
FROM box:1
ARG WORD=none
RUN --mount=type=secret,id=token echo $WORD $(cat /run/secrets/token | wc -c) > /said
LABEL made=here
CMD ["cat", "/said"]
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli")) as made:
        made.image("box:1", 'CMD ["sh"]', "ENV HELLO=there", "EXPOSE 80")
        yield made


@contextlib.contextmanager
def served(cli: CommandLine) -> Iterator[str]:
    """``host:port`` of ``bayplan registry serve``; it must end well on SIGTERM."""
    process = subprocess.Popen(
        cli.argv("registry", "serve", "--listen", "127.0.0.1:0", "--anonymous", "push", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        check("registry-serving", told)
        yield told["address"]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, log
        assert b"GET /v2/" in log or b"HEAD /v2/" in log, "a line per request"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_an_imported_root_file_system_runs_and_tells_what_it_is(cli: CommandLine) -> None:
    done = cli.run("container", "run", "--rm", "box:1", "sh", "-c", "echo $HELLO")
    assert done.stdout == b"there\n", done.stderr
    (one,) = cli.json("images", "image", "list")["images"]
    assert (one["name"], one["platform"].startswith("linux/")) == ("box:1", True)
    image = cli.json("image", "image", "inspect", one["id"][7:19])
    assert image["config"]["ExposedPorts"] == {"80": {}} or "80/tcp" in image["config"]["ExposedPorts"]
    assert image["names"] == ["box:1"]
    assert any(
        "CMD" in step["created_by"] for step in cli.json("image-history", "image", "history", "box:1")["history"]
    )
    assert "box:1" in cli.ok("image", "list")


def test_a_root_file_system_from_standard_input_is_the_same_image(cli: CommandLine) -> None:
    archive = subprocess.run(
        ["tar", "-C", str(cli.folder / "tree"), "-c", "."], capture_output=True, check=True, timeout=30
    )
    digest = cli.ok("image", "import", "-", "piped:1", input=archive.stdout).strip()
    (step,) = [one for one in cli.json("images", "image", "list")["images"] if one["name"] == "piped:1"]
    assert step["digest"] == digest
    assert "removed piped:1" in cli.ok("image", "rm", "piped:1")


def test_a_build_names_its_image_uses_its_cache_and_hides_its_secret(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(_DOCKERFILE)
    words = (
        "image",
        "build",
        "-t",
        "built:1",
        "--build-arg",
        "WORD=hi",
        "--secret",
        "id=token,env=TOKEN",
        str(tmp_path),
    )
    first = cli.run(*words, TOKEN="planted-secret")
    assert first.returncode == 0, first.stderr
    assert b"RUN --mount" in first.stderr
    assert cli.ok("container", "run", "--rm", "built:1") == "hi 14\n"
    again = cli.json("image-built", *words, TOKEN="planted-secret")
    assert (again["digest"], again["tags"]) == (first.stdout.decode().strip(), ["built:1"])
    assert all(step["cached"] for step in again["steps"])
    found = subprocess.run(
        ["grep", "-rl", "planted-secret", str(cli.root.path)], capture_output=True, timeout=30, check=False
    )
    assert found.stdout == b""
    (tmp_path / "Dockerfile").write_text("FROM box:1\nRUN false\n")
    assert "build-failed" in cli.fails("image", "build", str(tmp_path))
    cli.ok("image", "rm", "built:1")


def test_images_go_to_a_served_registry_and_come_back(cli: CommandLine) -> None:
    digest = cli.json("image", "image", "inspect", "box:1")["digest"]
    with served(cli) as address:
        pushed = cli.json("image-pushed", "image", "push", "box:1", f"{address}/team/box:2")
        assert pushed == {"name": f"{address}/team/box:2", "digest": digest}
        assert cli.ok("image", "pull", "-q", f"{address}/team/box:2").strip() == digest
        assert cli.ok("container", "run", "--rm", f"{address}/team/box:2", "echo", "pulled") == "pulled\n"
        assert "image-unknown" in cli.fails("image", "pull", f"{address}/team/box:missing")
        cli.ok("image", "rm", f"{address}/team/box:2")
    (repository,) = cli.json("repositories", "registry", "list")["repositories"]
    assert (repository["name"], repository["tags"]) == ("team/box", 1)
    assert cli.json("tags", "registry", "tags", "team/box")["tags"][0]["digest"] == digest


def test_the_embedded_registry_needs_no_server(cli: CommandLine) -> None:
    cli.ok("image", "push", "box:1", "bayplan.internal/here/box:1")
    assert cli.ok("container", "run", "--rm", "bayplan.internal/here/box:1", "echo", "local") == "local\n"
    cli.ok("image", "rm", "bayplan.internal/here/box:1")
    cli.json("registry-removed", "registry", "rm", "here/box:1")
    assert cli.json("tags", "registry", "tags", "here/box")["tags"] == []
    cli.ok("registry", "rm", "here/box", "--force")
    assert "repository-unknown" in cli.fails("registry", "tags", "here/box")
    cli.json("registry-collected", "registry", "gc")


def test_an_archive_brings_the_same_image_to_another_root(cli: CommandLine, tmp_path: Path) -> None:
    cli.ok("image", "tag", "box:1", "second/name:9")
    saved = cli.json("image-saved", "image", "save", "box:1", "second/name:9", "-o", str(tmp_path / "a.tar"))
    other = {"BAYPLAN_ROOT": str(tmp_path / "other")}
    loaded = cli.json("images", "image", "load", "-i", str(tmp_path / "a.tar"), **other)["images"]
    assert {one["name"] for one in loaded} == {"box:1", "second/name:9"}
    assert {one["digest"] for one in loaded} == {saved["digest"]}
    piped = cli.run("image", "save", "box:1")
    assert cli.ok("image", "load", "-q", input=piped.stdout, **other).strip() == "box:1"
    listed = subprocess.run(
        ["skopeo", "inspect", "--raw", f"docker-archive:{tmp_path}/a.tar"], capture_output=True, timeout=60, check=False
    )
    assert listed.returncode == 0, listed.stderr
    cli.ok("image", "rm", "second/name:9")


def test_an_image_in_use_stays_and_what_nothing_names_is_freed(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM box:1\nRUN head -c 300000 /dev/urandom > /big\n")
    cli.ok("image", "build", "-q", "-t", "big:1", str(tmp_path))
    cli.ok("container", "create", "--name", "user", "big:1", "true")
    assert "image-in-use" in cli.fails("image", "rm", "big:1")
    cli.ok("container", "rm", "user")
    cli.json("images-removed", "image", "rm", "big:1")
    assert "no-such-image" in cli.fails("image", "rm", "big:1")
    before = cli.json("system-df", "system", "df")["bytes"]
    cli.json("system-prune", "system", "prune", "--all", "--yes")
    assert cli.json("system-df", "system", "df")["bytes"] < before - 250_000
    cli.image("box:1", 'CMD ["sh"]', "ENV HELLO=there", "EXPOSE 80")


def test_names_of_stacks_are_not_taken_by_hand(cli: CommandLine) -> None:
    from bayplan.oci.names import Names

    names = Names(cli.root)
    found = names.get("box:1")
    assert found is not None
    names.set("owned:1", found.digest, {"bayplan.dev/stack": "shop", "bayplan.dev/address": "Image.owned"})
    assert "Image.owned of the stack shop" in cli.fails("image", "tag", "box:1", "owned:1")
    assert "image-owned" in cli.fails("image", "rm", "owned:1")
    names.remove("owned:1")


def test_an_address_that_is_none_is_refused(cli: CommandLine) -> None:
    assert "bad-listen-address" in cli.fails("registry", "serve", "--listen", ":5000")
