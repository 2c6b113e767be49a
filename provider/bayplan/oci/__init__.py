"""The floor of the cores: digests, the content store, manifests, layers, image names.

One store a root (:class:`~bayplan.oci.root.Root`), shared by build, registry and runtime: what one of them wrote the others
have, without a copy. :mod:`.store` keeps blobs and collects them, :mod:`.image` reads and writes images, :mod:`.layer` and
:mod:`.tar` make and unpack layers, :mod:`.unpacked` keeps unpacked ones for overlays, :mod:`.names` is what a tag means on
this host, :mod:`.reference` how names are read, :mod:`.archive` makes base images from root file systems,
:mod:`.fingerprint` knows files by their content at the cost of a stat.
"""
