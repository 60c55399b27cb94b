"""`kubectl agenttask` against a real API server, each command with its answers and refusals."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from coding_agent_testbed.until import until
from kubectl_agenttask import cluster_client
from kubectl_agenttask.__main__ import main

from tests.integration.core_kubernetes.place import Place
from tests.integration.operator.world import OperatorProcess, account
from tests.integration.plugin.conftest import Plugin

ISSUE = "https://github.com/octo/demo/issues/7"


@pytest.fixture
def task(plugin: Plugin) -> str:
    options = ("--user", "alice", "--priority", "10", "--model", "small", "--runner", "codex")
    return plugin("run", ISSUE, *options, "--budget", "2.50 USD", "--ttl", "60").out.split()[1]


def test_run_makes_the_task_that_a_label_would(place: Place, task: str) -> None:
    spec = place.task(task)["spec"]
    assert spec["source"] == {
        "platform": "github",
        "host": "github.com",
        "repository": "octo/demo",
        "kind": "issue",
        "number": 7,
    }
    assert (spec["trigger"]["origin"], spec["user"], spec["priority"]) == ("manual", "alice", 10)
    assert (spec["url"], spec["run"], spec["model"], spec["runner"]) == (ISSUE, 1, "small", "codex")
    budget = {"amount": "2.50", "currency": "USD"}
    assert (spec["budget"], spec["ttlSecondsAfterFinished"]) == (budget, 60)
    assert not {"timeoutSeconds", "maxAttempts"} & set(spec), "left to the operator"
    assert place.task(task)["metadata"]["annotations"]["coding-agent.dev/created-by"] == "admin"


def test_run_for_gitlab_takes_the_projects_id(place: Place, plugin: Plugin) -> None:
    url = "https://gitlab.com/group/project/-/merge_requests/7"
    assert "--project-id" in plugin("run", url).err
    name = plugin("run", url, "--project-id", "4242").out.split()[1]
    assert place.task(name)["spec"]["source"]["projectID"] == 4242


def test_limits_that_are_not_given_are_those_of_the_release(
    place: Place, plugin: Plugin, tmp_path: Path
) -> None:
    kubeconfig = account(place.plane, place.namespace, tmp_path)
    limits = {"timeout_seconds": 600, "max_attempts": 2}
    operator = OperatorProcess(kubeconfig, place.namespace, tmp_path, {"consumer": limits}).start()
    try:
        name = plugin("run", ISSUE, "--max-attempts", "5").out.split()[1]
        # The attempt's Job is made after the limits are filled in.
        job = until(
            "a Job", lambda: place.plane.get("-n", place.namespace, "jobs")["items"] or None, timeout=60
        )
        spec = place.task(name)["spec"]
        assert (spec["timeoutSeconds"], spec["maxAttempts"]) == (600, 5)
        assert 600 < job[0]["spec"]["template"]["spec"]["activeDeadlineSeconds"] < 3600
        assert name in plugin("list", "--active").out
    finally:
        operator.stop()


def test_one_run_of_an_item_at_a_time(place: Place, plugin: Plugin, task: str) -> None:
    for command in (["run", ISSUE], ["retry", task]):
        refusal = plugin(*command, status=1).err
        assert f"{task} is working on octo/demo#7" in refusal
        assert f"kubectl agenttask cancel {task}" in refusal
    assert list(place.tasks()) == [task]


def test_retry_is_the_next_run_with_the_same_limits(place: Place, plugin: Plugin, task: str) -> None:
    place.end(task, succeeded=False)
    for command in ("cancel", "suspend", "resume"):
        assert "has ended" in plugin(command, task, status=1).err
    assert plugin("retry", task).out == f"agenttask {task}-r2 created\n"
    first, second = place.task(task)["spec"], place.task(f"{task}-r2")["spec"]
    same = ("source", "user", "url", "timeoutSeconds", "maxAttempts", "priority")
    assert {key: second.get(key) for key in same} == {key: first.get(key) for key in same}
    assert (second["run"], second["trigger"]["origin"]) == (2, "manual")
    # Of whichever run one asks: the item has one run at a time.
    assert f"{task}-r2 is working" in plugin("retry", task, status=1).err


def test_suspend_resume_and_cancel_then_retry_waits_for_the_end(
    place: Place, plugin: Plugin, task: str
) -> None:
    for command, is_ in (("suspend", True), ("resume", False)):
        assert plugin(command, task).out == f"agenttask {task} {command.removesuffix('e')}ed\n"
        assert place.task(task)["spec"]["suspend"] is is_
        assert "suspended" in plugin(command, task).err
    assert plugin("cancel", task).out == f"agenttask {task} is being cancelled\n"
    assert place.task(task)["spec"]["cancel"] is True
    assert place.task(task)["metadata"]["annotations"]["coding-agent.dev/cancelled-by"] == "admin"
    assert "already" in plugin("cancel", task).err
    said = plugin("retry", task)
    assert f"The new task starts when {task}, which is being cancelled, has ended." in said.err
    assert f"{task}-r2" in place.tasks()


def test_what_is_not_there_or_not_allowed_names_the_remedy(place: Place, plugin: Plugin) -> None:
    assert "kubectl agenttask list" in plugin("describe", "none", status=66).err
    assert "list -A" in plugin("cancel", "none", status=66).err
    denied = plugin("describe", "none", "--kubeconfig", str(place.account()), status=66)
    assert "there is no agenttask none" in denied.err
    refused = plugin("list", "-A", "--kubeconfig", str(place.account()), status=77, namespaced=False)
    assert "does not let you list agenttasks" in refused.err
    assert "Ask for the verb list on agenttasks" in refused.err


def test_a_cluster_without_agenttasks_says_how_to_install(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_client, "GROUP", "not-installed.example.com")
    for command in (["list"], ["describe", "x"], ["run", ISSUE]):
        assert "install the chart" in plugin(*command, status=78).err


def test_an_item_in_place_of_a_name(place: Place, plugin: Plugin, task: str) -> None:
    for written in ("octo/demo#7", "Octo/Demo#7", ISSUE, f"agenttask.coding-agent.dev/{task}"):
        assert plugin("describe", written, "-o", "name").out == f"agenttask.coding-agent.dev/{task}\n"
    assert plugin("cancel", "octo/demo#7").out == f"agenttask {task} is being cancelled\n"
    place.end(task, succeeded=False)
    assert plugin("retry", "octo/demo#7", "-o", "name").out.endswith(f"/{task}-r2\n")
    # An item with a task needs no address either.
    place.end(f"{task}-r2", succeeded=False)
    assert plugin("run", "octo/demo#7", "--priority", "3").out == f"agenttask {task}-r3 created\n"
    spec = place.task(f"{task}-r3")["spec"]
    assert (spec["url"], spec["run"], spec["priority"]) == (ISSUE, 3, 3)
    assert "no agenttask in namespace" in plugin("run", "octo/demo#8", status=66).err
    place.end(f"{task}-r3", succeeded=False)
    assert plugin("retry", ISSUE).out == f"agenttask {task}-r4 created\n"
    # The item stands for its newest run, and `list` shows all of them.
    assert plugin("suspend", ISSUE).out == f"agenttask {task}-r4 suspended\n"
    listed = plugin("list", "octo/demo#7", "-o", "name").out.split()
    assert listed == [
        f"agenttask.coding-agent.dev/{name}" for name in (task, *(f"{task}-r{n}" for n in (2, 3, 4)))
    ]


def test_a_wrong_name_or_an_item_of_two_forges(plugin: Plugin, task: str) -> None:
    assert f"Did you mean {task}?" in plugin("describe", f"{task[:-1]}x", status=66).err
    assert "no agenttask in namespace" in plugin("describe", "octo/demo#8", status=66).err
    assert "give the name of a task, owner/repo#12" in plugin("describe", "octo/demo", status=2).err
    other = plugin("run", "https://git.example.com/octo/demo/issues/7", "--platform", "gitea").out.split()[1]
    said = plugin("cancel", "octo/demo#7", status=66).err
    assert "octo/demo#7 names several items" in said
    assert f"{task}  {ISSUE}" in said
    assert other in said
    assert plugin("describe", ISSUE, "-o", "name").out.endswith(f"{task}\n")


def test_objects_for_programs(plugin: Plugin, task: str) -> None:
    one = json.loads(plugin("describe", task, "-o", "json").out)
    assert (one["kind"], one["metadata"]["name"]) == ("AgentTask", task)
    assert [
        body["metadata"]["uid"] for body in yaml.safe_load(plugin("list", "-o", "yaml").out)["items"]
    ] == [one["metadata"]["uid"]]
    assert json.loads(plugin("suspend", task, "-o", "json").out)["spec"]["suspend"] is True
    row, header = reversed(plugin("list", "-o", "wide").out.splitlines())
    assert header.split()[-4:] == ["USER", "ORIGIN", "QUEUE", "COST"]
    assert row.split()[-2:] == ["alice", "manual"]
    assert plugin("list", "--repo", "octo/none", "-o", "name").out == ""


def test_open_prints_web_addresses_only(place: Place, plugin: Plugin, task: str) -> None:
    assert plugin("open", "octo/demo#7", "--print").out == f"{ISSUE}\n"
    assert f"{task} has no change yet" in plugin("open", task, "--change", status=1).err
    change = "https://github.com/octo/demo/pull/8"
    place.patch_status(task, {"result": {"changeURL": change}})
    assert plugin("open", task, "--change", "--print").out == f"{change}\n"
    place.patch_status(task, {"result": {"changeURL": "file:///etc/passwd"}})
    assert "has no change yet" in plugin("open", task, "--change", status=1).err


def test_versions_of_the_cluster(plugin: Plugin) -> None:
    found = json.loads(plugin("version", "-o", "json").out)
    assert (found["plugin"], found["crd"], found["charts"]) == (version("kubectl-agenttask"), "v1alpha1", [])
    assert found["kubernetes"].startswith("v1.")
    assert found["problems"] == []
    assert "not installed in this namespace" in plugin("version").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", ISSUE, "--max-attempts", "21"], "21 is not between 1 and 20"),
        (["run", ISSUE, "--timeout-seconds", "0"], "0 is not between 1 and 604800"),
        (["run", ISSUE, "--priority", "high"], "'high' is not a whole number"),
        (["run", ISSUE, "--priority", "1001"], "1001 is not between -1000 and 1000"),
        (["list", "--repo", "demo"], "'demo' is not a repository: give OWNER/REPO"),
        (["logs", "x", "--attempt", "0"], "0 is not between 1 and"),
        (["wait", "x", "--timeout", "10"], "'10' is not a length of time; write for example 30m"),
        (["retry", "--failed", "--reason", "ModelUnavailble"], "did you mean ModelUnavailable or"),
        (["describe", "x", "-o", "wide"], "invalid choice"),
    ],
)
def test_a_wrong_value_is_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_no_cluster_and_no_context(place: Place, plugin: Plugin) -> None:
    config = json.loads(place.plane.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["clusters"][0]["cluster"] = {"server": "http://127.0.0.1:1"}
    file = place.folder / "nowhere"
    file.write_text(json.dumps(config))
    assert "does not answer" in plugin("list", "--kubeconfig", str(file), status=75).err
    assert "--context NAME" in plugin("list", "--context", "none", status=78).err


def test_the_script_alone_is_the_same_program(plugin: Plugin, task: str) -> None:
    through_kubectl, alone = (plugin("list", through=how).out.splitlines() for how in ("kubectl", "script"))
    assert [line.split()[:4] for line in alone] == [line.split()[:4] for line in through_kubectl]
    assert alone[1].split()[0] == task
