"""Which namespaces are served with `operator.namespaces: ["*"]`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.settings.model import Settings
from coding_agent_operator import program
from coding_agent_operator.program import Namespaces


class Silent:
    """An API server that does not answer."""

    async def request(self, method: str, path: str) -> None:
        raise ApiError(f"no answer to {method} {path}", None)


def namespaces(**development: Any) -> Namespaces:
    operator = {"namespace": "home", "namespaces": ["*"]}
    settings = Settings.model_validate({"operator": operator, "development": development})
    return Namespaces(Silent(), settings)  # type: ignore[arg-type]


async def test_neither_a_refused_list_nor_a_namespace_that_is_closed_meanwhile_ends_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = namespaces(relist_interval=0.01)
    asked = 0

    class Closing:
        """The controller of a namespace that is closed by itself."""

        acting, empty = False, True

        @property
        def cluster(self) -> Closing:
            return self

        async def has_tasks(self) -> bool:
            nonlocal asked
            asked += 1
            served._controllers.pop("team")
            return False

    refusals = [ApiError("storage is (re)initializing", 429)] * 2

    async def listed(*_: object) -> set[str]:
        if refusals:
            raise refusals.pop()
        served._controllers["team"] = Closing()  # type: ignore[assignment]
        return set()

    monkeypatch.setattr(program, "namespaces_with_tasks", listed)
    monkeypatch.setattr(program, "_RETRY_FIRST_S", 0.01)
    work = asyncio.create_task(served.run())
    async with asyncio.timeout(60):
        while asked < 3:
            assert not work.done(), work
            await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
