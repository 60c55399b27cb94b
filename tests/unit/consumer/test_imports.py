"""Each program of an attempt imports only what it needs: most of an attempt's CPU time is for imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = Path(__file__).parents[3] / "main.py"
_SDKS = {"pydantic_ai", "pydantic_graph", "openai", "anthropic", "google.genai", "mcp", "fastmcp"}
_GATEWAY = {"aiohttp", "genai_prices", "uvicorn"}
"""The libraries of the model gateway, which is imported beside the clone."""
_RUNNER = """
from pathlib import Path
from coding_agent_consumer.modes import import_agent, make_agent
from coding_agent_core.settings.load import load_settings
settings = load_settings(Path(sys.argv[1]), {"ANTHROPIC_API_KEY": "key"})
import_agent(settings, settings.consumer.runner)
make_agent(settings, None)
assert "coding_agent_consumer.gateway.gateway_server" in sys.modules
"""
_CASES = {
    "an attempt of another program, as soon as it has its agent": (
        _RUNNER,
        _SDKS | {"coding_agent_consumer.agent.loop"},
    ),
    "the built-in agent until its provider is known": (
        "import coding_agent_consumer.agent.loop",
        {"openai", "anthropic", "google.genai", "mcp", "fastmcp"},
    ),
    "the workspace": (
        "import coding_agent_consumer.workspace.__main__",
        {"asyncio", "coding_agent_core", "coding_agent_forges", "pydantic", "ssl"},
    ),
}


@pytest.mark.parametrize(("code", "absent"), _CASES.values(), ids=_CASES.keys())
def test_a_program_does_not_import(code: str, absent: set[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("llm: {provider: anthropic}\nconsumer: {runner: claude-code}\n")
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)", str(config)]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout
    assert absent & {*shown.decode().split()} == set()


def test_an_attempt_does_not_import_until_it_has_read_the_item(tmp_path: Path) -> None:
    """The program ends with an error before its first request, because it has no task."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", str(MAIN), "--mode", "attempt"],
        env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": "key"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    lines = ended.stdout.splitlines()
    assert "CODING_AGENT_TASK is not set" in lines[-1]
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "coding_agent_consumer.modes" in imported
    absent = {"coding_agent_consumer.agent.loop", "cryptography", "kopf", "kubernetes", "prometheus_client"}
    assert imported & (absent | _SDKS | _GATEWAY) == set()
    assert "rich" not in imported, "httpx has imported its command line"
