"""The core ``registry``: repositories over the content store, the server that other tools speak to, and the client.

- :mod:`bayplan.registry.registry` -- the state machine: repositories, tags, manifests, blob links, uploads.
- :mod:`bayplan.registry.server` -- the OCI Distribution API over HTTP on that state machine.
- :mod:`bayplan.registry.client` -- pull from and push to any OCI registry; :mod:`bayplan.registry.credentials` -- logins.

Nothing is imported here, so that a command that needs one of the three does not pay for the others.
"""
