"""`--help` and the shell's completion import little, because people wait for them at each key."""

from __future__ import annotations

import subprocess
import sys

import pytest
from coding_agent_core.task import agenttask
from kubectl_agenttask import completion

_HEAVY = ("kubernetes", "pydantic", "rich", "httpx2", "yaml", "urllib3")


@pytest.mark.parametrize("module", ["__main__", "completion"])
def test_what_runs_at_each_tab_imports_no_library_that_takes_long(module: str) -> None:
    program = (
        f"import sys, kubectl_agenttask.{module} as one\n"
        "from kubectl_agenttask.__main__ import parser\n"
        f"parser().format_help(); print(*[name for name in {_HEAVY} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_the_completion_asks_for_the_tasks_that_all_other_commands_ask_for() -> None:
    assert completion.NOT_ENDED == agenttask.NOT_ENDED
    assert f"/apis/{agenttask.GROUP}/{agenttask.VERSION}/namespaces" == completion.API
