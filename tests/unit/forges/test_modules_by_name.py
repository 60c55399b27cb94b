"""What code imports from a forge's folder by its name is there, which no import shows before it is needed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_core.platforms.registry import Platform

ROOT = Path(__file__).resolve().parents[3]
FORGES = ROOT / "forges" / "src" / "coding_agent_forges"


def named_modules() -> Iterator[str]:
    """The names that the product gives to `forge_module`."""
    for package in ("core", "forges", "receiver", "operator", "consumer", "services", "plugin"):
        for file in sorted((ROOT / package / "src").rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Name(id="forge_module"), args=[_, ast.Constant(value=str(name))]):
                        yield name


@pytest.mark.parametrize("name", sorted(set(named_modules())))
def test_a_module_that_is_imported_by_name_is_there(name: str) -> None:
    files = [FORGES / platform / f"{name.replace('.', '/')}.py" for platform in Platform]
    assert any(file.is_file() for file in files)
