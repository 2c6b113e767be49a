"""The floor of the cores: digests, the content store, manifests, layers, image names.

One store a root (:class:`~bayplan.oci.root.Root`), shared by build, registry and runtime: what one of them wrote the others
have, without a copy. It knows nothing of stacks, containers or networks, and everything in it may be used by any number of
processes at once.

Where to find what::

    root         Root.at(path) | Root.default(): path, hash, run_dir, ensure()
    digest       Digest.parse(text), Digest.of(data), .algorithm, .hex; new_hash(algorithm)
    descriptor   Descriptor, MediaType, Platform.parse(text) | .here()
    store        Store(root): has, size, path, open, read(digest, limit), put(data), writer() -> BlobWriter, touch, lease(),
                 collect(referrers) -> Collected, usage(referrers) -> Usage, blobs()
    lease        Leases: the clock that leases, touches and collections share (store.leases)
    collect      reachability, removal, trash; called through the store
    manifest     Manifest, Index, read_manifest(data), Index.choose(platform), canonical_json(document)
    config       ImageConfig, HealthConfig: from_json, to_json
    image        Image.load(store, digest, platform), Layer(descriptor, diff_id), assemble(store, config, layers) -> Digest
    tar          Entry, header(entry), padding, END; entries(stream) -> (Entry, Content) pairs
    compression  decompressed(stream), gzip_compressor(), sniff(head)
    layer        LayerWriter(store, clamp=): add(entry, content), whiteout, opaque, finish() -> Layer;
                 pack_tree(store, folder), pack_upper(store, upper) -> Layer; copy_layer(store, stream) -> Layer;
                 unpack(stream, folder, expected=) -> diff ID
    unpacked     Unpacked(store): lower(image), one(layer) -> folders of an overlay; adopt(layer, folder), settle(), sweep()
    reference    ImageName.parse(text): registry, repository, tag, digest, canonical(), familiar()
    names        Names(root): get, set, list(labels), replace(remove, add, labels), remove, references()
    archive      load_rootfs(store, folder or archive) -> Digest: a base image without any registry
    layout       save_archive(store, digest, names, path, format), load_archive(store, path): one file, OCI or Docker
    fingerprint  Fingerprints(cache): file(path), tree(folder), of(path), save()

The one rule for writers: hold ``store.lease()`` from before content is written or found until what refers to it stands, and
``store.touch(digest)`` what was there already before referring to it. Of a manifest, touching it keeps all that it names.
"""
