"""The Dockerfile language: text in, typed stages out. Nothing in here touches a disk."""

from bayplan.build.dockerfile.model import Dockerfile
from bayplan.build.dockerfile.parse import parse, parse_trigger

__all__ = ["Dockerfile", "parse", "parse_trigger"]
