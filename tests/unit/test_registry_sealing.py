"""Sealed blobs: any range is what was written, and nothing that was changed is given out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.registry.storage.keys import FileKeys, add_key
from bayplan.registry.storage.sealing import CHUNK, TAG, clear_size, read_head
from bayplan.registry.storage.vault import Vault

sizes = st.one_of(
    st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7]), st.integers(0, 4 * CHUNK)
)


def vault(folder: Path) -> Vault:
    keys = folder / "keys"
    if not keys.exists():
        add_key(keys, "first")
    return Vault(folder / "vault", FileKeys(keys))


def put(store: Vault, data: bytes, piece: int = 100_000) -> Digest:
    with store.writer() as writer:
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
        return writer.commit(Digest.of(data))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes, st.integers(1, 2 * CHUNK), st.data())
def test_any_range_is_what_was_written(tmp_path: Path, size: int, piece: int, data: st.DataObject) -> None:
    store = vault(tmp_path)
    clear = os.urandom(size)
    digest = put(store, clear, piece)
    assert store.size(digest) == size
    with store.open(digest) as file:
        assert file.read() == clear
        for _ in range(3):
            start = data.draw(st.integers(0, size))
            count = data.draw(st.integers(0, size - start))
            file.seek(start)
            assert file.read(count) == clear[start : start + count]
            buffer = bytearray(count)
            file.seek(start)
            got = file.readinto(buffer) if count else 0
            assert bytes(buffer[:got]) == clear[start : start + got]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([0, 1, CHUNK, CHUNK + 1, 3 * CHUNK]), st.data())
def test_what_was_changed_is_refused(tmp_path: Path, size: int, data: st.DataObject) -> None:
    store = vault(tmp_path)
    clear = os.urandom(size)
    digest = put(store, clear)
    path = store.path(digest)
    sealed = path.read_bytes()
    head = read_head(path.open("rb")).size
    how = data.draw(st.sampled_from(["flip", "cut", "grow", "swap", "drop"]))
    changed = bytearray(sealed)
    if how == "flip":
        changed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del changed[data.draw(st.integers(head, len(sealed) - 1)) :]
    elif how == "grow":
        changed += sealed[-TAG:]
    elif size > 2 * CHUNK:
        first, second = (slice(head + n * (CHUNK + TAG), head + (n + 1) * (CHUNK + TAG)) for n in (0, 1))
        if how == "swap":
            changed[first], changed[second] = sealed[second], sealed[first]
        else:
            del changed[first]
    else:
        return
    path.chmod(0o600)
    path.write_bytes(changed)
    with pytest.raises(BayplanError) as caught, store.open(digest) as file:
        file.read()
    assert caught.value.code in ("blob-damaged", "sealing-key")
    path.unlink()


@pytest.mark.parametrize("size", [3 * CHUNK, 3 * CHUNK + 7])
def test_a_file_of_another_length_is_not_opened_wherever_it_is_asked_for(tmp_path: Path, size: int) -> None:
    store = vault(tmp_path)
    digest = put(store, os.urandom(size))
    path = store.path(digest)
    sealed = path.read_bytes()
    path.chmod(0o600)
    for chunks in (1, 2):  # cut where a chunk ends: what is left of it would open
        path.write_bytes(sealed[: read_head(path.open("rb")).size + chunks * (CHUNK + TAG)])
        with pytest.raises(BayplanError, match="not all of it"):
            store.open(digest)
        path.write_bytes(sealed)


def test_a_sealed_file_is_worth_nothing_under_another_name(tmp_path: Path) -> None:
    store = vault(tmp_path)
    first, second = put(store, b"first"), put(store, b"other")
    store.path(second).chmod(0o600)
    store.path(second).write_bytes(store.path(first).read_bytes())
    with pytest.raises(BayplanError, match="another digest"):
        store.open(second)


def test_nothing_lies_in_clear_not_even_while_it_is_written(tmp_path: Path) -> None:
    store = vault(tmp_path)
    word = b"a word that is looked for"
    with store.writer() as writer:
        writer.write(word * 10_000)
        assert all(word not in path.read_bytes() for path in store.incoming.iterdir())
        writer.commit()
    assert all(word not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_keys_are_rotated_without_sealing_anew(tmp_path: Path) -> None:
    store = vault(tmp_path)
    blobs = [os.urandom(200_000), b"", b"small"]
    digests = [put(store, blob) for blob in blobs]
    add_key(tmp_path / "keys", "second")
    renewed = Vault(tmp_path / "vault", FileKeys(tmp_path / "keys"))
    fresh = put(renewed, b"fresh")
    assert read_head(renewed.path(fresh).open("rb")).id == "second"
    body = store.path(digests[0]).read_bytes()[-CHUNK:]
    assert renewed.rekey() == 3
    assert renewed.rekey() == 0
    assert renewed.path(digests[0]).read_bytes()[-CHUNK:] == body
    lines = (tmp_path / "keys").read_text().splitlines()
    (tmp_path / "keys").write_text(lines[0] + "\n")
    without = Vault(tmp_path / "vault", FileKeys(tmp_path / "keys"))
    for digest, blob in zip(digests, blobs, strict=True):
        with without.open(digest) as file:
            assert file.read() == blob


def test_a_key_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    digest = put(vault(tmp_path), b"content")
    add_key(tmp_path / "others", "second")
    with pytest.raises(BayplanError, match="'first' is not there"):
        Vault(tmp_path / "vault", FileKeys(tmp_path / "others")).open(digest)
    (tmp_path / "others").unlink()
    add_key(tmp_path / "others", "first")
    with pytest.raises(BayplanError, match="another one"):
        Vault(tmp_path / "vault", FileKeys(tmp_path / "others")).open(digest)


@pytest.mark.parametrize("text", ["", "nonsense\n", "a:short=\n", "# nothing\n"])
def test_what_is_no_key_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BayplanError) as caught:
        FileKeys(path)
    assert caught.value.code == "bad-key-file"


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, "first")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BayplanError, match="no id for a new key"):
        add_key(path, "first")
    path.chmod(0o640)
    with pytest.raises(BayplanError, match="others than its owner"):
        FileKeys(path)


def test_garbage_is_collected_and_what_is_read_of_a_sealed_manifest_stays(tmp_path: Path) -> None:
    store = vault(tmp_path)
    layer, other = put(store, b"layer"), put(store, b"other")
    manifest = put(store, b'{"layers": [{"digest": "%s"}]}' % str(layer).encode())
    gone = store.collect([lambda: [manifest]])
    assert gone.blobs == 1
    assert (store.has(layer), store.has(manifest), store.has(other)) == (True, True, False)


def test_the_size_in_clear_is_known_by_that_on_disk() -> None:
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK):
        chunks = max(1, -(-size // CHUNK))
        assert clear_size(100 + size + chunks * TAG, 100) == size
    with pytest.raises(BayplanError):
        clear_size(100 + TAG - 1, 100)
