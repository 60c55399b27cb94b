"""A Job says where its transcript will be, in the same words as the agent does; the next attempt is told."""

import re
from pathlib import Path

import pytest
from coding_agent_core.attempts import attempt_of_key, transcript_key
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.settings.attempt_settings import ContextStorage
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.tasks import Item
from coding_agent_operator.job import build_job, with_transcript_annotations
from coding_agent_operator.observed import read_job

from tests.unit.operator.making import task

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
