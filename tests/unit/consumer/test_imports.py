"""Each program of an attempt imports only what it needs: most of an attempt's CPU time is for imports."""

import subprocess
import sys

import pytest

_SDKS = {"pydantic_ai", "pydantic_graph", "openai", "anthropic", "google.genai", "mcp", "fastmcp"}
_CASES = {
    "an attempt until its agent is chosen": (
        "import main, coding_agent_consumer.modes",
        _SDKS
        | {
            "coding_agent_consumer.agent.loop",
            "cryptography",
            "kopf",
            "kubernetes",
            "prometheus_client",
        },
    ),
    "an attempt of another program": (
        "import main, coding_agent_consumer.modes, coding_agent_consumer.runners.agent",
        _SDKS | {"coding_agent_consumer.agent.loop"},
    ),
    "the built-in agent until its provider is known": (
        "import coding_agent_consumer.agent.loop",
        {"openai", "anthropic", "google.genai", "mcp", "fastmcp"},
    ),
    "the workspace": (
        "import coding_agent_consumer.workspace.__main__",
        {"asyncio", "coding_agent_core", "pydantic", "ssl"},
    ),
}


@pytest.mark.parametrize(("imports", "absent"), _CASES.values(), ids=_CASES.keys())
def test_a_program_does_not_import(imports: str, absent: set[str]) -> None:
    code = f"import sys\n{imports}\nprint(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, timeout=120
    ).stdout
    assert absent & {*shown.decode().split()} == set()
