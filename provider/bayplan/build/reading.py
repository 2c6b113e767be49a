"""Reading a stage: instructions + base configuration + arguments -> steps and the image's configuration. Pure.

The rules of scope are the reference's: an instruction sees the values from before it; ENV beats ARG; an ARG counts from
its line on and in stages built on this one; global ARGs reach a stage only where it declares them again; predefined
proxies need no declaration and are no part of any key. Configurations are the JSON objects of the OCI image
specification (``config`` of an image configuration), changed here and nowhere else.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bayplan.build.dockerfile import model, mounts
from bayplan.build.dockerfile.expand import Expander, SubstitutionError
from bayplan.build.dockerfile.lines import heredoc_word
from bayplan.build.steps import CopyStep, FileStep, Mounted, Origin, RunStep, Step, WorkdirStep
from bayplan.errors import BayplanError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
_PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"})
_PORT = re.compile(
    r"(?:(?P<ip>\[[0-9a-fA-F:]+\]|[0-9.]*):)?(?:(?P<host>[0-9-]*):)?(?P<port>[0-9-]+)(?:/(?P<proto>\w+))?\Z"
)

Config = dict[str, Any]


def scratch_config() -> Config:
    """The configuration of FROM scratch, as BuildKit has it."""
    return {"Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"}


class StageReader:
    """Reads one stage. After :meth:`read`: ``steps``, ``config``, ``author``, and ``arguments`` for stages built on it.

    ``find_origin`` says what a ``--from`` name means (an earlier stage or an image).
    """

    def __init__(
        self,
        config: Config,
        inherited: Mapping[str, str],
        global_arguments: Mapping[str, str],
        build_arguments: Mapping[str, str],
        find_origin: Callable[[str], Origin],
        escape: str,
    ) -> None:
        self.config: Config = json.loads(json.dumps(config))
        self.env = dict(pair.partition("=")[::2] for pair in self.config.get("Env") or ())
        self.arguments = dict(inherited)
        self.author = ""
        self.steps: list[Step] = []
        self._global = global_arguments
        self._given = build_arguments
        self._find_origin = find_origin
        self._escape = escape
        self._cmd_set = False

    def read(self, instructions: Sequence[model.Instruction]) -> None:
        """Walk the instructions in order. Raises BayplanError at the instruction that cannot be read."""
        for instruction in instructions:
            try:
                self._one(instruction)
            except SubstitutionError as error:
                raise BayplanError("dockerfile-syntax", str(error), where=instruction.where) from None

    # -- words -----------------------------------------------------------------------------------------------------

    def _expander(self, *, quotes: bool = True) -> Expander:
        return Expander({**self.arguments, **self.env}, self._escape, quotes=quotes)

    def _words(self, texts: Sequence[str]) -> list[str]:
        expander = self._expander()
        return [expander.word(text) for text in texts]

    # -- instructions ----------------------------------------------------------------------------------------------

    def _one(self, instruction: model.Instruction) -> None:
        files: FileStep | None = None
        created_by = instruction.text
        before = json.dumps(self.config, sort_keys=True)
        match instruction:
            case model.Run():
                files = self._run(instruction)
                created_by = "RUN " + " ".join(files.argv)
            case model.Copy():
                files = self._copy(instruction)
            case model.Workdir():
                files = self._workdir(instruction)
                created_by = f"WORKDIR {files.path}"
            case model.Arg():
                self._arg(instruction)
            case _:
                self._configure(instruction)
        settings = json.dumps(self.config, sort_keys=True) if files is None else ""
        self.steps.append(
            Step(instruction, instruction.text, created_by, files, settings if settings != before else "")
        )

    def _arg(self, instruction: model.Arg) -> None:
        expander = self._expander()
        for name, default in instruction.items:
            if name in self._given:
                self.arguments[name] = self._given[name]
            elif default is not None:
                self.arguments[name] = expander.word(default)
            elif name in self._global:
                self.arguments[name] = self._global[name]

    def _shell_form(self, command: model.Command) -> list[str]:
        if not command.shell_form:
            return list(command.argv)
        return [*(self.config.get("Shell") or DEFAULT_SHELL), *command.argv]

    def _run(self, instruction: model.Run) -> RunStep:
        command = instruction.command
        script: tuple[str, bytes] | None = None
        if command.heredocs:
            first = command.heredocs[0]
            alone = heredoc_word(command.argv[0])
            if alone is not None and first.body.startswith("#!"):
                script = (first.name, first.body.encode())
                command = model.Command((f"/dev/pipes/{first.name}",), shell_form=False)
            elif alone is not None:
                command = model.Command((first.body,), shell_form=True)
            else:
                whole = command.argv[0] + "".join(f"\n{each.content}{each.name}" for each in command.heredocs)
                command = model.Command((whole,), shell_form=True)
        expander = self._expander()
        mounted = []
        for mount in instruction.mounts:
            spec = mounts.resolve(mount, expander.word)
            target = posixpath.normpath(posixpath.join("/", self._working_dir, spec.target)) if spec.target else ""
            spec = mounts.at_target(spec, target)
            mounted.append(Mounted(spec, self._origin(spec.from_stage)))
        # An ARG that was declared is seen by the command; PATH is never missing.
        env = {"PATH": DEFAULT_PATH, **self.arguments, **self.env}
        private = {k: v for k, v in self._given.items() if k.lower() in _PROXIES and k not in env}
        return RunStep(
            tuple(self._shell_form(command)),
            env,
            self._working_dir,
            self.config.get("User") or "0",
            instruction.network,
            tuple(mounted),
            private,
            script,
        )

    @property
    def _working_dir(self) -> str:
        return str(self.config.get("WorkingDir") or "/")

    def _origin(self, name: str) -> Origin:
        return self._find_origin(name) if name else Origin()

    def _copy(self, instruction: model.Copy) -> CopyStep:
        plain = self._expander(quotes=False)
        sources = tuple(self._words(instruction.sources))
        dest, chown, chmod = self._words((instruction.dest, instruction.chown, instruction.chmod))
        documents = tuple(
            (each.name, (plain.word(each.body) if each.expand else each.body).encode()) for each in instruction.heredocs
        )
        directory = dest.endswith(("/", "/.")) or dest in ("", ".")
        absolute = posixpath.normpath("/" + posixpath.join(self._working_dir, dest)).replace("//", "/")
        if not directory and len(sources) + len(documents) > 1:
            hint = f"write {instruction.dest}/"
            message = f"{instruction.name} of several sources needs a destination that ends with /"
            raise BayplanError("dockerfile-syntax", message, where=instruction.where, hint=hint)
        unpack = isinstance(instruction, model.Add) and instruction.unpack is not False
        return CopyStep(
            instruction.name,
            self._origin(instruction.from_stage),
            sources,
            documents,
            absolute.rstrip("/") + "/" if directory else absolute,
            chown,
            chmod,
            tuple(self._words(instruction.exclude)),
            instruction.parents,
            unpack,
            instruction.link,
        )

    def _workdir(self, instruction: model.Workdir) -> WorkdirStep:
        path = self._expander().word(instruction.path)
        if not path:
            raise BayplanError("dockerfile-syntax", "the path of WORKDIR is empty", where=instruction.where)
        whole = posixpath.normpath("/" + posixpath.join(self._working_dir, path)).replace("//", "/")
        self.config["WorkingDir"] = whole
        return WorkdirStep(whole, str(self.config.get("User") or ""))

    def _configure(self, instruction: model.Instruction) -> None:
        config = self.config
        match instruction:
            case model.Env(pairs=pairs):
                words = self._words([word for pair in pairs for word in pair])
                self.env.update(zip(words[::2], words[1::2], strict=True))
                config["Env"] = [f"{name}={value}" for name, value in self.env.items()]
            case model.Label(pairs=pairs):
                words = self._words([word for pair in pairs for word in pair])
                config["Labels"] = {**(config.get("Labels") or {}), **dict(zip(words[::2], words[1::2], strict=True))}
            case model.User(user=user):
                config["User"] = self._expander().word(user)
            case model.Expose(ports=ports):
                expander = self._expander()
                found = [port for text in ports for word in expander.words(text) for port in _ports(word, instruction)]
                config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **{port: {} for port in found}}
            case model.Volume(paths=paths):
                config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in self._words(paths)}}
            case model.StopSignal(signal=signal):
                config["StopSignal"] = _signal(self._expander().word(signal), instruction)
            case model.Shell(argv=argv):
                config["Shell"] = list(argv)
            case model.Cmd(command=command):
                self._cmd_set = True
                config["Cmd"] = self._shell_form(command)
            case model.Entrypoint(command=command):
                config["Entrypoint"] = self._shell_form(command)
                if not self._cmd_set:
                    # A CMD of the image below was meant for the image's own entrypoint.
                    config.pop("Cmd", None)
            case model.HealthCheck():
                config["Healthcheck"] = _health(instruction)
            case model.OnBuild(trigger=trigger):
                config["OnBuild"] = [*(config.get("OnBuild") or ()), trigger]
            case model.Maintainer(maintainer=maintainer):
                self.author = self._expander().word(maintainer)


def _health(instruction: model.HealthCheck) -> dict[str, Any]:
    if instruction.command is None:
        return {"Test": ["NONE"]}
    command = instruction.command
    test = ["CMD-SHELL" if command.shell_form else "CMD", *command.argv]
    times = {
        "Interval": instruction.interval,
        "Timeout": instruction.timeout,
        "StartPeriod": instruction.start_period,
        "StartInterval": instruction.start_interval,
        "Retries": instruction.retries,
    }
    return {"Test": test, **{name: value for name, value in times.items() if value}}


def _ports(text: str, instruction: model.Instruction) -> list[str]:
    """``8000-8002/udp`` -> the ports one by one, in the form of the image configuration (``8000/udp``)."""
    match = _PORT.match(text)
    if match:
        first, dash, last = match["port"].partition("-")
        protocol = (match["proto"] or "tcp").lower()
        low, high = int(first or 0), int(last or 0) if dash else int(first or 0)
        if 0 < low <= high < 65536 and protocol in ("tcp", "udp", "sctp"):
            return [f"{port}/{protocol}" for port in range(low, high + 1)]
    hint = "for example 8080, 53/udp or 8000-8010"
    raise BayplanError("dockerfile-syntax", f"EXPOSE {text!r} is not a port", where=instruction.where, hint=hint)


def _signal(text: str, instruction: model.Instruction) -> str:
    import signal

    name = text.upper().removeprefix("SIG")
    known = name in {each.name.removeprefix("SIG") for each in signal.Signals} or re.match(r"RTM(IN\+|AX-)\d+\Z", name)
    if not known and not (text.isdecimal() and 0 < int(text) < 65):
        raise BayplanError("dockerfile-syntax", f"STOPSIGNAL {text!r} is no signal", where=instruction.where)
    return text
