"""A list in pages is read to its last page."""

from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiServer


async def test_every_page_is_asked_for_with_the_token_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens: list[str | None] = []

    async def request(_self: ApiServer, _method: str, _path: str, *, query: Any) -> dict[str, Any]:
        assert ("limit", "2") in query
        tokens.append(dict(query).get("continue"))
        start = int(tokens[-1] or 0)
        rest = {"continue": str(start + 2)} if start + 2 < 5 else {}
        return {
            "metadata": {"resourceVersion": "9", **rest},
            "items": [{"n": n} for n in range(5)[start : start + 2]],
        }

    monkeypatch.setattr(ApiServer, "request", request)
    server = object.__new__(ApiServer)
    pages = [[entry["n"] for entry in page.items] async for page in server.pages("/api/v1/pods", [], 2)]
    assert pages == [[0, 1], [2, 3], [4]]
    assert tokens == [None, "2", "4"]
