"""Makes Pulumi's package schema from the schemas of the kinds, and the SDKs from it by Pulumi's own generators.

python tools/generate_pulumi.py            writes what is stale
python tools/generate_pulumi.py --check    writes nothing; names what is stale and exits with 1
python tools/generate_pulumi.py --sdk LANGUAGE FOLDER    writes the SDK of python, nodejs or go (builds tools/go/pulumi);
                                           provider/pulumi_bayplan is the package in that of python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "provider"), str(TOP / "tools")]

TARGET = "provider/bayplan/pulumi/schema_generated.json"
#: JSON type -> Pulumi type.
_PLAIN = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}


class Package:
    """The package schema in the making; ``types`` are the named types that properties of maps become."""

    def __init__(self) -> None:
        self.types: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        from bayplan import __version__, kinds

        resources = {f"bayplan:index:{name}": self.resource(kind) for name, kind in kinds.load().items()}
        return {
            "name": "bayplan",
            "displayName": "bayplan",
            "version": __version__,
            "description": "Images, repositories and running containers from one definition.",
            "keywords": ["pulumi", "bayplan", "containers", "oci", "category/infrastructure", "kind/native"],
            "license": "Apache-2.0",
            "publisher": "The bayplan authors",
            "config": {"variables": configuration(), "defaults": []},
            "types": dict(sorted(self.types.items())),
            "provider": {
                "description": "Where things lie. The default is the embedded host of the machine that runs Pulumi.",
                "inputProperties": configuration(),
            },
            "resources": resources,
            "functions": {f"bayplan:index:get{name}": self.function(kind) for name, kind in kinds.load().items()},
            "language": {
                "python": {
                    "packageName": "pulumi_bayplan",
                    "respectSchemaVersion": True,
                    "pyproject": {"enabled": True},
                    "inputTypes": "classes-and-dicts",
                },
                "nodejs": {"packageName": "@bayplan/pulumi", "respectSchemaVersion": True},
                "go": {
                    "importBasePath": "bayplan.dev/sdk/go/bayplan",
                    "respectSchemaVersion": True,
                    "generateResourceContainerTypes": True,
                },
            },
        }

    def resource(self, kind: Any) -> dict[str, Any]:
        from bayplan.pulumi.names import ADDRESS, CONTENT, camel, output_name

        inputs = {camel(name): self.property(kind.name, one) for name, one in kind.properties.items()}
        inputs[ADDRESS] = {
            "type": "string",
            "description": "The name in the resource's address `Kind.name`, which every face of bayplan knows it by. "
            "Default: Pulumi's logical name.",
            "willReplaceOnChanges": True,
        }
        required = [camel(name) for name, one in kind.properties.items() if one.required]
        outputs = {
            output_name(kind.name, name): {
                **self.type_of(kind.name + "Output", name, one.schema),
                "description": one.description,
            }
            for name, one in kind.outputs.items()
        }
        if kind.name == "Image":
            outputs[CONTENT] = {
                "type": "string",
                "description": "A digest of the definition and of the files that it reads; empty where only a build can tell.",
            }
        return {
            "description": self.description(kind),
            "properties": {**inputs, **outputs},
            "required": sorted({*required, *outputs}),
            "inputProperties": inputs,
            "requiredInputs": required,
        }

    def function(self, kind: Any) -> dict[str, Any]:
        """The data source of a kind."""
        from bayplan.pulumi.names import output_name

        noun = kind.name.lower()
        outputs = {
            output_name(kind.name, name): {
                **self.type_of(kind.name + "Output", name, one.schema),
                "description": one.description,
            }
            for name, one in kind.outputs.items()
        }
        names = {"type": "string", "description": f"The {noun}'s name, as the command line takes it."}
        return {
            "description": f"What a {noun} of the host gives, whoever made it. One that is not there is an error.",
            "inputs": {"properties": {"name": names}, "required": ["name"]},
            "outputs": {"properties": outputs, "required": sorted(outputs)},
        }

    def description(self, kind: Any) -> str:
        from bayplan.pulumi.names import outward

        example = outward(kind.name, kind.schema["examples"][0])
        lines = ["resources:", "  it:", f"    type: bayplan:{kind.name}", "    properties:"]
        lines += [f"      {name}: {json.dumps(value)}" for name, value in example.items()]
        text = "\n".join(lines).replace("${", "$${")
        return (
            f"{kind.description}\n\n"
            "{{% examples %}}\n## Example Usage\n\n{{% example %}}\n"
            f"```yaml\n{text}\n```\n"
            "{{% /example %}}\n{{% /examples %}}\n\n"
            "## Import\n\nThe id is the stack and the address:\n\n"
            f"```sh\npulumi import bayplan:index:{kind.name} it shop/{kind.name}.it\n```\n"
        )

    def property(self, owner: str, one: Any) -> dict[str, Any]:
        """A top-level property, with what its marks say of a change."""
        found = {**self.type_of(owner, one.name, one.schema), "description": described(one.schema)}
        if one.replaces:
            found["willReplaceOnChanges"] = True
        return found

    def type_of(self, owner: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The Pulumi type of a value; several forms become ``oneOf``."""
        from bayplan.kinds.model import json_types
        from bayplan.pulumi.names import camel

        if "anyOf" in schema:
            return one_of([self.type_of(owner, name, one) for one in schema["anyOf"]])
        pascal = camel(name)[:1].upper() + camel(name)[1:]
        found: list[dict[str, Any]] = []
        for one in json_types(schema):
            if one == "array":
                found.append({"type": "array", "items": self.type_of(owner, name, schema.get("items", {}))})
            elif one == "object" and "properties" in schema:
                found.append({"$ref": self.named(owner, owner.removesuffix("Output") + pascal, schema)})
            elif one == "object":
                rest = schema.get("additionalProperties", {"type": "string"})
                found.append({"type": "object", "additionalProperties": self.type_of(owner, name, rest)})
            else:
                found.append({"type": _PLAIN[one]})
        # Text may be written as a number or a flag; every SDK turns those into text by itself.
        if schema.get("x-type") == "text":
            found = [{"type": "string"}]
        return one_of(found)

    def named(self, owner: str, name: str, schema: Mapping[str, Any]) -> str:
        from bayplan.pulumi.names import camel

        token = f"bayplan:index:{name}"
        self.types[token] = {
            "type": "object",
            "description": schema.get("description", f"One of the {name} of a {owner}."),
            "properties": {
                camel(key): {**self.type_of(name, key, one), "description": described(one)}
                for key, one in schema["properties"].items()
            },
            "required": [camel(key) for key in schema.get("required", ())],
        }
        return f"#/types/{token}"


def one_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One type, or the union of several; a whole number is a number.

    The Python SDK cannot send a list or a map that may be something else as well, unless it may be anything: then the
    description says what, and Check refuses the rest.
    """
    kept = [one for one in found if one != {"type": "integer"} or {"type": "number"} not in found]
    if len(kept) > 1 and any(one.get("type") in ("array", "object") or "$ref" in one for one in kept):
        return {"$ref": "pulumi.json#/Any"}
    return kept[0] if len(kept) == 1 else {"oneOf": kept}


def described(schema: Mapping[str, Any]) -> str:
    text = str(schema.get("description", ""))
    if "enum" in schema:
        text += f" One of: {', '.join(map(str, schema['enum']))}."
    if schema.get("x-default"):
        text += f" Default: {schema['x-default']}."
    elif schema.get("default") not in (None, [], {}):
        text += f" Default: {json.dumps(schema['default'])}."
    return text.replace("${", "$${")


def configuration() -> dict[str, Any]:
    """The provider's configuration; ``hosts`` and ``registries`` have the form that they have in a stack file."""
    maps = {"type": "object", "additionalProperties": {"$ref": "pulumi.json#/Any"}}
    return {
        "root": {
            "type": "string",
            "description": "What the embedded host keeps, as the option --root of the command line.",
        },
        "state": {"type": "string", "description": "The folder of states, as the option --state of the command line."},
        "stack": {"type": "string", "description": "The stack's name in every other face. Default: PROJECT-STACK."},
        "hosts": {**maps, "description": "Hosts by name, as in a stack file; `here` is the embedded one."},
        "registries": {**maps, "description": "Registries by name, as in a stack file; `local` is the embedded one."},
    }


def text() -> str:
    return json.dumps(Package().document(), indent=2, ensure_ascii=False) + "\n"


def sdk(language: str, folder: Path) -> None:
    """Write an SDK with the pinned generators; raises CalledProcessError where they refuse the schema."""
    built = subprocess.run([TOP / "tools/go/build", "pulumi"], check=True, capture_output=True, text=True, timeout=3600)
    subprocess.run([Path(built.stdout.strip()) / "sdkgen", TOP / TARGET, language, folder], check=True, timeout=120)
    if language == "python":
        of_the_wheel(folder / "pulumi_bayplan/_utilities.py")


def of_the_wheel(file: Path) -> None:
    """The SDK's version is the package's: one wheel carries both, and its metadata has the name of the other one."""
    text = file.read_text(encoding="utf-8")
    asked = "    pep440_version_string = importlib.metadata.version(root_package)\n"
    if text.count(asked) != 1:
        raise ValueError(f"{file} does not ask for its version where it did")
    given = "    from bayplan import __version__ as pep440_version_string\n\n"
    file.write_text(text.replace(asked, given), encoding="utf-8")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only name what is stale")
    parser.add_argument("--sdk", nargs=2, metavar=("LANGUAGE", "FOLDER"), help="write the SDK of a language")
    arguments = parser.parse_args(argv)
    if arguments.sdk:
        sdk(arguments.sdk[0], Path(arguments.sdk[1]).absolute())
        return 0
    target, wanted = TOP / TARGET, text()
    if target.is_file() and target.read_text(encoding="utf-8") == wanted:
        return 0
    if arguments.check:
        print(f"{TARGET} is stale: run python tools/generate_pulumi.py", file=sys.stderr)
        return 1
    target.write_text(wanted, encoding="utf-8")
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
