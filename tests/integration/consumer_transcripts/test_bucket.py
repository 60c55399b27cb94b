"""A bucket as a store, on a real S3 server: whole objects, bounded waits, and no secret in any sentence."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.transcripts import store
from coding_agent_consumer.transcripts.store import S3Bucket
from coding_agent_core.errors import StoreError
from coding_agent_core.settings.connections import S3
from obstore.store import S3Store
from pydantic import ValidationError

from tests.fixtures.s3 import KEY_ID, ROLE_KEY_ID, SECRET, Cloud, S3Server

NOW = datetime.now(UTC)
USE_AND_EXIT = """
import asyncio, sys
from coding_agent_consumer.transcripts.store import S3Bucket
from coding_agent_core.settings.connections import S3
async def main():
    bucket = S3Bucket(S3.model_validate_json(sys.argv[1]))
    for number in range(50):
        await bucket.put(f"{number}.jsonl", b"x")
    return 65
sys.exit(asyncio.run(main()))
"""


async def test_what_is_put_is_there_for_everybody(s3: S3Server) -> None:
    bucket = S3Bucket(s3.section())
    await bucket.put("a/run-1/attempt-1.jsonl", b"one\n")
    await bucket.put("a/run-1/attempt-1.jsonl", b"one\ntwo\n")
    assert s3.read("a/run-1/attempt-1.jsonl") == b"one\ntwo\n"
    assert await bucket.get("a/run-1/attempt-1.jsonl") == b"one\ntwo\n"
    assert await bucket.get("a/run-1/attempt-1.jsonl", last=4) == b"two\n"
    assert await bucket.get("a/run-1/attempt-9.jsonl") is None
    with pytest.raises(StoreError, match="no-such-bucket does not exist"):
        await S3Bucket(s3.section(bucket="no-such-bucket")).put("a.jsonl", b"x")


async def test_a_folder_is_listed_without_its_neighbours(s3: S3Server) -> None:
    bucket = S3Bucket(s3.section())
    for key in ("a/run-1/attempt-1.jsonl", "a/run-1/attempt-2.jsonl", "a/run-11/attempt-1.jsonl"):
        await bucket.put(key, b"x\n")
    assert sorted(await bucket.keys("a/run-1")) == ["a/run-1/attempt-1.jsonl", "a/run-1/attempt-2.jsonl"]
    assert await bucket.keys("b") == []


async def test_old_transcripts_are_removed_and_nothing_else(s3: S3Server) -> None:
    bucket = S3Bucket(s3.section())
    for number in range(3):
        await bucket.put(f"a/run-{number}/attempt-1.jsonl", b"x\n")
    await bucket.put("notes.txt", b"not ours")
    assert await bucket.remove_older(NOW - timedelta(days=1)) == 0
    assert len(await bucket.keys("a")) == 3
    assert await bucket.remove_older(NOW + timedelta(days=1)) == 3
    assert await bucket.keys("a") == []
    assert s3.read("notes.txt") == b"not ours"


async def test_a_store_that_is_down_is_told_in_a_sentence(s3: S3Server) -> None:
    bucket = S3Bucket(s3.section())
    s3.kill()
    with pytest.raises(StoreError, match="the bucket agent-logs cannot be reached"):
        await bucket.put("a.jsonl", b"x")
    with pytest.raises(StoreError):
        await bucket.keys("a")
    s3.start()
    await bucket.put("a.jsonl", b"x")
    assert s3.read("a.jsonl") == b"x", "the same client goes on when it is back"


async def test_a_store_that_does_not_answer_is_given_up_after_the_time_for_one_request(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def recorded(*arguments: Any, **options: Any) -> S3Store:
        made.append(options)
        return S3Store(*arguments, **options)

    monkeypatch.setattr("obstore.store.S3Store", recorded)
    monkeypatch.setattr(store, "_REQUEST_S", 600.0)
    bucket = S3Bucket(s3.section(), timeout=0.5)  # meant to expire
    s3.freeze()
    with pytest.raises(StoreError):
        await bucket.put("a.jsonl", b"x")
    [options] = made
    limit = timedelta(seconds=0.5)
    client = options["client_options"]
    assert (client["timeout"], client["connect_timeout"]) == (limit, limit)
    assert options["retry_config"] == {"max_retries": 0, "retry_timeout": limit}, "no second attempt begins"


async def test_refused_keys_are_told_without_them(s3: S3Server, refusing_s3: str) -> None:
    section = s3.section(endpoint_url=refusing_s3)
    bucket = S3Bucket(section)
    actions: list[Callable[[], Awaitable[object]]] = [
        lambda: bucket.put("a", b"x"),
        lambda: bucket.get("a"),
        lambda: bucket.keys("a"),
        lambda: bucket.remove_older(NOW),
    ]
    for action in actions:
        with pytest.raises(StoreError, match="refuses our keys") as caught:
            await action()
        told = repr(caught.value) + repr(caught.value.__cause__) + repr(section) + repr(vars(bucket))
        assert KEY_ID not in told
        assert SECRET not in told


async def test_a_role_gives_access_to_the_bucket_in_place_of_keys(
    tmp_path: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setattr(store, "BUCKET_TOKEN", token)
    token.write_text("token-of-the-account")
    role = "arn:aws:iam::123456789012:role/transcripts"
    section = S3.model_validate(
        {
            "bucket": "agent-logs",
            "endpoint_url": cloud.address,
            "region": "eu-west-1",
            "identity": {"role_arn": role, "endpoint": cloud.address},
        }
    )
    await S3Bucket(section).put("a.jsonl", b"x")
    [asked] = cloud.exchanges
    assert asked["Action"] == ["AssumeRoleWithWebIdentity"]
    assert (asked["RoleArn"], asked["WebIdentityToken"]) == ([role], ["token-of-the-account"])
    [(path, headers)] = cloud.stored
    assert path == "/agent-logs/transcripts/a.jsonl"
    assert f"Credential={ROLE_KEY_ID}/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "session-4242"
    token.unlink()
    with pytest.raises(StoreError, match=r"identity: .*/token does not exist"):
        await S3Bucket(section).put("b.jsonl", b"x")


def test_a_role_and_keys_are_not_given_together() -> None:
    role = {"role_arn": "arn:aws:iam::123456789012:role/transcripts"}
    with pytest.raises(ValidationError, match="give either identity, or access_key_id and secret_access_key"):
        S3.model_validate({"bucket": "agent-logs", "identity": role, "access_key_id": "id"})


async def test_the_environment_does_not_redirect_what_is_configured(
    s3: S3Server, refusing_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, refusing_s3)
    monkeypatch.setenv("AWS_BUCKET", "another")
    await S3Bucket(s3.section()).put("a.jsonl", b"x")
    assert s3.read("a.jsonl") == b"x"


async def test_the_process_ends_with_its_own_exit_code(s3: S3Server) -> None:
    """The library's coroutines made one process in six end with SIGABRT."""
    command = [sys.executable, "-c", USE_AND_EXIT, json.dumps(s3.settings())]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [await asyncio.to_thread(process.wait, 60) for process in processes] == [65] * 4
