"""The stubs of Pulumi's provider protocol, as Pulumi's own release generates them (``sdk/proto/pulumi/provider.proto``).

They come with the distribution ``pulumi`` (the extra ``bayplan[pulumi]``). Importing that package as a whole takes twice as
long as everything else a provider needs to start, and nothing of it is used here: where it was not imported before, the
packages above the stubs are put in place empty.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from bayplan.errors import BayplanError


def _light() -> None:
    """Make ``pulumi.runtime.proto`` importable without running the packages above it.

    Raises BayplanError ``pulumi-missing`` where the extra is not installed.
    """
    if "pulumi" in sys.modules:
        return
    found = importlib.util.find_spec("pulumi")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("grpc") is None:
        raise BayplanError(
            "pulumi-missing",
            "the Pulumi provider needs the packages pulumi and grpcio, which are not installed",
            hint="install them with: pip install 'bayplan[pulumi]'",
        )
    folder = Path(found.submodule_search_locations[0])
    for name in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto"):
        module = ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module


_light()

import grpc  # noqa: E402
from google.protobuf.empty_pb2 import Empty  # noqa: E402
from google.protobuf.struct_pb2 import ListValue, Struct, Value  # noqa: E402
from pulumi.runtime.proto import (  # noqa: E402
    engine_pb2,
    engine_pb2_grpc,
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
    status_pb2,
)

__all__ = [
    "Empty",
    "ListValue",
    "Struct",
    "Value",
    "engine_pb2",
    "engine_pb2_grpc",
    "grpc",
    "plugin_pb2",
    "provider_pb2",
    "provider_pb2_grpc",
    "status_pb2",
]
