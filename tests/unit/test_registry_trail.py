"""The trail's files: appended to by several writers, rotated, searched backwards, whatever a crash left in them."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

from bayplan.registry.audit.records import short
from bayplan.registry.audit.search import Wanted, search
from bayplan.registry.audit.trail import CURRENT, Keeping, Trail, files


def record(number: int, **more: Any) -> dict[str, Any]:
    stamp = f"2026-11-27T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    return {"eventTime": stamp, "eventName": "PutImage", "number": number, "readOnly": False, **more}


def numbers(folder: Path, **wanted: Any) -> list[int]:
    return [one["number"] for one in search(folder, Wanted(**wanted))]


def test_records_come_back_newest_first(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    for number in range(10):
        trail.write(record(number), now=number % 2 == 0)
    trail.close()
    assert numbers(tmp_path) == list(range(9, -1, -1))
    assert numbers(tmp_path, event="GetImage") == []


def test_a_full_file_is_followed_by_the_next_and_old_ones_go(tmp_path: Path) -> None:
    trail = Trail(tmp_path, Keeping(size=2000))
    for number in range(100):
        trail.write(record(number))
    trail.close()
    assert len(files(tmp_path)) > 3
    assert all(path.stat().st_size < 2200 for path in files(tmp_path))
    assert numbers(tmp_path) == list(range(99, -1, -1))
    again = Trail(tmp_path, Keeping(size=2000, age=-1.0))
    for number in range(100, 130):
        again.write(record(number))
    again.close()
    assert len(files(tmp_path)) <= 2
    assert numbers(tmp_path)[0] == 129


def test_lines_that_a_crash_cut_are_passed_over(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    trail.write(record(1))
    trail.close()
    with (tmp_path / CURRENT).open("ab") as file:
        file.write(json.dumps(record(2)).encode()[:20] + b"\n[1]\nnull\n")
    again = Trail(tmp_path)
    again.write(record(3))
    again.close()
    assert numbers(tmp_path) == [3, 1]


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("bayplan.registry.audit.trail._LOOK_SECONDS", 0.0)
    trail = Trail(tmp_path)
    trail.write(record(1))
    (tmp_path / CURRENT).rename(tmp_path / "elsewhere")
    trail.write(record(2))
    trail.close()
    assert numbers(tmp_path) == [2]


def _writer(folder: Path, first: int) -> None:
    trail = Trail(folder, Keeping(size=5000))
    for number in range(first, first + 200):
        trail.write(record(number))
    trail.close()


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(tmp_path, first)) for first in (0, 200, 400)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
        assert one.exitcode == 0
    assert sorted(numbers(tmp_path)) == list(range(600))


def test_a_folder_that_cannot_be_written_is_told_and_made_up_for(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.write_text("in the way")
    trail = Trail(folder)
    trail.write(record(1))
    assert trail.failure
    folder.unlink()
    trail.write(record(2))
    assert not trail.failure
    trail.close()
    assert numbers(folder) == [2, 1]


def test_long_texts_are_cut_and_bytes_of_layers_left_out() -> None:
    told = short({"layerPartBlob": "AAAA", "text": "x" * 20_000, "list": [{"layerPartBlob": "A"}], "n": 1})
    assert set(told) == {"text", "list", "n"}
    assert len(told["text"]) < 17_000
    assert told["list"] == [{}]
