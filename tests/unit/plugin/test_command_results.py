"""Exit statuses, formats of `-o`, versions, and what happens to many tasks: without a cluster."""

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import yaml
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Phase
from coding_agent_docs.paths import DOCS
from kubectl_agenttask import (
    ConfigurationError,
    DeniedError,
    ExitStatus,
    NotFoundError,
    PluginError,
    UnreachableError,
    UsageError,
    tables,
)
from kubectl_agenttask.argument_types import OBJECTS, Format
from kubectl_agenttask.bulk import for_each
from kubectl_agenttask.cluster_client import ClusterAccess, sentences
from kubectl_agenttask.commands import failed_runs
from kubectl_agenttask.output import show_task, show_tasks
from kubectl_agenttask.session import Session
from kubectl_agenttask.tables import console
from kubectl_agenttask.versions import versions_of
from kubectl_agenttask.waiting import STATUSES
from kubernetes.client.exceptions import ApiException

NOW = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)


def task(name: str, run: int = 1, number: int = 7, **status: Any) -> AgentTask:
    source = {"platform": "github", "host": "github.com", "repository": "octo/demo", "kind": "issue"}
    return AgentTask.of(
        {
            "apiVersion": "coding-agent.dev/v1alpha1",
            "kind": "AgentTask",
            "metadata": {
                "name": name,
                "uid": name,
                "namespace": "team",
                "creationTimestamp": f"2026-11-25T12:00:{run:02}Z",
                "managedFields": [{"manager": "x"}],
            },
            "spec": {"source": source | {"number": number}, "run": run, "title": "\x1b[2Jtitle"},
            "status": status,
        }
    )


def failed(name: str, reason: str, hour: int, run: int = 1, number: int = 7) -> AgentTask:
    at = f"2026-11-25T{hour:02}:00:00Z"
    condition = {"type": "Succeeded", "status": "False", "reason": reason, "lastTransitionTime": at}
    return task(name, run, number, phase="Failed", reason=reason, completionTime=at, conditions=[condition])


def test_the_documented_exit_statuses_are_those_of_the_code() -> None:
    text = (DOCS / "kubectl.md").read_text()
    table = text[text.index("| exit status |") :]
    documented = {
        int(number): meaning for number, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.M)
    }
    assert documented == {int(status): status.meaning for status in ExitStatus}


def test_each_way_to_end_has_its_own_exit_status() -> None:
    assert set(STATUSES) == {phase for phase in Phase if phase.terminal}
    assert len(set(STATUSES.values())) == len(STATUSES)
    assert STATUSES[Phase.SUCCEEDED] == 0


@pytest.mark.parametrize("form", OBJECTS)
def test_formats_are_those_of_kubectl(form: Format) -> None:
    one, many = io.StringIO(), io.StringIO()
    show_task(console(one), task("a"), form)
    show_tasks(console(many), [task("a"), task("b")], form)
    if form is Format.NAME:
        assert one.getvalue() == "agenttask.coding-agent.dev/a\n"
        assert many.getvalue() == "agenttask.coding-agent.dev/a\nagenttask.coding-agent.dev/b\n"
        return
    assert "\x1b" not in one.getvalue()
    read = json.loads if form is Format.JSON else yaml.safe_load
    shown = read(one.getvalue())
    assert shown["spec"]["title"] == "\x1b[2Jtitle"
    assert "managedFields" not in shown["metadata"]
    listed = read(many.getvalue())
    assert (listed["kind"], listed["apiVersion"]) == ("List", "v1")
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a", "b"]


def test_wide_rows_add_the_columns_of_kubectl_get() -> None:
    waiting = task("a", queuePosition=3, phase="Queued")
    assert tables.wide_rows([waiting.body], NOW)[0][-4:] == ("", "", "3", "")
    assert tables.state_text(waiting.body) == "agenttask a Queued, position 3"


def test_rows_that_come_one_by_one_stay_under_their_columns() -> None:
    widths = tables.widths([("NAME", "PHASE"), ("demo-issue-7", "Running")])
    assert tables.aligned(("a", "Queued"), widths) == "a              Queued"
    assert tables.aligned(("a", ""), widths) == "a"


def test_only_the_newest_run_of_an_item_is_retried() -> None:
    tasks = [
        failed("earlier", "ModelUnavailable", 12, run=1),
        failed("newest", "ModelUnavailable", 13, run=2),
        failed("other", "ForgeRefused", 13, number=8),
        failed("done-later", "ModelUnavailable", 12, run=1, number=9),
        task("works", 2, 9, phase="Running"),
    ]

    def chosen(reason: str | None, hour: int | None) -> list[str]:
        since = None if hour is None else datetime(2026, 11, 25, hour, 30, tzinfo=UTC)
        return [one.name for one in failed_runs(tasks, reason, since)]

    assert chosen(None, None) == ["newest", "other"]
    assert chosen("ModelUnavailable", None) == ["newest"]
    assert chosen(None, 12) == ["newest", "other"]
    assert chosen(None, 13) == []


def session(notes: io.StringIO) -> Session:
    nowhere = cast("ClusterAccess", None)
    return Session(nowhere, console(io.StringIO()), console(notes), io.BytesIO(), clock=lambda: NOW)


def test_one_error_does_not_stop_the_others() -> None:
    done, notes = list[str](), io.StringIO()

    def do(one: AgentTask) -> None:
        if one.name == "b":
            raise PluginError("somebody else has just created it")
        done.append(one.name)

    status = for_each(session(notes), [task("a"), task("b"), task("c")], do, verb="retry", yes=True)
    assert (status, done) == (ExitStatus.FAILED, ["a", "c"])
    assert "error: b: somebody else" in notes.getvalue()
    assert "Could not retry 1 of 3 tasks." in notes.getvalue()


def test_an_api_server_that_does_not_answer_stops_them_all() -> None:
    tried = list[str]()

    def do(one: AgentTask) -> None:
        tried.append(one.name)
        raise UnreachableError("does not answer")

    with pytest.raises(UnreachableError):
        for_each(session(io.StringIO()), [task("a"), task("b")], do, verb="cancel", yes=True)
    assert tried == ["a"]


@pytest.mark.parametrize(("answer", "status"), [("yes", 0), ("Y", 0), ("no", 1), ("", 1)])
def test_a_person_sees_the_tasks_and_agrees(answer: str, status: int) -> None:
    done, notes, asked = list[str](), io.StringIO(), list[str]()

    def ask(question: str) -> str:
        asked.append(question)
        assert "octo/demo" in notes.getvalue()
        return answer

    def do(one: AgentTask) -> None:
        done.append(one.name)

    assert for_each(session(notes), [task("a")], do, verb="cancel", yes=False, ask=ask) == status
    assert asked == ["Cancel 1 task? Answer yes or no"]
    assert done == ([] if status else ["a"])


def test_without_a_terminal_nobody_can_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    with pytest.raises(UsageError, match="--yes is missing"):
        for_each(session(io.StringIO()), [task("a")], lambda _: None, verb="cancel", yes=False)


FORBIDDEN = (
    'agenttasks.coding-agent.dev is forbidden: User "alice" cannot watch resource "agenttasks" in API group '
    '"coding-agent.dev" in the namespace "team"'
)


@pytest.mark.parametrize(
    ("status", "body", "error", "sentence"),
    [
        (403, json.dumps({"message": FORBIDDEN}), DeniedError, "Ask for the verb watch on agenttasks"),
        (
            404,
            "404 page not found\n",
            ConfigurationError,
            "install the chart .* apply crds/agenttask.yaml",
        ),
        (429, "storage is (re)initializing", UnreachableError, "answers 429: storage is"),
        (404, json.dumps({"message": 'agenttasks "x" not found'}), NotFoundError, "there is none"),
    ],
)
def test_errors_name_the_remedy(status: int, body: str, error: type[PluginError], sentence: str) -> None:
    def fails() -> None:
        with sentences("watch agenttasks", missing="there is none"):
            answer = ApiException(status=status)
            answer.body = body
            raise answer

    with pytest.raises(error, match=sentence):
        fails()


def workload(component: str, version: str) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/version": version,
        "helm.sh/chart": f"coding-agent-{version}",
    }
    return {"metadata": {"name": component, "labels": labels}}


def definition(change: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Any]:
    crd = yaml.safe_load((DOCS.parent / "crds" / "agenttask.yaml").read_text())
    change(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])
    return cast("dict[str, Any]", crd)


def test_versions_that_fit_say_nothing() -> None:
    found = versions_of("0.1.0", "v1.36.3", definition(), [workload("operator", "0.1.0")])
    assert found.problems == ()
    assert ("chart", "coding-agent-0.1.0") in found.rows
    assert ("operator", "0.1.0") in found.rows


@pytest.mark.parametrize(
    ("crd", "release", "problem"),
    [
        (definition(), "0.0.9", "the plugin is 0.1.0 and the release is 0.0.9: upgrade the older one"),
        (definition(lambda spec: spec.pop("budget")), "0.1.0", "release: 1 field is missing (spec.budget)"),
        (None, "0.1.0", "the cluster does not have AgentTasks"),
    ],
)
def test_versions_that_differ_say_what_to_do(crd: dict[str, Any] | None, release: str, problem: str) -> None:
    [said] = versions_of("0.1.0", "v1.36.3", crd, [workload("operator", release)]).problems
    assert problem in said


def test_a_definition_that_one_may_not_read_is_no_problem() -> None:
    found = versions_of("0.1.0", "v1.36.3", DeniedError("no"), [])
    assert (found.crd, found.problems) == ("you may not read it", ())
