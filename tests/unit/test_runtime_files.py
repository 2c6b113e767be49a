"""What is written on disk: names, definitions, locks, volumes, sealed secrets. No process is made."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.runtime import hostkey
from bayplan.runtime.definitions import Definitions
from bayplan.runtime.record import Files, Phase, Status, read_json, write_json
from bayplan.runtime.volumes import Volumes, copy_tree


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.at(tmp_path / "root")


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAYPLAN_HOST_KEY", str(tmp_path / "conf/host.key"))
    return tmp_path / "conf/host.key"


def enter(definitions: Definitions, name: str) -> Files:
    with definitions.entering() as files:
        definitions.names.claim(name, files.id)
        definitions.write(files, {"spec": {"name": name, "image": "i", "mounts": []}, "anonymous": {}})
    return files


def test_a_sealed_value_opens_only_here_and_in_its_place(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = hostkey.seal("hush", "id/NAME")
    assert "hush" not in sealed
    assert hostkey.unseal(sealed, "id/NAME") == "hush"
    assert key.stat().st_mode & 0o777 == 0o600
    assert hostkey.seal("hush", "id/NAME") != sealed, "never the same twice"
    for bound, path in (("id/OTHER", key), ("id/NAME", tmp_path / "conf/other.key")):
        monkeypatch.setenv("BAYPLAN_HOST_KEY", str(path))
        if path != key:
            hostkey.load_key(create=True)
        with pytest.raises(BayplanError) as error:
            hostkey.unseal(sealed, bound)
        assert error.value.code == "host-key"


def test_a_key_that_others_can_read_is_refused(key: Path) -> None:
    hostkey.load_key(create=True)
    key.chmod(0o644)
    with pytest.raises(BayplanError) as error:
        hostkey.load_key(create=False)
    assert error.value.code == "host-key"


def test_of_many_makers_of_the_key_one_wins(key: Path) -> None:
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(hostkey.load_key(create=True))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert os.listdir(key.parent) == ["host.key"]


def test_containers_are_found_by_name_id_and_the_beginning_of_one(root: Root) -> None:
    definitions = Definitions(root)
    web, app = enter(definitions, "web"), enter(definitions, "app")
    for reference in ("web", web.id, web.id[:12]):
        assert definitions.find(reference).id == web.id
    assert definitions.find("app").id == app.id
    for reference, code in (("wbe", "no-such-container"), ("", "no-such-container"), ("../web", "no-such-container")):
        with pytest.raises(BayplanError) as error:
            definitions.find(reference)
        assert error.value.code == code
    with pytest.raises(BayplanError) as error:
        definitions.find("wbe")
    assert "web" in error.value.hint


def test_a_creation_that_fails_leaves_no_folder(root: Root) -> None:
    definitions = Definitions(root)

    def fail() -> None:
        with definitions.entering() as files:
            assert files.directory.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert definitions.ids() == []


def test_a_creation_under_way_is_no_debris_and_a_dead_one_is(root: Root) -> None:
    definitions = Definitions(root)
    with definitions.entering() as files:
        definitions.names.claim("busy", files.id)
        assert Definitions(root).clear_debris() == []
        with pytest.raises(BayplanError) as error:
            definitions.names.claim("busy", "f" * 64)
        assert error.value.code == "name-taken"
    # It ended without a definition and without an error: as if it had been killed.
    definitions.names.claim("busy", "f" * 64)
    assert Definitions(root).clear_debris() == [files.id]
    assert definitions.names.all() == {}, "the second claim has no container either"


@pytest.mark.parametrize("name", ["", "a/b", "-a", ".a", "a b", "a" * 129, "ä"])
def test_what_is_no_name_is_refused(root: Root, name: str) -> None:
    with pytest.raises(BayplanError) as error:
        Definitions(root).names.claim(name, "f" * 64)
    assert error.value.code == "bad-container-name"


def test_a_lock_is_waited_for_and_a_removed_container_is_told(root: Root) -> None:
    definitions = Definitions(root)
    files = enter(definitions, "one")
    with files.locked():
        assert not files.free
        with pytest.raises(BayplanError) as error, files.locked(timeout=0.05):
            pass
        assert error.value.code == "container-busy"
        definitions.discard(files)
    with pytest.raises(BayplanError) as error, files.locked():
        pass
    assert error.value.code == "no-such-container"


def test_a_torn_document_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) is None
    path.write_text('{"a": ')
    assert read_json(path) is None
    write_json(path, {"a": 1}, durable=True)
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_container_without_status_is_created(root: Root) -> None:
    files = enter(Definitions(root), "one")
    assert files.status() == Status(Phase.CREATED)


def test_volumes_are_made_once_listed_by_label_and_kept_while_used(root: Root) -> None:
    volumes = Volumes(root)
    made = volumes.create("data", {"a": "1"})
    assert made.path.is_dir()
    assert volumes.create("data", exist_ok=True).labels == {"a": "1"}
    with pytest.raises(BayplanError) as error:
        volumes.create("data")
    assert error.value.code == "volume-exists"
    assert [volume.name for volume in volumes.list({"a": "1"})] == ["data"]
    assert volumes.list({"a": "2"}) == []
    volumes.relabel("data", {"a": "2"})
    with pytest.raises(BayplanError) as error:
        volumes.remove("data", {"data": ["web"]})
    assert "web" in error.value.message
    volumes.remove("data", {})
    assert volumes.get("data") is None
    with pytest.raises(BayplanError) as error:
        volumes.remove("data", {})
    assert error.value.code == "no-such-volume"
    with pytest.raises(BayplanError) as error:
        volumes.create("../up")
    assert error.value.code == "bad-volume-name"


def test_an_interrupted_filling_of_a_volume_is_begun_anew(root: Root, tmp_path: Path) -> None:
    source = tmp_path / "image"
    source.mkdir()
    (source / "whole").write_text("all of it")
    volumes = Volumes(root)
    path = volumes.create("data").path
    (path / "half").write_text("torn")
    (path.parent / "filling").touch()
    volumes.fill("data", source)
    assert os.listdir(path) == ["whole"]
    (path / "own").touch()
    (source / "later").touch()
    volumes.fill("data", source)
    assert sorted(os.listdir(path)) == ["own", "whole"]


def test_copies_keep_links_times_and_modes(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("x")
    (source / "sub/hard").hardlink_to(source / "file")
    (source / "soft").symlink_to("/outside")
    os.utime(source / "file", ns=(10**18, 10**18))
    (source / "file").chmod(0o640)
    target.mkdir()
    copy_tree(source, target)
    assert (target / "file").stat().st_ino == (target / "sub/hard").stat().st_ino
    assert os.readlink(target / "soft") == "/outside"
    assert ((target / "file").stat().st_mode & 0o777, (target / "file").stat().st_mtime_ns) == (0o640, 10**18)
