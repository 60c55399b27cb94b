"""Every module of tests/fixtures is a plugin: its fixtures are there for all tests."""

from pathlib import Path

from hypothesis import HealthCheck, settings

pytest_plugins = [
    f"tests.fixtures.{module.stem}"
    for module in sorted((Path(__file__).parent / "tests" / "fixtures").glob("*.py"))
    if module.stem != "__init__"
]

# A busy machine can delay any example by more than the 200 ms that Hypothesis grants it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
