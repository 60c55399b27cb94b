"""Faults that are planted in the scripted model while it serves."""

from __future__ import annotations

import httpx2
import pytest
from coding_agent_testbed.model import ModelServer

from tests.fixtures.model import API_KEY, script

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def ask(server: ModelServer) -> httpx2.Response:
    headers = {"x-api-key": API_KEY}
    return httpx2.post(f"{server.url}/v1/chat/completions", json=BODY, headers=headers, timeout=60)


def test_a_fault_hits_so_many_requests_or_all_until_it_ends() -> None:
    with ModelServer([script({"text": "Hi."}, loop=True)], api_key=API_KEY) as server:
        fault = server.fault(status=429, retry_after=3)
        refused = ask(server)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
        assert ask(server).status_code == 200
        assert fault.ended

        fault = server.fault(cut=True, times=None)
        for _ in range(2):
            with pytest.raises(httpx2.RemoteProtocolError):
                ask(server)
        httpx2.delete(f"{server.url}/_sandbox/faults", timeout=60).raise_for_status()
        assert ask(server).status_code == 200
        assert fault.hits == 2
