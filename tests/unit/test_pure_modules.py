"""A module that says "Pure." is held to it: import-linter checks what it imports, and it asks nobody."""

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "forges", "receiver", "operator", "consumer", "services", "plugin")


def pure_modules() -> Iterator[tuple[str, ast.Module]]:
    """The modules whose docstring says that they are pure."""
    for package in PACKAGES:
        source = ROOT / package / "src"
        for file in sorted(source.rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if "Pure." in (ast.get_docstring(tree) or ""):
                yield ".".join(file.relative_to(source).with_suffix("").parts), tree


MODULES = dict(pure_modules())


def contract() -> set[str]:
    """The modules that the contract of import-linter names."""
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    return set(config["importlinter:contract:pure"]["source_modules"].split())


def test_the_contract_names_every_module_that_says_it_is_pure() -> None:
    assert len(MODULES) > 50
    assert set(MODULES) - contract() == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_pure_module_awaits_nothing(module: str) -> None:
    """It may name what others implement: the asynchronous methods of a protocol have no body."""
    waits = [node.lineno for node in ast.walk(MODULES[module]) if isinstance(node, ast.Await)]
    assert waits == []
