"""The runtime core: the container's whole life on one machine, with no daemon.

``containers.Runtime(root)`` is the way in; ``steps.OciStepRunner`` runs build steps, ``agent`` is the optional keeper.
Borrowed from the distribution: an OCI runtime (crun or runc) for isolation, conmon beside each container, aardvark-dns for
names. The rest is here: bundles, root file systems, networks (:mod:`.net`), restarts (an exit hook), health, recovery.

The core knows images (``bayplan.oci``) and the port of builds, and nothing of stacks, plans or faces. The exit hook imports
parts of it in a bare interpreter, so nothing here may be imported that is not in the standard library, but inside functions.
"""
