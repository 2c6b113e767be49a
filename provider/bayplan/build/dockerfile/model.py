"""What a Dockerfile says, as typed values with positions.

The parser makes these and nothing else; words are kept as they were written (quotes and variables still inside), because
a variable's value is known only when a stage is walked with its arguments. Whoever needs a value expands the word with
:mod:`bayplan.build.dockerfile.expand`. The field's own names are used: ``from_stage`` is ``--from``.

Source of all rules: the Dockerfile reference of BuildKit (frontend/dockerfile/docs/reference.md, August 2026).
"""

from __future__ import annotations

from bayplan.errors import Where
from bayplan.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Heredoc:
    """``<<NAME`` and its body. ``expand``: the word was not quoted; ``chomp``: ``<<-``, leading tabs are cut."""

    name: str
    content: str
    expand: bool = True
    chomp: bool = False
    descriptor: int = 0

    @property
    def body(self) -> str:
        """The content with the leading tabs cut where ``<<-`` asks for it."""
        if not self.chomp:
            return self.content
        return "".join(line.lstrip("\t") for line in self.content.splitlines(keepends=True))


@dataclass(frozen=True, slots=True)
class Command:
    """The command of RUN, CMD, ENTRYPOINT or HEALTHCHECK: exec form (JSON array) or one shell line."""

    argv: tuple[str, ...]
    shell_form: bool
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Instruction:
    """What every instruction has: its place, its text on one line as written, and its last line (1-based)."""

    where: Where
    text: str
    end_line: int

    @property
    def name(self) -> str:
        """The instruction's word in capitals (``COPY``)."""
        return type(self).__name__.upper()


@dataclass(frozen=True, slots=True)
class From(Instruction):
    image: str
    stage: str = ""  # AS name, lower case
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    items: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RunMount:
    """``RUN --mount=``: the fields as written, variables still inside; :mod:`.mounts` checks and reads them."""

    fields: tuple[tuple[str, str | None], ...]
    where: Where


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    command: Command
    mounts: tuple[RunMount, ...] = ()
    network: str = "default"


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """COPY; ADD is the same with the extras below."""

    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...] = ()
    from_stage: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Add(Copy):
    """ADD: local archives are unpacked unless ``unpack`` is False."""

    unpack: bool | None = None


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, slots=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HealthCheck(Instruction):
    """``command`` None is ``HEALTHCHECK NONE``. Durations in nanoseconds as the image config has them; 0 is unset."""

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class OnBuild(Instruction):
    """``trigger`` is the instruction's source text (heredoc bodies included): it is kept in the image's config."""

    trigger: str
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Maintainer(Instruction):
    maintainer: str


@dataclass(frozen=True, slots=True)
class Directives:
    """The parser directives at the top: ``# syntax=``, ``# escape=``, ``# check=``."""

    syntax: str = ""
    escape: str = "\\"
    check: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM and the instructions up to the next. ``index`` counts from 0 over the whole file."""

    index: int
    start: From
    instructions: tuple[Instruction, ...]

    @property
    def label(self) -> str:
        """The stage's name for people: its AS name, else ``stage N``."""
        return self.start.stage or f"stage {self.index}"


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The whole file. ``arguments`` are the ARGs before the first FROM: usable in FROM lines alone."""

    directives: Directives
    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[tuple[Where, str], ...] = field(default=())
