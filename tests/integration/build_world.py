"""What the build's tests build with: a root of their own, contexts from data, and images as text."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from step_runner import ChrootRunner

from bayplan.build.builder import Builder
from bayplan.build.merged import DirectoryLayer, MergedTree
from bayplan.build.spec import BuildEvent, BuildResult, BuildSpec
from bayplan.build.trees import Kind, walk
from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.unpacked import Unpacked

BUSYBOX = Path("/bin/busybox")
SHELL = """\
FROM scratch AS shell
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
"""


class World:
    """One root and one context. ``bases`` maps image names to digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = Root.at(folder / "root")
        self.context = folder / "app"
        self.context.mkdir(parents=True)
        self.runner = ChrootRunner()
        self.bases: dict[str, Digest] = {}
        self.events: list[BuildEvent] = []
        self.builder = Builder(self.root, self.runner, self.resolve)
        self.store = Store(self.root)

    def close(self) -> None:
        """Remove what lies outside the test's folder: the root's place on tmpfs."""
        shutil.rmtree(self.root.run_dir, ignore_errors=True)

    def resolve(self, name: str) -> Digest:
        if name not in self.bases:
            raise BayplanError("no-image", f"there is no image {name}")
        return self.bases[name]

    def write(self, files: Mapping[str, str]) -> None:
        """``{"a/b": "text", "link": "-> target", "run": "+x text", "dir/": ""}``."""
        for name, text in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            elif text.startswith("-> "):
                path.symlink_to(text[3:])
            else:
                path.write_text(text.removeprefix("+x "))
                path.chmod(0o755 if text.startswith("+x ") else 0o644)

    def archive(self, name: str, files: Mapping[str, str]) -> None:
        """A gzipped tar in the context, owners 0:0."""
        import io

        with tarfile.open(self.context / name, "w:gz") as tar:
            for path, text in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(text)
                info.mode = 0o644
                tar.addfile(info, io.BytesIO(text.encode()))

    def shell(self, dockerfile: str) -> None:
        """A Dockerfile whose last stage can run commands: ``FROM shell`` is a stage with busybox."""
        if not (self.context / "busybox").exists():
            (self.context / "busybox").write_bytes(BUSYBOX.read_bytes())
            (self.context / "busybox").chmod(0o755)
        self.write({"Dockerfile": SHELL + dockerfile})

    def spec(self, **more: Any) -> BuildSpec:
        return BuildSpec(self.context, **more)

    def build(self, **more: Any) -> BuildResult:
        self.events.clear()
        return self.builder.build(self.spec(**more), self.events.append)

    def image(self, digest: Digest) -> Image:
        return Image.load(self.store, digest)

    def tree(self, digest: Digest) -> MergedTree:
        lower = dict.fromkeys(Unpacked(self.store).lower(self.image(digest)))
        return MergedTree([DirectoryLayer(path) for path in lower])

    def listing(self, digest: Digest, *, skip: tuple[str, ...] = ()) -> list[str]:
        """Everything in an image: kind, mode, owner, path, content or target."""
        tree = self.tree(digest)
        lines = []
        for path, node in walk(tree, ""):
            if path.split("/")[0] in skip:
                continue
            line = f"{node.kind} {node.mode:o} {node.uid}:{node.gid} /{path}"
            if node.kind is Kind.FILE:
                line += f" = {tree.read(path, 1 << 20).decode(errors='replace')}"
            elif node.kind is Kind.LINK:
                line += f" -> {node.link}"
            lines.append((path, line))
        return [line for _, line in sorted(lines)]

    def read(self, digest: Digest, path: str) -> str:
        return self.tree(digest).read(path, 1 << 20).decode()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose folder is the current one, so that messages show short paths."""
    monkeypatch.chdir(tmp_path)
    made = World(tmp_path)
    yield made
    made.close()


def ran(result: BuildResult) -> list[str]:
    """The texts of the steps that really ran."""
    return [step.text for step in result.steps if step.layer and not step.cached]
