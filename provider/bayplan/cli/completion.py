"""Print the completion script of a shell.

    bash:  bayplan completion bash > /etc/bash_completion.d/bayplan
    zsh:   bayplan completion zsh > "${fpath[1]}/_bayplan"
    fish:  bayplan completion fish > ~/.config/fish/completions/bayplan.fish

It is made from the parsers of all commands. Names of containers, images, networks, volumes and repositories are asked from
bayplan itself when they are needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from bayplan.cli.commands import COMMANDS
from bayplan.cli.verbs import complete

SHELLS = ("bash", "zsh", "fish")
#: What a positional argument is called -> the list that it is completed from.
_NAMES = {
    "container": "containers",
    "containers": "containers",
    "image": "images",
    "images": "images",
    "network": "networks",
    "networks": "networks",
    "volume": "volumes",
    "volumes": "volumes",
    "repository": "repositories",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=SHELLS, help="whose script")
    parser.add_argument("--names", choices=sorted(set(_NAMES.values())), help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    if arguments.names:
        for name in names(arguments):
            sys.stdout.write(f"{name}\n")
        return 0
    if arguments.shell is None:
        from bayplan.errors import UsageError

        raise UsageError("usage", "which shell?", hint="bayplan completion bash, zsh or fish")
    from bayplan.cli import completion_scripts

    sys.stdout.write(completion_scripts.script(arguments.shell, lines()))
    return 0


def names(arguments: argparse.Namespace) -> list[str]:
    """What there is of a kind, read from as few files as will do; nothing where there is no root."""
    import json

    from bayplan.cli.options import root_folder

    root = root_folder(arguments)
    if arguments.names == "containers":
        return _listed(root / "containers" / ".names")
    if arguments.names == "volumes":
        return _listed(root / "volumes")
    if arguments.names == "networks":
        found = []
        for path in sorted((root / "networks").glob("*.json")) if (root / "networks").is_dir() else ():
            try:
                found.append(str(json.loads(path.read_bytes())["name"]))
            except (OSError, ValueError, KeyError):
                continue  # just removed
        return found
    if arguments.names == "images":
        from bayplan.cli.meaning import is_internal
        from bayplan.oci.names import Names
        from bayplan.oci.reference import ImageName
        from bayplan.oci.root import Root

        named = Names(Root.at(root)).list()
        return [ImageName.parse(one.name).familiar() for one in named if not is_internal(one.name)]
    if not (root / "registry" / "registry.db").exists():
        return []
    from bayplan.oci.root import Root
    from bayplan.registry.registry import Registry

    return list(Registry(Root.at(root)).catalog())


def _listed(folder: Path) -> list[str]:
    import os

    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def parsers() -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """Every command's parser, and those of their verbs: ``("container", "run")``."""
    import importlib

    from bayplan.cli.main import Parser

    found: dict[tuple[str, ...], argparse.ArgumentParser] = {}
    for name, entry in COMMANDS.items():
        module = importlib.import_module(f"bayplan.cli.{entry.module}")
        parser = Parser(prog=f"bayplan {name}", description=module.__doc__)
        module.configure(parser)
        found[name,] = parser
        for verb, below in verbs(parser).items():
            found[name, verb] = below
    return found


def verbs(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The verbs of a command, aliases left out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            seen: dict[int, str] = {}
            for name, below in action.choices.items():
                seen.setdefault(id(below), name)
            return {name: complete(action.choices[name]) for name in seen.values()}
    return {}


def verb_help(parser: argparse.ArgumentParser) -> Mapping[str, str]:
    """``list (ls, ps)``, a verb and its other names, -> its line of help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {str(choice.metavar or choice.dest): str(choice.help or "") for choice in action._choices_actions}
    return {}


def _value(action: argparse.Action) -> str:
    return "" if action.nargs == 0 else "=" + "|".join(map(str, action.choices or ()))


def lines() -> dict[tuple[str, ...], dict[str, str]]:
    """command line -> word -> its help. Words are verbs, options, choices, and ``@containers`` for names of a kind.

    ``--option=`` marks an option that takes a value, ``--option=a|b`` one that takes one of a few.
    """
    found: dict[tuple[str, ...], dict[str, str]] = {(): {name: entry.help for name, entry in COMMANDS.items()}}
    for place, parser in parsers().items():
        words: dict[str, str] = {}
        for name, text in verb_help(parser).items():
            words[name.partition(" ")[0]] = text
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
                continue
            text = str(action.help or "").replace("%%", "%")
            if action.option_strings:
                longest = max(action.option_strings, key=len)
                words[longest + _value(action)] = text
            elif action.choices:
                words.update(dict.fromkeys(map(str, action.choices), text))
            elif action.dest in _NAMES:
                words[f"@{_NAMES[action.dest]}"] = ""
        found[place] = words
    return found
