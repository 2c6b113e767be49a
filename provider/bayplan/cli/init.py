"""Write a first stack that applies as it is: a page served by a static busybox."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where to write (default: here)")
    parser.add_argument("--name", help="the stack's name (default: the folder's)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    from bayplan.stack.init import write_first_stack

    folder: Path = arguments.folder
    written = write_first_stack(folder, arguments.name or folder.absolute().name)
    if arguments.json:
        from bayplan.cli.render import print_json

        print_json({"files": [str(path) for path in written]})
    else:
        sys.stdout.writelines(f"wrote {path}\n" for path in written)
        sys.stdout.write("next: bayplan plan, then bayplan apply\n")
    return 0
