"""The cache keeps what did not change and forecasts say what did: by content, never by time, umask or place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_world import World, ran

from bayplan.build.builder import Builder
from bayplan.errors import BayplanError

pytestmark = pytest.mark.root

APP = """\
FROM shell
WORKDIR /app
COPY package.json ./
RUN cat package.json > /installed
COPY . .
EXPOSE 3000
CMD ["sh"]
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.chdir(tmp_path)
    made.shell(APP)
    made.write(
        {"package.json": "{}", "server.js": "one", "lib/a.js": "a", ".dockerignore": "Dockerfile\n.dockerignore\n"}
    )
    yield made
    made.close()


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
    return found


def test_a_build_repeated_is_the_same_image_without_running_anything(world: World) -> None:
    first = world.build()
    world.runner.ran.clear()
    second = world.build()
    assert (second.digest, second.key) == (first.digest, first.key)
    assert ran(second) == []
    assert world.runner.ran == []
    assert {event.kind for event in world.events} == {"cached"}


def test_times_umask_owner_and_place_are_no_part_of_the_key(world: World, tmp_path: Path) -> None:
    first = world.build()
    elsewhere = tmp_path / "elsewhere" / "copy"
    shutil.copytree(world.context, elsewhere)
    for path in [elsewhere, *elsewhere.rglob("*")]:
        os.utime(path, (1, 1))
        os.chown(path, 1234, 1234)
        path.chmod(0o700 if path.is_dir() or (os.access(path, os.X_OK) and path.name == "busybox") else 0o600)
    world.context = elsewhere
    assert world.builder.forecast(world.spec()).digest == first.digest
    assert world.build().digest == first.digest


def test_one_changed_file_runs_from_its_copy_on(world: World) -> None:
    world.build()
    world.write({"server.js": "two"})
    forecast = world.builder.forecast(world.spec())
    assert forecast.cause == "COPY . . (app/Dockerfile:8) reads app/server.js, which changed; 1 of 6 steps run again"
    assert forecast.changed_path == "app/server.js"
    assert ran(world.build()) == ["COPY . ."]
    world.write({"package.json": "{ }"})
    forecast = world.builder.forecast(world.spec())
    assert forecast.cause == (
        "COPY package.json ./ (app/Dockerfile:6) reads app/package.json, which changed; 3 of 6 steps run again"
    )
    assert len(ran(world.build())) == forecast.runs == 3


def test_a_change_taken_back_is_the_first_image_again(world: World) -> None:
    first = world.build()
    world.write({"server.js": "two"})
    assert world.build().digest != first.digest
    world.write({"server.js": "one"})
    assert world.builder.forecast(world.spec()).digest == first.digest
    assert world.build().digest == first.digest


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"new.js": "x"}, "COPY . . (app/Dockerfile:8) reads app/new.js, which is new; 1 of 6 steps run again"),
        (
            {"server.js": "2", "lib/a.js": "2"},
            "COPY . . (app/Dockerfile:8) reads app/lib/a.js and 1 more, which changed; 1 of 6 steps run again",
        ),
    ],
)
def test_a_forecast_names_the_file(world: World, change: dict[str, str], cause: str) -> None:
    world.build()
    world.write(change)
    assert world.builder.forecast(world.spec()).cause == cause


def test_a_forecast_names_what_is_gone_what_became_executable_and_what_was_edited(world: World) -> None:
    world.build()
    (world.context / "lib/a.js").unlink()
    assert "reads app/lib/a.js, which is gone" in world.builder.forecast(world.spec()).cause
    world.write({"lib/a.js": "a"})
    (world.context / "server.js").chmod(0o755)
    assert "reads app/server.js, which changed" in world.builder.forecast(world.spec()).cause
    (world.context / "server.js").chmod(0o644)
    world.shell(APP.replace("RUN cat", "RUN head"))
    assert world.builder.forecast(world.spec()).cause == (
        "RUN head package.json > /installed (app/Dockerfile:7) changed; 2 of 6 steps run again"
    )
    world.shell(APP.replace("COPY . .", "USER 5\nCOPY . ."))
    assert "USER 5 (app/Dockerfile:8) is new; 0 of 6 steps run again" in world.builder.forecast(world.spec()).cause
    world.shell(APP.replace('CMD ["sh"]', 'CMD ["ash"]'))
    forecast = world.builder.forecast(world.spec())
    assert forecast.cause == 'CMD ["ash"] (app/Dockerfile:10) changed; 0 of 6 steps run again'
    assert ran(world.build()) == []


def test_a_forecast_compares_with_the_build_that_it_is_given(world: World) -> None:
    first = world.build()
    world.write({"server.js": "two"})
    world.build()
    world.write({"lib/a.js": "two"})
    assert "reads app/lib/a.js, which changed" in world.builder.forecast(world.spec()).cause
    assert "reads app/lib/a.js and 1 more, which changed" in world.builder.forecast(world.spec(), first.previous).cause


def test_the_first_forecast_says_what_has_never_run(world: World) -> None:
    cause = world.builder.forecast(world.spec()).cause
    assert cause == "COPY busybox /bin/busybox (app/Dockerfile:2) has not run here yet; 6 of 6 steps run again"


def test_a_forecast_has_no_effect(world: World) -> None:
    world.builder.forecast(world.spec())
    assert not world.root.path.exists()
    world.build()
    before = snapshot(world.root.path)
    world.builder.forecast(world.spec())
    world.write({"server.js": "two"})
    world.builder.forecast(world.spec())
    world.builder.bases(world.spec())
    assert snapshot(world.root.path) == before


def test_an_argument_counts_from_where_it_is_declared(world: World) -> None:
    world.shell("FROM shell\nRUN echo one > /one\nARG V=0\nRUN echo $V > /two\n")
    first = world.build(args={"V": "1"})
    assert world.read(first.digest, "two") == "1\n"
    assert ran(world.build(args={"V": "1", "OTHER": "x"})) == []
    second = world.build(args={"V": "2"})
    assert ran(second) == ["RUN echo $V > /two"]
    assert world.read(second.digest, "two") == "2\n"
    cause = world.builder.forecast(world.spec(args={"V": "3"})).cause
    assert cause == "RUN echo $V > /two (app/Dockerfile:7) sees other values now; 1 of 4 steps run again"


def test_a_proxy_reaches_the_command_and_no_key(world: World) -> None:
    world.shell("FROM shell\nRUN echo $HTTP_PROXY > /proxy\n")
    first = world.build(args={"HTTP_PROXY": "http://one"})
    assert world.read(first.digest, "proxy") == "http://one\n"
    assert world.build(args={"HTTP_PROXY": "http://two"}).digest == first.digest


def test_labels_and_configuration_run_nothing(world: World) -> None:
    world.build()
    world.shell(APP.replace("WORKDIR /app", 'LABEL a=b\nENTRYPOINT ["x"]\nWORKDIR /app'))
    result = world.build(labels={"c": "d"})
    assert ran(result) == []
    config = world.image(result.digest).config
    assert dict(config.labels) == {"a": "b", "c": "d"}
    forecast = world.builder.forecast(world.spec(labels={"c": "e"}))
    assert forecast.digest is None
    assert forecast.runs == 0


def test_a_stage_rebuilt_to_the_same_file_costs_its_dependants_nothing(world: World) -> None:
    final = "FROM shell\nCOPY --from=made /out /out\nRUN cat /out > /seen\n"
    world.shell("FROM shell AS made\nRUN echo same > /out; echo one > /aside\n" + final)
    world.build()
    world.shell("FROM shell AS made\nRUN echo same > /out; echo two > /aside\n" + final)
    assert ran(world.build()) == ["RUN echo same > /out; echo two > /aside"]


def test_no_cache_runs_everything_anew(world: World) -> None:
    world.build()
    assert world.builder.forecast(world.spec(no_cache=True)).runs == 6
    assert len(ran(world.build(no_cache=True))) == 6


def test_a_lost_layer_is_made_again(world: World) -> None:
    first = world.build()
    lost = world.image(first.digest).layers[-1].descriptor.digest
    world.store.path(lost).unlink()
    forecast = world.builder.forecast(world.spec())
    assert forecast.cause == "COPY . . (app/Dockerfile:8) is not in the cache any more; 1 of 6 steps run again"
    result = world.build()
    assert ran(result) == ["COPY . ."]
    assert world.image(result.digest).layers[-1].descriptor.digest == lost


def test_collection_keeps_what_the_cache_refers_to_until_it_is_pruned(world: World) -> None:
    result = world.build()
    assert world.store.collect([world.builder.references]).blobs == 0
    assert world.build().digest == result.digest
    assert world.builder.prune(keep_bytes=0, keep_seconds=-1) > 0
    assert list(world.builder.references()) == []
    assert world.store.collect([world.builder.references]).blobs > 0
    assert len(ran(world.build())) == 6


def test_pruning_takes_the_longest_unused_first(world: World) -> None:
    world.build()
    world.write({"server.js": "two"})
    result = world.build()
    sizes = sum(layer.descriptor.size for layer in world.image(result.digest).layers)
    assert world.builder.prune(keep_bytes=sizes) > 0
    world.builder.prune(keep_seconds=3600)
    assert ran(world.build()) == []


def test_equal_inputs_with_an_epoch_are_one_digest_on_any_root(world: World, tmp_path: Path) -> None:
    dockerfile = APP.replace("COPY . .", "RUN mkdir /made && touch /made/x\nCOPY --chown=1 lib /srv/lib/\nCOPY . .")
    world.shell(dockerfile)
    other = World(tmp_path / "other")
    shutil.copytree(world.context, other.context, dirs_exist_ok=True)
    os.utime(other.context / "server.js", (5, 5))
    digests = {each.build(source_date_epoch=1_700_000_000).digest for each in (world, other)}
    digests.add(other.build(args={"SOURCE_DATE_EPOCH": "1700000000"}).digest)
    digests.add(other.build(source_date_epoch=1_700_000_000, no_cache=True).digest)
    assert len(digests) == 1
    config = world.image(digests.pop()).config
    assert config.created == "2023-11-14T22:13:20Z"
    assert {line["created"] for line in config.history} == {"2023-11-14T22:13:20Z"}
    with pytest.raises(BayplanError, match="bad-epoch"):
        world.build(args={"SOURCE_DATE_EPOCH": "yesterday"})


def test_two_builders_of_one_root_share_what_they_make(world: World) -> None:
    first = world.build()
    other = Builder(world.root, world.runner, world.resolve)
    world.runner.ran.clear()
    assert other.build(world.spec()).digest == first.digest
    assert world.runner.ran == []


def test_a_base_image_counts_by_its_layers(world: World) -> None:
    world.write({"Dockerfile": "FROM scratch\nCOPY server.js /base\n"})
    world.bases["base:1"] = world.build().digest
    world.write({"Dockerfile": "FROM base:1 AS it\nCOPY package.json /p\n"})
    assert world.builder.bases(world.spec()) == ("base:1",)
    result = world.build()
    assert world.listing(result.digest) == ["f 644 0:0 /base = one", "f 644 0:0 /p = {}"]
    world.write({"Dockerfile.base": "FROM scratch\nCOPY server.js /other\n"})
    world.bases["base:1"] = world.build(dockerfile=Path("Dockerfile.base")).digest
    forecast = world.builder.forecast(world.spec(), result.previous)
    assert forecast.cause == "FROM base:1 (app/Dockerfile:1) is another image now; 1 of 1 steps run again"
    del world.bases["base:1"]
    with pytest.raises(BayplanError) as caught:
        world.builder.forecast(world.spec())
    assert str(caught.value.where) == "app/Dockerfile:1:1"


def test_bases_are_those_of_reachable_stages(world: World) -> None:
    world.write(
        {
            "Dockerfile": "ARG V=1\nFROM one:$V AS a\nFROM two AS b\nCOPY --from=three /x /y\n"
            "FROM a\nRUN --mount=from=four,target=/m x\nCOPY --from=a /x /\n"
        }
    )
    assert world.builder.bases(world.spec()) == ("one:1", "four")
    assert world.builder.bases(world.spec(target="b")) == ("two", "three")
