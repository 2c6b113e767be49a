"""Instructions after substitution: what a stage really asks for, ready to be keyed and carried out.

A step is an instruction with all its words final. Only three things touch the file system: :class:`RunStep`,
:class:`CopyStep` and :class:`WorkdirStep`; everything else has already changed the image's configuration when the
stage was read (:mod:`bayplan.build.reading`) and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from bayplan.build.dockerfile.model import Instruction
from bayplan.build.dockerfile.mounts import MountSpec
from bayplan.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Origin:
    """Where files are copied or mounted from: the build context (neither), a stage, or an image by name."""

    stage: int | None = None
    image: str = ""

    @property
    def context(self) -> bool:
        return self.stage is None and not self.image


@dataclass(frozen=True, slots=True)
class Mounted:
    """A RUN's mount and where its ``from=`` leads."""

    spec: MountSpec
    origin: Origin


@dataclass(frozen=True, slots=True)
class RunStep:
    """``env`` is complete, ``private`` are the proxies: handed to the command but not part of the key.

    ``script`` is a heredoc that begins with ``#!``; it is mounted and executed as ``/dev/pipes/NAME``.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str
    user: str
    network: str
    mounts: tuple[Mounted, ...] = ()
    private: Mapping[str, str] = field(default_factory=dict)
    script: tuple[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class CopyStep:
    """COPY and ADD. ``dest`` is absolute; a trailing ``/`` (or several sources) makes it a directory.

    ``documents`` are heredoc sources (file name, content).
    """

    verb: str
    origin: Origin
    sources: tuple[str, ...]
    documents: tuple[tuple[str, bytes], ...]
    dest: str
    chown: str = ""
    chmod: str = ""
    exclude: tuple[str, ...] = ()
    parents: bool = False
    unpack: bool = False
    link: bool = False


@dataclass(frozen=True, slots=True)
class WorkdirStep:
    """Make ``path`` where it is not there; what is made belongs to ``user``."""

    path: str
    user: str


FileStep = RunStep | CopyStep | WorkdirStep


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a stage, in order. ``files`` is None where only the configuration changes.

    ``created_by`` is the line for the image's history: no value of an argument stands in it. ``settings`` is what a
    configuration step set, so that a change of it can be told.
    """

    instruction: Instruction
    text: str
    created_by: str
    files: FileStep | None = None
    settings: str = ""
