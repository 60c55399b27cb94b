"""`retry --failed`, `cancel --all`, `prune` and completion: commands that read many tasks of a namespace."""

import os
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from kubectl_agenttask.completion import candidates

from tests.fixtures import accounts
from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.conftest import Plugin

ISSUES = "https://github.com/octo/demo/issues"


def create(plugin: Plugin, number: int) -> str:
    return plugin("run", f"{ISSUES}/{number}").out.split()[1]


def fail(place: Place, task: str, reason: str) -> None:
    place.end(task, succeeded=False)
    place.patch_status(task, {"reason": reason})


def test_retry_of_all_that_failed_for_a_reason(place: Place, plugin: Plugin) -> None:
    unlucky, refused, works = (create(plugin, number) for number in (1, 2, 3))
    fail(place, unlucky, "ModelUnavailable")
    fail(place, refused, "ForgeRefused")
    chosen = ("retry", "--failed", "--reason", "modelunavailable", "--since", "6h")
    said = plugin(*chosen, status=2)
    assert unlucky in said.err
    assert "--yes is missing (Retry 1 task?" in said.err
    assert refused not in said.err
    assert f"{unlucky}-r2" not in place.tasks()
    assert plugin(*chosen, "--yes").out == f"agenttask {unlucky}-r2 created\n"
    assert "There is no task to retry." in plugin(*chosen, "--yes").err
    assert set(place.tasks()) == {unlucky, refused, works, f"{unlucky}-r2"}
    assert "give --failed too" in plugin("retry", refused, "--since", "6h", status=2).err
    assert "name one task, or give --failed" in plugin("retry", status=2).err
    assert "give --wait too" in plugin("retry", refused, "--timeout", "5m", status=2).err


def test_cancel_of_all_goes_on_after_an_error(place: Place, plugin: Plugin) -> None:
    first, second, done = (create(plugin, number) for number in (1, 2, 3))
    place.end(done, succeeded=True)
    # A person who may read all tasks and change one of them.
    tasks = {"apiGroups": ["coding-agent.dev"], "resources": ["agenttasks"]}
    rules = [tasks | {"verbs": ["get", "list"]}, tasks | {"verbs": ["patch"], "resourceNames": [second]}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "some"}
    objects = [
        {"kind": "ServiceAccount", "metadata": {"name": "some"}},
        {"kind": "Role", "metadata": {"name": "some"}, "rules": rules},
        {
            "kind": "RoleBinding",
            "metadata": {"name": "some"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": "some"}],
        },
    ]
    file = place.folder / "role.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    kubeconfig = accounts.account(place.plane, str(file), place.namespace, place.folder)
    said = plugin("cancel", "--all", "--yes", "--kubeconfig", str(kubeconfig), status=1)
    assert f"error: {first}: " in said.err
    assert "Ask for the verb patch on agenttasks" in said.err
    assert "Could not cancel 1 of 2 tasks." in said.err
    assert said.out == f"agenttask {second} is being cancelled\n"
    assert plugin("cancel", "--all", "--yes", "-o", "name").out.endswith(f"/{first}\n")
    assert "There is no task to cancel." in plugin("cancel", "--all").err


def test_prune_keeps_what_stops_a_second_run(place: Place, plugin: Plugin) -> None:
    old, unreported, lately, works = (create(plugin, number) for number in (1, 2, 3, 4))
    for name, days in ((old, 8), (unreported, 8), (lately, 1)):
        place.end(name, succeeded=True)
        ended = datetime.now(UTC) - timedelta(days=days)
        place.patch_status(name, {"completionTime": ended.isoformat()})
        if name != unreported:
            place.patch(name, {"metadata": {"labels": {"coding-agent.dev/reported": "true"}}})
    plugin("retry", old)
    place.end(f"{old}-r2", succeeded=True)
    pruned = plugin("prune", "--yes")
    assert pruned.out == f"agenttask {old} deleted\n", "the later run and the comment know what it answered"
    assert f"{unreported} stays: the reporter has not finished with it" in pruned.err
    place.patch(f"{old}-r2", {"metadata": {"labels": {"coding-agent.dev/reported": "true"}}})
    ended = datetime.now(UTC) - timedelta(days=8)
    place.patch_status(f"{old}-r2", {"completionTime": ended.isoformat()})
    assert "--yes is missing (Delete 1 task?" in plugin("prune", status=2).err
    assert plugin("prune", "--yes").out == f"agenttask {old}-r2 deleted\n"
    assert set(place.tasks()) == {unreported, lately, works}
    assert "must be at least 4d" in plugin("prune", "--older-than", "3d", status=2).err


def test_kubectl_completes_tasks_items_and_options(
    place: Place, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = place.plane.plane.binaries["kubectl"]
    monkeypatch.setenv("PATH", str(kubectl.parent), prepend=os.pathsep)
    active, done = create(plugin, 1), create(plugin, 2)
    place.end(done, succeeded=True)

    def offered(command: str, *words: str) -> list[str]:
        where = ("-n", place.namespace, "--kubeconfig", str(place.plane.kubeconfig))
        return [line.split("\t")[0] for line in candidates([command, *where, *words])]

    assert offered("describe", "") == [active, done, ":4"]
    assert offered("cancel", "") == [active, ":4"]
    assert offered("logs", "octo/de") == ["octo/demo#1", "octo/demo#2", ":4"]
    assert offered("list", "--repo", "") == ["octo/demo", ":4"]
    assert offered("list", "-o", "j") == ["json", ":4"]
    assert offered("retry", "--failed", "--reason", "ModelU") == ["ModelUnavailable", ":4"]
    assert offered("init", "--values", "") == [":0"], "the shell completes files"
    assert offered("describe", "--context", "none", "") == [":4"], "an error offers nothing"
    # kubectl finds the program and passes on what it prints.
    said = plugin("cancel", "-n", place.namespace, "", through="complete", namespaced=False)
    assert said.out.splitlines() == [f"{active}\tocto/demo#1 New", ":4"]
