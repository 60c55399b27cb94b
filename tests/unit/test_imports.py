"""Each program loads only the modules of this project that it uses: its reader reads no others."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREFIX = "coding_agent_"
LIMITS = {
    "token service": (("coding_agent_tokens.__main__",), 24),
    "egress proxy": (("coding_agent_egress.__main__",), 23),
    "check of the egress proxy's users": (("coding_agent_egress.identify",), 2),
    "per-user settings": (("coding_agent_user_config.__main__",), 9),
    "operator": (("main", "coding_agent_operator.program"), 81),
    "attempt": (("main", "coding_agent_consumer.modes"), 87),
    "workspace": (("coding_agent_consumer.workspace.__main__",), 8),
}
"""The modules with which a program starts, and how many it may load, not counting packages."""


def loaded(modules: tuple[str, ...]) -> list[str]:
    # Packages do not count: they are folders, and how modules are put into folders is another question.
    code = (
        f"import sys\nimport {', '.join(modules)}\n"
        "print(*(name for name, module in sys.modules.items() if not hasattr(module, '__path__')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=240, check=True
    )
    return sorted(name for name in ended.stdout.decode().split() if name.startswith(PREFIX))


@pytest.mark.parametrize(("modules", "limit"), LIMITS.values(), ids=LIMITS.keys())
def test_a_program_loads_few_modules(modules: tuple[str, ...], limit: int) -> None:
    found = loaded(modules)
    assert len(found) <= limit, f"{len(found)}: {' '.join(found)}"


@pytest.mark.parametrize("program", ["token service", "egress proxy"])
def test_a_small_program_does_not_read_the_settings_of_others(program: str) -> None:
    found = loaded(LIMITS[program][0])
    assert "coding_agent_core.settings.model" not in found
