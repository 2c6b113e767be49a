"""Where a repository's bytes lie when it is not the root's own store: sealed under a key, in a bucket, or both.

All of it is a :class:`~bayplan.oci.store.Store` to its users: leases, touching and collection are the store's own.
"""
