"""Attacks the folders that unpacking keeps open: few, whatever the archive, and never the wrong one."""

from __future__ import annotations

import gc
import io
import os
import tarfile
from pathlib import Path

from bayplan.oci.layer import unpack

DEPTH = 200


def entry(name: str, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(info, key, value)
    return info


def archived(*entries: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    stream.seek(0)
    return stream


def test_hard_links_between_deep_folders_join_the_right_files(tmp_path: Path) -> None:
    deep = ["/".join(letter for _ in range(DEPTH)) for letter in "abc"]
    unpack(
        archived(
            (entry(f"{deep[0]}/file"), b"content"),
            (entry(f"{deep[1]}/link", type=tarfile.LNKTYPE, linkname=f"{deep[0]}/file"), b""),
            (entry(f"{deep[2]}/link", type=tarfile.LNKTYPE, linkname=f"{deep[1]}/link"), b""),
        ),
        tmp_path,
    )
    assert (tmp_path / deep[2] / "link").samefile(tmp_path / deep[0] / "file")


def test_any_number_of_folders_needs_few_descriptors_and_gives_all_back(tmp_path: Path) -> None:
    gc.collect()  # what other tests left open is closed now, not in between
    before = os.listdir("/proc/self/fd")
    folders = [f"{number % 40}/{number}" for number in range(600)]
    most = 0

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")))
            return super().read(10240 if size is None or size < 0 else min(size, 10240))

    stream = archived(*((entry(f"{folder}/file", mtime=7), folder.encode()) for folder in folders))
    unpack(Watched(stream.getvalue()), tmp_path)
    assert most < len(before) + 80
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert all((tmp_path / folder / "file").read_text() == folder for folder in folders)
