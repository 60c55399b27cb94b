"""The Job of an attempt as Kubernetes gets it."""

import re
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.transcripts.store import attempt_of_key
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.connections import ContextStorage
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.task.agenttask import OutcomeType, TaskResult
from coding_agent_core.task.attempts import AttemptInput, transcript_key
from coding_agent_core.task.model import Item
from coding_agent_operator.cluster.observed import attempt_number, job_name, read_job
from coding_agent_operator.jobs.job import SHARED_SOCKET, build_job, with_transcript_annotations

from tests.unit.operator.making import NOW, attempt, status, task


def test_containers_of_a_sandboxed_pod_share_the_volume_of_their_socket() -> None:
    def notes(**template: Any) -> dict[str, str]:
        job = build_job(task(), 1, JobTemplate.model_validate(template))
        found: dict[str, str] = job["spec"]["template"]["metadata"].get("annotations", {})
        return found

    assert notes() == {}
    assert notes(runtime_classes={"untrusted": "gvisor"})["dev.gvisor.spec.mount.socket.share"] == "pod"
    assert notes(pod_template={"spec": {"runtimeClassName": "gvisor"}}) == SHARED_SOCKET


def test_one_job_is_one_attempt() -> None:
    spec = build_job(task(), 2, JobTemplate())["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    ignored, permanent = spec["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (permanent["action"], permanent["onExitCodes"]["values"]) == ("FailJob", [65, 77, 78])


def test_the_pods_deadline_leaves_the_agent_its_time_and_the_jobs_leaves_other_pods_theirs() -> None:
    template = JobTemplate(grace_seconds=45, start_seconds=300)
    job = build_job(task(), 1, template)["spec"]
    pod = job["template"]["spec"]
    assert pod["activeDeadlineSeconds"] == 600 + 45 + 300
    assert job["activeDeadlineSeconds"] == 3 * pod["activeDeadlineSeconds"]
    assert pod["terminationGracePeriodSeconds"] == 45
    assert given(build_job(task(), 1, template)).timeout_seconds == 600


def test_the_task_owns_its_job_and_is_told_to_the_agent() -> None:
    made = build_job(task(), 2, JobTemplate())
    owner = made["metadata"]["ownerReferences"][0]
    assert (owner["uid"], owner["controller"]) == ("uid-1", True)
    told = given(made)
    assert (told.task.attempt, told.task.name, told.max_attempts) == (2, task().name, 3)
    assert (told.earlier.branch, told.earlier.recap) == (None, "")
    assert given(build_job(task(runner="codex"), 1, JobTemplate())).task.request.runner == "codex"


def test_a_further_attempt_is_told_what_the_earlier_ones_left() -> None:
    result = TaskResult(branch="coding-agent/issue-7", change_url="https://github.com/octo/demo/pull/8")
    first = attempt(
        1, OutcomeType.FAILED, message="No memory.", tail="- called run_command", transcript="a.jsonl"
    )
    told = given(build_job(task(status(first, result=result)), 2, JobTemplate()))
    assert told.earlier.branch == "coding-agent/issue-7"
    assert told.earlier.change_url == "https://github.com/octo/demo/pull/8"
    assert told.earlier.recap == "Attempt 1 ended: No memory.\n- called run_command"
    assert told.earlier.ended == "Attempt 1 ended: No memory."
    assert told.earlier.transcripts == ("a.jsonl",)


def test_of_a_long_story_the_newest_part_is_told() -> None:
    attempts = [attempt(n, OutcomeType.FAILED, tail=str(n % 10) * 2000) for n in range(1, 20)]
    recap = given(build_job(task(status(*attempts)), 20, JobTemplate())).earlier.recap
    assert len(recap) == 12_000
    assert recap.endswith("9999")


@pytest.mark.parametrize("title", ["$(HOME) is $$HOME", "umlauts: äöü", 'quotes " and \\n', "$"])
def test_a_title_reaches_the_agent_whatever_is_in_it(title: str) -> None:
    assert given(build_job(task(title=title), 1, JobTemplate())).task.request.title == title


def test_further_labels_and_annotations_do_not_hide_ours() -> None:
    given = {
        "labels": {"team": "a", "coding-agent.dev/attempt": "9"},
        "annotations": {"sidecar.istio.io/inject": "false"},
    }
    template = JobTemplate(pod_template={"metadata": given})
    metadata = build_job(task(), 2, template)["spec"]["template"]["metadata"]
    assert (metadata["labels"]["team"], metadata["labels"]["coding-agent.dev/attempt"]) == ("a", "2")
    assert metadata["annotations"] == {"sidecar.istio.io/inject": "false"}


def test_names_fit_and_are_read_back() -> None:
    for name in ("demo-issue-7-abcdef0123456789", "x" * 63, "y" * 200, "z." * 60 + "z"):
        for number in (1, 23, 456):
            job = job_name(name, number)
            assert len(job) <= 63
            assert attempt_number(name, job) == number
            assert attempt_number(name, job + "1") != number
    assert job_name("x" * 100 + "a", 1) != job_name("x" * 100 + "b", 1)
    assert attempt_number("demo", "other-1") is None
    assert attempt_number("demo", "demo-01") is None


def given(job: dict) -> AttemptInput:  # type: ignore[type-arg]
    """What the agent reads, with the environment expanded as the kubelet does it."""
    environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
    value = next(entry["value"] for entry in environment if entry["name"] == "CODING_AGENT_TASK")
    return AttemptInput.from_json(expanded(value), now=NOW)


def expanded(value: str) -> str:
    """`$$` is a dollar sign; a lone one before a bracket would be a reference (the API's documentation)."""
    assert "$(" not in value.replace("$$", "")
    return value.replace("$$", "$")


S3 = {"bucket": "agent-logs", "prefix": "/team/transcripts/"}
KEY = "github/github.com/octo/demo/issue-7/run-1-uid-1/attempt-2.jsonl"

PLACES: list[tuple[str, dict[str, object], str | None, str | None]] = [
    ("default: a folder that goes with the pod", {}, None, None),
    ("a volume", {"base_dir": "/transcripts"}, f"/transcripts/{KEY}", None),
    ("a bucket", {"s3": S3}, f"s3://agent-logs/team/transcripts/{KEY}", None),
    ("no prefix", {"s3": {"bucket": "agent-logs", "prefix": ""}}, f"s3://agent-logs/{KEY}", None),
    (
        "a bucket that people reach",
        {"s3": S3, "link": "https://logs.example/{key}?raw=1"},
        f"s3://agent-logs/team/transcripts/{KEY}",
        f"https://logs.example/{KEY}?raw=1",
    ),
    (
        "by the whole place",
        {"base_dir": "/t", "link": "https://logs.example/show?file={place}"},
        f"/t/{KEY}",
        "https://logs.example/show?file=%2Ft%2F" + KEY.replace("/", "%2F"),
    ),
    ("a link to what goes away", {"link": "https://logs.example/{key}"}, None, None),
    ("none are kept", {"enabled": False, "s3": S3, "link": "https://logs.example/{key}"}, None, None),
]


@pytest.mark.parametrize(
    ("settings", "place", "url"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES]
)
def test_the_job_says_where_its_transcript_will_be(
    settings: dict[str, object], place: str | None, url: str | None
) -> None:
    storage = ContextStorage.model_validate(settings)
    manifest = with_transcript_annotations(build_job(task(), 2, JobTemplate()), task(), 2, storage)
    assert (storage.place_of(KEY), storage.url_of(KEY)) == (place, url)
    metadata = {"uid": "u", "resourceVersion": "1", **manifest["metadata"]}
    seen = read_job({**manifest, "metadata": metadata})
    assert (seen.transcript, seen.transcript_url) == (place, url)


@pytest.mark.parametrize(
    "link", ["logs.example/{key}", "javascript:{key}", "https://logs.example/", "https://x/{secret}/{key}"]
)
def test_a_link_that_leads_nowhere_is_refused(link: str) -> None:
    with pytest.raises(ValueError, match="link"):
        ContextStorage.model_validate({"link": link})


def item_at(host: str, repository: str, number: int = 7, kind: ItemKind = ItemKind.ISSUE) -> Item:
    return Item(platform=Platform.GITHUB, host=host, repository=repository, kind=kind, number=number)


MERGE_REQUEST = Item(
    platform=Platform.GITLAB,
    host="gitlab.com",
    repository="g/p",
    kind=ItemKind.CHANGE,
    number=7,
    project_id=3,
)
FOLDERS = [
    (item_at("github.com", "Octo/Demo"), "github/github.com/octo/demo/issue-7"),
    (item_at("ghe:8443", "o/r", kind=ItemKind.CHANGE), "github/ghe_8443/o/r/change-7"),
    (MERGE_REQUEST, "gitlab/gitlab.com/3/change-7"),
    (item_at("h", "../../../etc", 1), "github/h/_/_/_/etc/issue-1"),
    (item_at("h", "a b/c\x00d\n", 1), "github/h/a_b/c_d_/issue-1"),
]


@pytest.mark.parametrize(("item", "folder"), FOLDERS)
def test_keys_are_paths_that_stay_inside(item: Item, folder: str) -> None:
    found = transcript_key(item, 2, "0b54-4ee3", 11)
    assert found == f"{folder}/run-2-0b54-4ee3/attempt-11.jsonl"
    assert attempt_of_key(found) == 11
    assert (Path("/root") / found).resolve().is_relative_to("/root/" + found.split("/", maxsplit=1)[0])


@pytest.mark.parametrize("uuid", ["../../../etc", "a/b", "", "u\n", "x" * 5000])
def test_a_queues_uuid_that_is_none_stays_inside_and_is_told_from_others(uuid: str) -> None:
    item = Item(platform=Platform.GITHUB, host="h", repository="o/r", kind=ItemKind.ISSUE, number=1)
    found = transcript_key(item, 1, uuid, 1)
    assert re.fullmatch(r"github/h/o/r/issue-1/run-1-[0-9a-f]{32}/attempt-1\.jsonl", found)
    assert found != transcript_key(item, 1, f"{uuid}.", 1)
