"""The command line's own decisions, without a machine: options, words, accounts, what is generated from the parsers."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bayplan.cli import agent, completion, completion_scripts, container, container_options, image, image_build, show
from bayplan.cli.accounting import PARTS, part_of, walk
from bayplan.cli.login import registry_name
from bayplan.cli.main import Parser, main
from bayplan.errors import BayplanError, UsageError
from bayplan.kinds.files import schema_names, schema_text
from bayplan.oci.image import HealthConfig, ImageConfig
from bayplan.runtime.spec import Attachment, ContainerSpec, Health, Mount, Port, RestartPolicy

TOP = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "0" * 64


def spec(*words: str, **config: Any) -> ContainerSpec:
    """What ``bayplan container create WORDS`` asks the runtime for."""
    parser = Parser()
    container_options.add_run_options(parser)
    return container_options.spec_of(parser.parse_args(words), DIGEST, ImageConfig(**config))


# -- container run -------------------------------------------------------------------------------------------------


def test_options_end_where_the_image_stands_and_the_rest_is_the_command() -> None:
    found = spec("--name", "x", "box:1", "sh", "-c", "echo -e --name y")
    assert (found.name, found.image_name, found.command) == ("x", "box:1", ("sh", "-c", "echo -e --name y"))
    assert spec("box:1").command is None


def test_options_are_read_with_the_grammar_of_stack_files() -> None:
    found = spec(
        "-p", "127.0.0.1:8080:80/udp", "-p", "53", "-v", "data:/data:ro", "-v", "./here:/there", "--tmpfs", "/t:size=1m",
        "-m", "64m", "--cpus", "0.5", "--pids-limit", "10", "--restart", "on-failure:3", "--cap-add", "net_admin",
        "--stop-signal", "quit", "--stop-timeout", "1m", "--add-host", "db:10.0.0.1", "-l", "a=b=c", "--network", "n",
        "--network-alias", "also", "box:1",
    )  # fmt: skip
    assert found.ports == (Port(80, 8080, "127.0.0.1", "udp"), Port(53))
    assert found.mounts == (
        Mount("volume", "/data", "data", True),
        Mount("bind", "/there", f"{Path.cwd()}/here"),
        Mount("tmpfs", "/t", size=1 << 20),
    )
    assert (found.memory, found.cpus, found.pids_limit) == (64 << 20, 0.5, 10)
    assert (found.restart, found.restart_retries) == (RestartPolicy.ON_FAILURE, 3)
    assert (found.cap_add, found.stop_signal, found.stop_timeout) == (("CAP_NET_ADMIN",), "SIGQUIT", 60.0)
    assert (found.extra_hosts, found.labels) == ({"db": "10.0.0.1"}, {"a": "b=c"})
    assert found.networks == (Attachment("n", ("also",)),)


def test_exposed_ports_are_published_where_no_option_says_where() -> None:
    found = spec("-P", "-p", "8080:80", "box:1", exposed_ports=("80/tcp", "443/tcp"))
    assert found.ports == (Port(80, 8080), Port(443))


def test_an_entrypoint_of_nothing_is_none_at_all() -> None:
    assert spec("--entrypoint", "", "box:1", "sh").entrypoint == ()
    assert spec("--entrypoint", "/run me", "box:1").entrypoint == ("/run me",)
    assert spec("box:1").entrypoint is None


def test_health_options_change_what_they_name_and_keep_the_images_rest() -> None:
    own = {"healthcheck": HealthConfig(("CMD", "check"), interval=3.0, retries=7)}
    assert spec("box:1", **own).health is None, "the image's own stands"
    assert spec("--health-timeout", "2s", "box:1", **own).health == Health(("CMD", "check"), 3.0, 2.0, retries=7)
    assert spec("--health-cmd", "true", "box:1").health == Health(("CMD-SHELL", "true"))
    assert spec("--no-healthcheck", "box:1", **own).health == Health(("NONE",))
    for wrong in (("--health-retries", "3"), ("--no-healthcheck", "--health-cmd", "true")):
        with pytest.raises(UsageError):
            spec(*wrong, "box:1")


def test_variables_come_from_files_ourselves_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "1")
    monkeypatch.delenv("NOT_OURS", raising=False)
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=file\n  B=with = and #\nOURS\nNOT_OURS\n")
    found = container_options.environment(["A=line", "EMPTY=", "NOT_OURS"], [str(file)])
    assert found == {"A": "line", "B": "with = and #", "OURS": "1", "EMPTY": ""}
    file.write_text("two words=x\n")
    with pytest.raises(BayplanError, match="bad-env-file"):
        container_options.environment([], [str(file)])


def test_secret_variables_come_from_ourselves_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t")
    found = spec("--secret-env", "TOKEN", "box:1")
    assert (found.env, found.secret_env) == ({"TOKEN": "t"}, {"TOKEN"})
    with pytest.raises(UsageError, match="no such variable") as caught:
        spec("--secret-env", "TOKEN2=planted", "box:1")
    assert "planted" not in caught.value.render()


@pytest.mark.parametrize(
    "words",
    [
        ("--network", "none", "--network", "a"),
        ("--network-alias", "x"),
        ("--pids-limit", "many"),
        ("-e", "=x"),
        ("-l", "=x"),
        ("--add-host", "x"),
        ("--secret-env", "NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_what_contradicts_itself_is_a_wrong_command_line(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        spec(*words, "box:1")


def test_made_up_names_are_names() -> None:
    from bayplan.runtime.names import check_name

    for name in ("busybox", "host:5000/team/App_x:1.0@sha256:00", "sha256:0123", "---", "a" * 300):
        check_name(container_options.made_up_name(name))


def test_build_secrets_are_files_or_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s").write_text("x")
    monkeypatch.setenv("TOKEN", "value")
    found = image_build.secrets([f"id=a,src={tmp_path}/s", "id=b,env=TOKEN", "id=TOKEN"])
    assert found == {"a": tmp_path / "s", "b": b"value", "TOKEN": b"value"}
    for wrong in ("a", "id=a,color=red", "id=a,env=NO_SUCH_VARIABLE_HERE"):
        with pytest.raises(UsageError):
            image_build.secrets([wrong])
    with pytest.raises(BayplanError, match="secret-missing"):
        image_build.secrets(["id=a,src=/no/such/file"])


# -- words ---------------------------------------------------------------------------------------------------------


def test_sizes_and_times_are_told_in_one_unit() -> None:
    assert [show.size(n) for n in (0, 999, 1000, 12_345, 5.6e9)] == ["0B", "999B", "1kB", "12.3kB", "5.6GB"]
    assert [show.binary_size(n) for n in (0, 1024, 64 << 20)] == ["0B", "1KiB", "64MiB"]
    assert [show.span(n) for n in (0, 1, 59, 60, 7200, 86400 * 9)] == [
        "0 seconds", "1 second", "59 seconds", "1 minute", "2 hours", "1 week",
    ]  # fmt: skip
    assert show.table_text(("A", "LONG"), [("wider", "x"), ("", "y")]) == "A      LONG\nwider  x\n       y\n"


def test_registries_are_named_by_host() -> None:
    assert registry_name("https://index.docker.io/v1/") == "docker.io"
    assert registry_name("host:5000") == "host:5000"
    for wrong in ("", "a b", "host:port", "user@host"):
        with pytest.raises(BayplanError, match="bad-registry"):
            registry_name(wrong)


# -- accounting ----------------------------------------------------------------------------------------------------


def test_every_path_belongs_to_one_part() -> None:
    assert part_of(("oci", "blobs", "sha256", "ab")) == "blobs"
    assert part_of(("oci", "index.db")) == "store"
    assert part_of(("containers", "id", "upper", "file")) == "containers"
    assert part_of(("containers", "id", "ctr.log.1")) == "logs"
    assert part_of(("containers", "id", "status.json")) == "records"
    assert part_of(("containers", ".names", "web")) == "records"
    assert part_of(("key",)) == "other"
    places = [
        ("oci",),
        ("containers",),
        ("networks", "n"),
        ("volumes", "v"),
        ("build", "x"),
        ("state",),
        ("registry",),
        (),
    ]
    assert {part_of(place) for place in places} <= set(PARTS)


def test_a_walk_counts_what_du_counts(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(os.urandom(100_000))
    (tmp_path / "a/b/link").hardlink_to(tmp_path / "a/file")
    (tmp_path / "a/gone").symlink_to("nowhere")
    done = subprocess.run(["du", "-s", "--block-size=1", str(tmp_path)], capture_output=True, check=True, timeout=30)
    assert sum(size for _, size in walk(str(tmp_path))) == int(done.stdout.split()[0])


# -- parsers, scripts, documents -----------------------------------------------------------------------------------


def test_every_verb_has_its_arguments_and_its_function() -> None:
    for command in (container, image):
        for verb, (_, module) in command.VERBS.items():
            assert callable(getattr(importlib.import_module(f"bayplan.cli.{module}"), container.function_name(verb)))
    from bayplan.cli import container_arguments

    assert container_arguments.ADD.keys() == container.VERBS.keys()


def test_places_and_json_are_accepted_by_every_verb_by_hand() -> None:
    for place, parser in completion.parsers().items():
        if place[0] in ("container", "image", "network", "volume", "registry", "system") and len(place) == 2:
            options = {option for action in parser._actions for option in action.option_strings}
            assert {"--root", "--state", "--json"} <= options, place


def test_no_command_takes_a_secret_in_its_arguments() -> None:
    for place, parser in completion.parsers().items():
        for action in parser._actions:
            if "password" in action.dest and action.help != argparse.SUPPRESS:
                assert action.nargs == 0, f"{place}: {action.option_strings}"


def test_every_help_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    for place in completion.parsers():
        with pytest.raises(SystemExit) as ended:
            main([*place, "--help"])
        assert ended.value.code == 0
        assert f"bayplan {' '.join(place)}" in capsys.readouterr().out


def test_the_bash_script_is_one(tmp_path: Path) -> None:
    lines = completion.lines()
    (tmp_path / "bash").write_text(completion_scripts.script("bash", lines))
    subprocess.run(["bash", "-n", str(tmp_path / "bash")], check=True, timeout=30)


def test_scripts_of_all_shells_know_every_command_and_option() -> None:
    lines = completion.lines()
    for shell in completion.SHELLS:
        text = completion_scripts.script(shell, lines)
        for words in lines.values():
            for word in words:
                name = word.partition("=")[0].lstrip("-@")
                assert name in text, f"{shell}: {word}"


def test_the_page_of_the_command_line_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "tools/generate_cli.py", "--check"], cwd=TOP, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_unit_is_the_one_that_is_provided() -> None:
    assert agent.unit() == (TOP / "tools/systemd/bayplan-agent.service").read_text()


@pytest.mark.parametrize("name", [name for name in schema_names() if name.startswith("output/")])
def test_schemas_of_outputs_are_schemas(name: str) -> None:
    schema = json.loads(schema_text(name))
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].endswith(f"{name}.schema.json")
    assert schema["description"].endswith(".")
    assert set(schema["required"]) <= set(schema["properties"])


def test_help_costs_less_than_60_ms_of_processor_time_over_bare_python() -> None:
    def cost(*words: str) -> float:
        """The least of several, in seconds: other work on the machine only adds."""
        program = "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], stdout=-3, check=True, timeout=30)\n"
        program += "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime)"
        runs = [
            subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=True, timeout=60)
            for _ in range(5)
        ]
        return min(float(run.stdout) for run in runs)

    bare = cost(sys.executable, "-c", "pass")
    assert cost(sys.executable, "-m", "bayplan.cli.main", "--help") - bare < 0.060
