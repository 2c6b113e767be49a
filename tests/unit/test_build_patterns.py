"""Ignore files and wildcards: what is left out, what is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bayplan.build import trees
from bayplan.build.context import open_context
from bayplan.build.patterns import BadPattern, PathFilter
from bayplan.build.trees import Kind
from bayplan.errors import BayplanError

CASES = yaml.safe_load((Path(__file__).parents[1] / "cases" / "build" / "ignore.yaml").read_text())
PATHS = [
    "a.txt",
    "b.md",
    "docs/README.md",
    "docs/x/y.md",
    "src/main.go",
    "src/sub/deep.go",
    "node_modules/m/i.js",
    ".env",
]


def fill(folder: Path) -> Path:
    for path in PATHS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    return folder


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_an_ignore_file_leaves_out_what_moby_leaves_out(case: dict[str, Any], tmp_path: Path) -> None:
    context = fill(tmp_path / "context")
    (tmp_path / "Dockerfile.dockerignore").write_text(case["lines"])
    tree = open_context(context, tmp_path / "Dockerfile")
    assert sorted(path for path, node in trees.walk(tree, "") if node.kind is Kind.FILE) == case["kept"]


def test_the_dockerfiles_own_ignore_file_comes_before_the_contexts(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / ".dockerignore").write_text("a.txt\n")
    (tmp_path / "other.dockerignore").write_text("b.md\n")
    assert "a.txt" not in open_context(tmp_path, tmp_path / "Dockerfile").names("")
    assert "a.txt" in open_context(tmp_path, tmp_path / "other").names("")


def test_a_folder_that_is_ignored_is_not_even_looked_into(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / ".dockerignore").write_text("node_modules\n!src/main.go\n")
    (tmp_path / "node_modules").chmod(0)
    try:
        assert "node_modules" not in open_context(tmp_path, tmp_path / "Dockerfile").names("")
    finally:
        (tmp_path / "node_modules").chmod(0o755)
    assert PathFilter(["node_modules", "!src/main.go"]).excludes_all_below("node_modules")


def test_a_folder_with_nothing_left_is_not_there(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / ".dockerignore").write_text("*\n!**/deep.go\n")
    tree = open_context(tmp_path, tmp_path / "Dockerfile")
    assert tree.names("") == ["src"]
    assert tree.names("src") == ["sub"]


@pytest.mark.parametrize("pattern", ["[", "a[", "!", "x\\"])
def test_a_broken_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        PathFilter([pattern])


def test_a_broken_ignore_file_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("a[\n")
    with pytest.raises(BayplanError) as caught:
        open_context(tmp_path, tmp_path / "Dockerfile")
    assert caught.value.code == "bad-pattern"
    assert caught.value.where is not None
    assert caught.value.where.file.endswith(".dockerignore")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.md", ["b.md"]),
        ("*/*.md", ["docs/README.md"]),
        ("**/*.md", ["b.md", "docs/README.md", "docs/x/y.md"]),
        ("s?c", ["src"]),
        ("docs/[A-Z]*", ["docs/README.md"]),
        ("no*such", []),
    ],
)
def test_a_copy_wildcard_finds_paths(pattern: str, found: list[str], tmp_path: Path) -> None:
    fill(tmp_path)
    assert trees.glob(open_context(tmp_path, tmp_path / "Dockerfile"), pattern) == found


def test_links_never_lead_out_of_a_tree(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "up").symlink_to("../../../../etc")
    (tmp_path / "abs").symlink_to("/docs/x")
    (tmp_path / "loop").symlink_to("loop")
    tree = open_context(tmp_path, tmp_path / "Dockerfile")
    assert trees.resolve(tree, "up/passwd") == "etc/passwd"
    assert trees.resolve(tree, "abs/y.md") == "docs/x/y.md"
    with pytest.raises(BayplanError, match="too many symbolic links"):
        trees.resolve(tree, "loop")
