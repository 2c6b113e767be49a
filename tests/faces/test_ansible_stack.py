"""The modules ``stack`` and ``stack_info`` in real playbooks, beside the command line on the same root."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, CommandLine

pytestmark = pytest.mark.root

#: Values that may stand in no output: of a literal in ``env``, of a secret, of a sensitive variable.
PLANTED = {"literal": "planted-61c0-literal", "secret": "planted-9f27-secret", "variable": "planted-d4e8-variable"}


@dataclass(frozen=True)
class Told:
    """What one task came to: its registered result, and all that the run printed."""

    result: dict[str, Any]
    text: str

    def __getitem__(self, key: str) -> Any:
        return self.result[key]

    @property
    def actions(self) -> list[tuple[str, str]]:
        return [(one["address"], one["action"]) for one in self.result["operations"]]


@dataclass
class Controller:
    """``ansible-playbook`` with the collection, on the root of ``line``."""

    folder: Path
    line: CommandLine
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        linked = self.folder / "collections/ansible_collections/bayplan/containers"
        linked.parent.mkdir(parents=True)
        linked.symlink_to(REPOSITORY / "ansible_collection")

    def environment(self) -> dict[str, str]:
        return {
            **{key: value for key, value in self.line.environment().items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "LC_ALL": "C.UTF-8",
            **self.environ,
        }

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name(name), *arguments],
            cwd=self.line.cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def task(self, options: dict[str, Any], *flags: str, module: str = "stack", fails: bool = False) -> Told:
        """One task in a playbook of its own, run as ``ansible-playbook FLAGS`` runs it."""
        tasks = [
            {f"bayplan.containers.{module}": options, "register": "told", "ignore_errors": True},
            {"ansible.builtin.debug": {"msg": "told-{{ told | to_json | b64encode }}-told"}},
        ]
        book = self.line.cwd / "playbook.json"
        book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        done = self.command("ansible-playbook", str(book), *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        packed = re.search("told-([A-Za-z0-9+/=]+)-told", done.stdout)
        assert packed is not None, done.stdout
        found = Told(json.loads(base64.b64decode(packed[1])), done.stdout + done.stderr)
        assert found.result.get("failed", False) is fails, json.dumps(found.result, indent=1)
        return found


@pytest.fixture
def controller(tmp_path: Path, bayplan: CommandLine, busybox: Path) -> Controller:
    """A controller in whose current folder lies a root file system, as an image would be made of."""
    (bayplan.cwd / "tree/bin").mkdir(parents=True)
    shutil.copy(busybox, bayplan.cwd / "tree/bin/busybox")
    return Controller(tmp_path / "controller", bayplan)


def definition(**env: str) -> dict[str, Any]:
    return {
        "stack": "shop",
        "resources": {
            "Image.box": {"rootfs": "./tree", "tags": ["shop:1"]},
            "Container.web": {
                "image": "${Image.box.ref}",
                "command": ["/bin/busybox", "sleep", "1000"],
                "network_mode": "none",
                "stop_signal": "SIGKILL",
                "env": env,
            },
        },
        "outputs": {"name": "${Container.web.name}"},
    }


def running(line: CommandLine) -> dict[str, str]:
    """Name -> id of every container of the host, whatever its state."""
    return {one["name"]: one["id"] for one in line.json("container", "list", "--all")["containers"]}


CREATED = [("Image.box", "load"), ("Image.box", "tag"), ("Container.web", "create")]


def test_a_definition_lives_from_check_mode_to_absent(controller: Controller) -> None:
    line = controller.line
    options = {"definition": definition(GREETING="hello")}

    checked = controller.task(options, "--check", "--diff")
    assert (checked["changed"], checked.actions) == (True, CREATED)
    assert checked["plan"].startswith("shop: 3 operations\n")
    assert "+env.GREETING: (masked: new)" in checked.text
    assert running(line) == {}
    assert line.json("image", "list")["images"] == []

    applied = controller.task(options)
    assert (applied["changed"], applied.actions, applied["outputs"]) == (True, CREATED, {"name": "shop-web"})
    assert [one["result"] for one in applied["operations"]] == ["ok"] * 3
    assert "diff" not in applied.result
    before = running(line)
    assert list(before) == ["shop-web"]

    again = controller.task(options)
    assert (again["changed"], again.actions, again["outputs"]) == (False, [], {"name": "shop-web"})

    changed = {"definition": definition(GREETING="bonjour")}
    checked = controller.task(changed, "--check", "--diff")
    assert (checked["changed"], checked.actions) == (True, [("Container.web", "replace")])
    assert checked["outputs"] == {"name": "shop-web"}
    assert "-env.GREETING: (masked: old)\n+env.GREETING: (masked: new)\n" in checked.text
    assert running(line) == before
    applied = controller.task(changed, "--diff")
    assert (applied["changed"], applied.actions) == (True, checked.actions)
    assert running(line) != before

    gone = {**changed, "state": "absent"}
    checked = controller.task(gone, "--check")
    assert (checked["changed"], checked.actions) == (True, [("Container.web", "delete"), ("Image.box", "delete")])
    assert list(running(line)) == ["shop-web"]
    applied = controller.task(gone)
    assert (applied["changed"], applied.actions, applied["outputs"]) == (True, checked.actions, {})
    assert running(line) == {}
    again = controller.task(gone)
    assert (again["changed"], again.actions) == (False, [])
    assert sorted(one.name for one in line.cwd.iterdir()) == ["playbook.json", "tree"]


def test_the_command_line_and_a_playbook_see_each_others_work_as_done(controller: Controller) -> None:
    line = controller.line
    data = definition(GREETING="hello")
    (line.cwd / "bayplan.json").write_text(json.dumps(data))
    by_file = {"file": ["."], "folder": str(line.cwd)}

    controller.task({"definition": data, "folder": str(line.cwd)})
    line.run("plan", "--detailed-exitcode")
    assert controller.task(by_file)["changed"] is False

    data["resources"]["Container.web"]["labels"] = {"by": "hand"}
    (line.cwd / "bayplan.json").write_text(json.dumps(data))
    line.run("apply", "--yes")
    for options in ({"definition": data}, by_file):
        assert controller.task(options)["changed"] is False

    told = controller.task(by_file, module="stack_info")
    assert (told["in_sync"], told["drift"], told["outputs"]) == (True, [], {"name": "shop-web"})
    line.run("container", "stop", "--time", "0", "shop-web")
    told = controller.task({"definition": data}, module="stack_info")
    assert (told["changed"], told["in_sync"], told.actions) == (False, False, [("Container.web", "start")])
    assert [one["address"] for one in told["drift"]] == ["Container.web"]
    assert controller.task({"definition": data}).actions == [("Container.web", "start")]
    line.run("destroy", "--yes")
    assert controller.task({"definition": data, "state": "absent"})["changed"] is False


def test_no_output_of_any_mode_holds_a_secret(controller: Controller) -> None:
    line = controller.line
    data = {
        **definition(LITERAL=PLANTED["literal"], SECRET="${secret.token}", VARIABLE="${var.password}", SAME="same"),
        "secrets": {"token": {"env": "APP_TOKEN"}},
        "variables": {"password": {"sensitive": True}, "memory": {}},
    }
    data["resources"]["Container.web"]["memory"] = "${var.memory}"
    controller.environ["APP_TOKEN"] = PLANTED["secret"]
    options: dict[str, Any] = {"definition": data, "variables": {"password": PLANTED["variable"], "memory": "32m"}}
    ran = [controller.task(options, "--check", "--diff", "-vvv"), controller.task(options, "--diff", "-vvv")]
    assert re.search(r'"variables": \{\s*"memory": "\(masked\)",\s*"password": "\(masked\)"', ran[0].text)
    inside = ["container", "exec", "shop-web", "/bin/busybox", "env"]
    assert [value for value in PLANTED.values() if value not in line.run(*inside).stdout] == []

    controller.environ["APP_TOKEN"] += "-2"
    options["variables"]["password"] += "-2"
    options["variables"]["memory"] = "48m"
    data["resources"]["Container.web"]["env"]["LITERAL"] += "-2"
    ran.append(controller.task(options, "--check", "--diff", "-vvv"))
    (change,) = [one for one in ran[-1]["operations"][0]["changes"] if one["field"] == "env"]
    assert change["before"] == dict.fromkeys(("LITERAL", "SECRET", "VARIABLE"), "(masked: old)") | {"SAME": "(masked)"}
    assert "-memory: 32m\n" in ran[-1].text
    assert "+memory: 48m\n" in ran[-1].text
    assert "env.SAME" not in ran[-1].text.partition("--- before")[2].partition("PLAY RECAP")[0].partition("\n\n")[0]
    ran.append(controller.task(options, "-vvv", module="stack_info"))
    ran.append(controller.task({**options, "state": "gone"}, "-vvv", fails=True))
    ran.append(controller.task({**options, "file": ["x.yaml"]}, "-vvv", fails=True))
    data["resources"]["Container.web"]["imagee"] = "x"
    ran.append(controller.task(options, "-vvv", fails=True))
    for one in ran:
        assert [value for value in PLANTED.values() if value in json.dumps(one.result) + one.text] == []


def test_a_failure_tells_what_was_done_and_changed_is_honest(controller: Controller) -> None:
    data = definition()
    data["resources"]["Container.web"]["command"] = ["/bin/nothing-here"]
    failed = controller.task({"definition": data}, fails=True)
    assert failed["changed"] is True
    assert [one["result"] for one in failed["operations"]] == ["ok", "ok", "failed"]
    assert failed["msg"].startswith("Container.web create: ")
    assert "nothing-here" in failed["msg"]
    again = controller.task({"definition": data}, fails=True)
    assert (again["changed"], again.actions) == (False, [("Container.web", "start")])
    controller.line.run("container", "rm", "--force", "shop-web")
    alone = controller.task({"definition": data}, fails=True)
    assert alone.actions == [("Container.web", "create")]
    assert alone["changed"] is (list(running(controller.line)) == ["shop-web"])
    controller.task({"definition": data, "state": "absent"})


def test_mistakes_are_told_in_the_words_of_the_domain(controller: Controller) -> None:
    data = definition()
    data["resources"]["Container.web"]["imagee"] = "x"
    data["resources"]["Container.web"]["memory"] = "much"
    failed = controller.task({"definition": data}, fails=True)
    assert (failed["changed"], failed["operations"]) == (False, [])
    assert [one["code"] for one in failed["errors"]] == ["unknown-property", "bad-value"]
    assert "imagee" in failed["msg"]
    assert ".json" not in failed["msg"]
    failed = controller.task({"file": ["nowhere.yaml"]}, fails=True)
    assert failed["errors"][0]["code"] == "unreadable-file"
    failed = controller.task({"definition": definition(), "replace": ["Container.wob"]}, "--check", fails=True)
    assert "Container.wob" in failed["msg"]
    failed = controller.task({"definition": definition(), "folder": "/nowhere"}, fails=True)
    assert "/nowhere" in failed["msg"]


def test_targets_and_replace_are_heard(controller: Controller) -> None:
    data = definition()
    only = controller.task({"definition": data, "targets": ["Image.box"]})
    assert only.actions == CREATED[:2]
    controller.task({"definition": data})
    forced = controller.task({"definition": data, "replace": ["Container.web"]})
    assert (forced["changed"], forced.actions) == (True, [("Container.web", "replace")])
    controller.task({"definition": data, "state": "absent"})


def test_roots_and_states_are_options(controller: Controller, tmp_path: Path) -> None:
    line = controller.line
    places = {"bayplan_root": str(line.root), "bayplan_state": str(line.state)}
    line.root, line.state = tmp_path / "other-root", tmp_path / "other-state"
    controller.task({"definition": definition(), **places})
    assert not line.root.exists()
    line.root, line.state = Path(places["bayplan_root"]), Path(places["bayplan_state"])
    assert list(running(line)) == ["shop-web"]
    controller.task({"definition": definition(), "state": "absent", **places})


@pytest.mark.parametrize("module", ["stack", "stack_info"])
def test_every_option_and_result_is_documented(controller: Controller, module: str) -> None:
    done = controller.command("ansible-doc", "--json", f"bayplan.containers.{module}")
    assert done.returncode == 0, done.stderr
    (page,) = json.loads(done.stdout).values()
    assert page["examples"]
    assert page["return"]
    options = {"file", "definition", "folder", "variables", "targets", "bayplan_root", "bayplan_state"}
    options |= {"state", "replace", "lock_timeout"} if module == "stack" else set()
    assert set(page["doc"]["options"]) == options
    shown = controller.command("ansible-doc", f"bayplan.containers.{module}")
    assert "lock_timeout" in shown.stdout or module == "stack_info"
    assert "pip install bayplan" in shown.stdout
