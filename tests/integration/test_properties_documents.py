"""The documents' examples are run as they stand; schemas and graphs that the command line prints are whole."""

from __future__ import annotations

import contextlib
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from apply_site import BOX, Ran, Site, eventually, free_port, get, root_with_box, sleeper
from runtime_world import World

from bayplan.cli.main import main

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
APP = """\
FROM box:1
RUN mkdir /www && echo shop > /www/index.html
CMD ["busybox", "httpd", "-f", "-p", "3000", "-h", "/www"]
"""


def blocks() -> list[tuple[str, str]]:
    """Every fenced yaml block that is a stack, or a piece of ``resources``: (page:line, text)."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for one in re.finditer(r"^```ya?ml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            place = f"{page.name}:{text.count(chr(10), 0, one.start()) + 2}"
            document = yaml.safe_load(one[1])
            if not isinstance(document, dict):
                continue  # a playbook, which other tests run
            keys = list(document)
            if "stack" in keys:
                found.append((place, one[1]))
            elif all(re.match(r"[A-Z]\w+\.", key) for key in keys):
                body = "".join(f"  {line}\n" for line in one[1].splitlines())
                found.append((place, f"stack: piece\nresources:\n{body}"))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, world: World) -> Iterator[Site]:
    """What the examples speak of: an application beside the file, a database that is included, a token."""
    made = Site(tmp_path, world)
    made.environment["APP_TOKEN"] = "of-the-test"
    (tmp_path / "app").mkdir()
    (tmp_path / "app/Dockerfile").write_text(APP)
    check = {"test": ["CMD", "true"], "start_period": "5s", "start_interval": "100ms"}
    database = {"resources": {"Container.db": sleeper(healthcheck=check)}}
    (tmp_path / "database.yaml").write_text(yaml.safe_dump(database))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/none.yaml").write_text("resources: {}\n")
    yield made
    made.run("destroy", code=None)


def command(*words: str, code: int = 0) -> Ran:
    """A command that knows nothing of roots and definitions."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = main([*words])
    assert found == code, f"{words}: {found}\n{out.getvalue()}{err.getvalue()}"
    return Ran(found, out.getvalue(), err.getvalue())


def test_there_are_examples() -> None:
    assert {place.partition(":")[0] for place, _ in blocks()} >= {"README.md", "stack-files.md"}


@pytest.mark.parametrize(("place", "text"), blocks(), ids=lambda value: value if len(value) < 40 else "")
def test_an_example_is_a_valid_stack_and_applies_where_it_is_whole(site: Site, place: str, text: str) -> None:
    port = free_port()
    site.file.write_text(text.replace("8080:", f"{port}:"))
    assert "no mistakes" in site.run("validate").out
    if text.startswith("stack: piece"):
        return
    site.name = yaml.safe_load(text)["stack"]
    site.settle()
    if f"{port}:" in site.file.read_text():
        eventually(lambda: get(port) == "shop", f"{place}: nobody answers")


def test_every_schema_is_printed_and_is_one() -> None:
    names = command("schema", "--json").document["schemas"]
    assert {"container", "image", "repository", "network", "volume", "stack"} <= set(names)
    for name in names:
        document = json.loads(command("schema", name).out)
        jsonschema.Draft202012Validator.check_schema(document)
        assert document.get("title") or document.get("$id"), name
    assert "did you mean 'container'" in command("schema", "containr", code=1).err
    editor = json.loads(command("schema", "stack").out)
    whole = [text for _, text in blocks() if not text.startswith("stack: piece")]
    for text in whole:
        jsonschema.Draft202012Validator(editor).validate(yaml.safe_load(text))


def test_the_graph_holds_every_resource_and_every_edge(site: Site) -> None:
    site.write(
        {
            "Repository.app": {"repository_name": "team/app"},
            "Image.base": {"rootfs": "./app", "tags": ["base:1"]},
            "Image.app": {"build": {"context": "./app"}, "push": ["${Repository.app.uri}:1"]},
            "Network.n": {},
            "Volume.v": {},
            "Container.web": {
                "for_each": ["a", "b"],
                "image": "${Image.app.ref}",
                "networks": ["${Network.n.name}"],
                "volumes": ["${Volume.v.name}:/v"],
            },
            "Container.last": {"image": BOX, "depends_on": ["Container.web"]},
        }
    )
    (site.folder / "app/Dockerfile").write_text('FROM base:1\nCMD ["x"]\n')
    addresses = [*site.run("validate", "--json").document["resources"]]
    assert len(addresses) == 8
    edges = {(one["from"], one["to"]) for one in site.run("graph", "--json").document["edges"]}
    wanted = {
        ("Image.app", "Image.base"),
        ("Image.app", "Repository.app"),
        ("Container.web[a]", "Network.n"),
        ("Container.web[b]", "Volume.v"),
        ("Container.last", "Container.web[a]"),
        ("Container.web[a]", "Image.app"),
    }
    assert wanted <= edges or {(to, one) for one, to in wanted} <= edges
    dot = site.run("graph").out
    picture = site.run("graph", "--svg").out
    tree = ET.fromstring(picture)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    texts = " ".join("".join(one.itertext()) for one in tree.iter())
    for address in addresses:
        assert f'"{address}"' in dot
        assert address in texts or address.partition(".")[2] in texts
    out = site.folder / "graph.svg"
    site.run("graph", "--out", str(out))
    assert out.read_text() == picture
