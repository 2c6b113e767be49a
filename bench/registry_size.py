"""The registry at size: a store of 100,000 manifests, half of them the tags of one repository.

How long it takes to start, to list tags, to push into the full repository, and to see what an apply writes beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from functools import partial
from pathlib import Path

from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.registry import contents, ledger
from bayplan.registry.database import Database
from bayplan.registry.registry import Registry
from bayplan.registry.survey import DATABASE
from bench import registries
from bench.measure import FailedError, Sample, run
from bench.registries import Client, Server
from bench.registry import PUSHES, WHAT, measured, small
from bench.site import Site
from bench.table import Budget, Row, Table, at_most, seconds, times

_ROUNDS = 5
_MANY = "many/app"
_TAGS = 50_000
_OTHERS = 50  # repositories of a thousand manifests each


def tables(site: Site) -> list[Table]:
    root = site.folder / "hundred-thousand"
    _fill(root)
    with registries.bayplan(site, "again", root=root) as server:
        pass  # what was just written is in the page cache from here on, and the byte code is there
    starts, lists, whole, empty, full, seen = [], [], [], [], [], []
    for number in range(_ROUNDS):
        with registries.bayplan(site, "again", root=root, repositories=[f"empty/app{number}"]) as server:
            starts.append((server.started, server.cpu()))
            with server.client() as client:
                lists.append(measured(server, partial(_list, client, "team-7/app", 1000), 1))
                whole.append(measured(server, partial(_list, client, _MANY, _TAGS + number * PUSHES), 1))
            empty.append(small(server, f"empty/app{number}", number))
            full.append(small(server, _MANY, number))
            seen.append(_seen(site, root, server, number))
            peak = server.peak()

    def sample(rounds: list[tuple[float, float]]) -> Sample:
        return Sample(statistics.median(one[0] for one in rounds), statistics.median(one[1] for one in rounds), peak)

    start, listed, all_of, before, after = map(sample, (starts, lists, whole, empty, full))
    rows = [
        Row("start, to the first answer", start, "", (_within(start.wall, 1.0),)),
        Row("tags of a repository of 1,000", listed, "", (_within(listed.wall, 0.05),)),
        Row(f"tags of a repository of {_TAGS:,}", all_of, "", (_within(all_of.wall, 0.05),)),
        Row("small push into an empty repository", before, "1x"),
        Row(
            f"small push into one of {_TAGS:,} tags",
            after,
            times(after.cpu, before.cpu),
            (at_most(after.cpu, before.cpu, 1.15, "the CPU into an empty one"),),
        ),
        Row("an apply's repository, to its first answer", sample(seen), "", (_within(sample(seen).wall, 0.02),)),
    ]
    return [Table("A store of 100,000 manifests", _ROUNDS, rows, what=WHAT)]


def _within(value: float, most: float) -> Budget:
    return Budget(f"{seconds(value)} of {seconds(most)}", value, most)


def _list(client: Client, repository: str, least: int) -> None:
    _, said = client.ask("GET", f"/v2/{repository}/tags/list", 200)
    if len(json.loads(said)["tags"]) < least:
        raise FailedError(f"{repository} lists too few tags")


def _seen(site: Site, root: Path, server: Server, number: int) -> tuple[float, float]:
    """From the end of an apply beside the server to the server's answer about what it made."""
    file = site.folder / f"seen{number}.yaml"
    file.write_text(f"stack: seen{number}\nresources:\n  Repository.one:\n    repository_name: seen/app{number}\n")
    state = str(site.folder / "state")
    run(site.bayplan("--root", str(root), "--state", state, "apply", "--yes", "-f", str(file)))
    with server.client() as client:
        return measured(server, lambda: client.ask("GET", f"/v2/seen/app{number}/tags/list", 200), 1)


def _fill(root: Path) -> None:
    """A store of 100,000 manifests, each with its own bytes, written without the syncs that pushes pay for."""
    registry = Registry(Root.at(root).ensure())
    store = registry.store
    parts = [(Digest.of(data), len(data)) for data in (b"a layer", b"{}")]
    for data in (b"a layer", b"{}"):
        store.put(data)
    names = [_MANY] * _TAGS + [f"team-{number}/app" for number in range(_OTHERS) for _ in range(1000)]
    for name in dict.fromkeys(names):
        registry.create_repository(name)
    made: set[Path] = set()
    rows = []
    text = registries.manifest((parts[0][0], parts[1][0]), (parts[0][1], parts[1][1]))
    for number, name in enumerate(names):
        content = text[:-1] + f',"annotations":{{"number":"{number}"}}}}'.encode()
        digest = Digest.of(content)
        path = store.path(digest)
        if path.parent not in made:
            path.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
            made.add(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o400)
        os.write(descriptor, content)
        os.close(descriptor)
        rows.append((name, digest, content))
    sizes = dict(parts)

    def record(db: ledger.Connection) -> None:
        now = time.time()
        for number, (name, digest, content) in enumerate(rows):
            parsed = contents.read(content, registries.MANIFEST)
            ledger.insert_manifest(db, name, digest, parsed, len(content), now, link=sizes, sparse=False)
            ledger.set_tags(db, name, digest, [f"t{number}"], now)

    registry.close()
    database = Database(root / DATABASE)
    database.write(record)
    database.close()
    os.sync()
