"""Makes everything that is made from the schemas: types, reference pages, the schema that editors use.

python tools/generate.py            writes what is stale
python tools/generate.py --check    writes nothing; names what is stale and exits with 1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "provider"), str(TOP / "tools")]


def outputs() -> dict[str, str]:
    """Path below the top folder -> what the file must hold."""
    from generators import editor, reference, types

    return {
        "schemas/stack.schema.json": editor.text(),
        "provider/bayplan/kinds/types_generated.py": types.text(),
        **{f"docs/reference/{name}": page for name, page in reference.pages().items()},
    }


def stale(top: Path, wanted: dict[str, str]) -> list[str]:
    """The files below ``top`` that are not what they must be, and reference pages that nothing makes any more."""
    found = [
        name
        for name, text in wanted.items()
        if not (top / name).is_file() or (top / name).read_text(encoding="utf-8") != text
    ]
    pages = {f"docs/reference/{file.name}" for file in (top / "docs/reference").glob("*.md")}
    return sorted({*found, *(pages - wanted.keys())})


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only name what is stale")
    arguments = parser.parse_args(argv)
    wanted = outputs()
    names = stale(TOP, wanted)
    for name in names:
        if arguments.check:
            print(f"{name} is stale: run make docs", file=sys.stderr)
        elif name in wanted:
            (TOP / name).parent.mkdir(parents=True, exist_ok=True)
            (TOP / name).write_text(wanted[name], encoding="utf-8")
            print(f"wrote {name}")
        else:
            (TOP / name).unlink()
            print(f"removed {name}")
    return 1 if arguments.check and names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
