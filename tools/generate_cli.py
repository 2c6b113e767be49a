"""Makes the tables of docs/command-line.md from the parsers of the commands.

python tools/generate_cli.py            writes the page where it is stale
python tools/generate_cli.py --check    writes nothing; exits with 1 where it is stale

What stands outside of the marks in that page is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs" / "command-line.md"
BEGIN, END = "<!-- made by tools/generate_cli.py: begin -->", "<!-- made by tools/generate_cli.py: end -->"
sys.path[:0] = [str(TOP / "provider")]

#: Options that every command has; told once.
_EVERYWHERE = {"--root", "--state", "--json", "--help"}


def page(text: str) -> str:
    """The page with its made part made anew. Raises ValueError where the marks are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the marks of its made part")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def reference() -> str:
    """Every command with its verbs, arguments and options."""
    from bayplan.cli.commands import COMMANDS
    from bayplan.cli.completion import parsers, verb_help

    out: list[str] = []
    group = ""
    found = parsers()
    for name, entry in COMMANDS.items():
        if entry.group != group:
            group = entry.group
            out += [f"## Commands: {group}", ""]
        parser = found[name,]
        out += [f"### bayplan {name}", "", _about(parser.description or entry.help), ""]
        below = verb_help(parser)
        if not below:
            out += _tables(f"bayplan {name}", parser)
        for shown, text in below.items():
            verb = shown.partition(" ")[0]
            aliases = shown.partition("(")[2].rstrip(")")
            also = f" (also: {aliases})" if aliases else ""
            out += [f"#### bayplan {name} {verb}", "", f"{text[:1].upper()}{text[1:]}{also}.", ""]
            out += _tables(f"bayplan {name} {verb}", found[name, verb])
    return "\n".join(out)


def _about(description: str) -> str:
    return "\n".join(line.rstrip() for line in description.strip().splitlines())


def _tables(command: str, parser: argparse.ArgumentParser) -> list[str]:
    actions = [one for one in parser._actions if one.help != argparse.SUPPRESS]
    arguments = [one for one in actions if not one.option_strings and not isinstance(one, argparse._SubParsersAction)]
    options = [one for one in actions if one.option_strings and not _EVERYWHERE & set(one.option_strings)]
    words = [command, *(["[OPTIONS]"] if options else []), *map(_word, arguments)]
    out = ["```", " ".join(words), "```", ""]
    rows = [(f"`{_word(one)}`", _help(one)) for one in arguments if one.help]
    rows += [(f"`{_option(one)}`", _help(one)) for one in options]
    if rows:
        out += ["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows), ""]
    return out


def _word(action: argparse.Action) -> str:
    name = (
        action.metavar
        if isinstance(action.metavar, str)
        else "|".join(map(str, action.choices or [action.dest.upper()]))
    )
    if action.nargs == "?":
        return f"[{name}]"
    if action.nargs in ("*", argparse.REMAINDER):
        return f"[{name}...]"
    return f"{name}..." if action.nargs == "+" else name


def _option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    value = (
        action.metavar
        if isinstance(action.metavar, str)
        else "|".join(map(str, action.choices or [action.dest.upper()]))
    )
    return f"{names} [{value}]" if action.nargs == "?" else f"{names} {value}"


def _help(action: argparse.Action) -> str:
    return str(action.help or "").replace("%%", "%").replace("|", "\\|")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only tell whether it is stale")
    arguments = parser.parse_args(argv)
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if text == wanted:
        return 0
    if arguments.check:
        print(f"{PAGE.relative_to(TOP)} is stale: run python tools/generate_cli.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(TOP)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
