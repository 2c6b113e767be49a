"""The commands and where each lives: enough for ``--help`` and completion without importing any of them."""

from __future__ import annotations

from bayplan.records import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: the module that has ``configure(parser)`` and ``run(arguments) -> int``, and its line of help.

    ``brief``: it reads, tells and ends, and is run without the collector of cycles.
    """

    module: str
    help: str
    group: str
    brief: bool = False


_STACK = "stacks"
_HAND = "by hand"
_REST = "besides"

COMMANDS: dict[str, Entry] = {
    "init": Entry("init", "write a first stack that applies as it is", _STACK),
    "validate": Entry("validate", "check the definitions and tell every mistake at once", _STACK, brief=True),
    "plan": Entry("plan", "show exactly what an apply would do", _STACK, brief=True),
    "apply": Entry("apply", "make the world what the definitions say", _STACK),
    "destroy": Entry("destroy", "remove what the stack made, and only that", _STACK),
    "drift": Entry("drift", "say what changed outside", _STACK, brief=True),
    "import": Entry("import_", "adopt a container, image, repository, network or volume that exists", _STACK),
    "output": Entry("output", "print the outputs of the last apply", _STACK, brief=True),
    "graph": Entry("graph", "draw the resources and what depends on what (DOT or SVG)", _STACK, brief=True),
    "state": Entry("state", "what bayplan remembers: list, show, mv, rm, rebuild, history", _STACK),
    "schema": Entry("schema", "print the schema of a kind, of stack files or of an output", _STACK),
    "image": Entry("image", "build, list, pull, push, inspect and remove images", _HAND),
    "container": Entry("container", "run, list, inspect, logs, exec, stats, stop, start, ... containers", _HAND),
    "network": Entry("network", "list, create, inspect and remove networks", _HAND),
    "volume": Entry("volume", "list, create, inspect and remove volumes", _HAND),
    "registry": Entry("registry", "serve the registry of this root; its repositories", _HAND),
    "system": Entry("system", "what takes how much space (df), and giving it back (prune)", _HAND),
    "agent": Entry("agent", "the optional process that watches health and starts containers at boot", _HAND),
    "login": Entry("login", "keep credentials of a registry, where docker keeps them", _REST),
    "logout": Entry("logout", "forget credentials of a registry", _REST),
    "doctor": Entry("doctor", "what this machine can run, and what is missing", _REST),
    "completion": Entry("completion", "print the completion script of a shell", _REST),
    "version": Entry("version", "print the version", _REST),
}
