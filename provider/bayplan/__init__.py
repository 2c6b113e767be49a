"""bayplan: declarative infrastructure for containers.

Definitions are validated against schemas, turned into an exact plan and carried out on this machine, on container
engines and in AWS. ``docs/architecture.md`` says which room holds what; every face ends in :mod:`bayplan.engine`.
"""

__version__ = "0.1.0"
