"""Every module of tests/fixtures is a plugin: its fixtures are there for all tests."""

from pathlib import Path

pytest_plugins = [
    f"tests.fixtures.{module.stem}"
    for module in sorted((Path(__file__).parent / "tests" / "fixtures").glob("*.py"))
    if module.stem != "__init__"
]
