"""Attempt 2 goes on where attempt 1 was cut off: from its branch, knowing what it did, in the one change.

What the operator does between them is in tests/unit/operator/test_job.py, and all of it in tests/e2e.
"""

from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.model.script import Failure, Script, Turn

from tests.fixtures.s3 import SECRET, S3Server
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.main_job.scripts import finish, run, write

BRANCH = "coding-agent/issue-1"
SCRIPTS = [
    Script(match="An earlier attempt", turns=(run("echo b >> a.md"), finish("Went on."))),
    Script(turns=(write("a.md", "a\n"), Turn(error=Failure(status=503, times=0)), finish())),
]


async def test_the_next_attempt_goes_on_and_opens_the_one_change(make_place: MakePlace, s3: S3Server) -> None:
    place = make_place("gitlab", SCRIPTS)
    bucket = {
        "base_dir": str(place.folder / "one"),
        "s3": s3.settings(),
        "link": "https://logs.example/{key}",
    }
    prices = {"prices": {"scripted": {"input": "2.50", "output": "10"}}, "max_retries": 0}
    first = await place.run(place.given(), context_storage=bucket, llm=prices)
    assert first.reason is Reason.MODEL_UNAVAILABLE, first
    assert "called write_file" in first.tail
    assert first.usage.requests == 1
    assert first.usage.cost is not None, "failed ones cost too"
    key = (first.transcript_url or "").removeprefix("https://logs.example/")
    assert b"write_file" in (s3.read(key) or b"")
    assert place.system.file_at(BRANCH, "a.md") == "a\n", "what it had is pushed"
    assert place.system.changes() == []

    # The second one is there twice: its pod is lost after it has opened the change.
    for folder in ("another-node", "a-third-node"):
        before = len(place.system.model.requests)
        storage = {**bucket, "base_dir": str(place.folder / folder)}
        second = await place.run(place.given(attempt=2, branch=BRANCH), context_storage=storage)
        assert second.reason is Reason.COMPLETED, second
        assert "called write_file" in str(place.system.model.requests[before]["messages"])
        assert SECRET not in second.model_dump_json()
    [change] = place.system.changes()
    assert place.system.file_at(change.head, "a.md") == "a\nb\nb\n"
