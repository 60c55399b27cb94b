"""The plugins: a skip fails where nothing may be skipped, and a failure carries its namespace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import cluster

REPOSITORY = Path(__file__).parents[2]


def run(tmp_path: Path, source: str, plugin: str, **environment: str) -> str:
    """What pytest prints for a test file with that plugin."""
    (tmp_path / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", plugin, "-p", "no:cacheprovider", "-rA", "test_it.py"]
    search = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": search, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


SKIPS = """
import pytest
def test_skipped(): pytest.skip("no moon")
@pytest.mark.xfail
def test_expected(): assert False
"""


@pytest.mark.parametrize(
    ("required", "outcome"), [("1", "1 failed, 1 xfailed"), ("", "1 skipped, 1 xfailed")]
)
def test_a_skip_fails_only_where_nothing_may_be_skipped(tmp_path: Path, required: str, outcome: str) -> None:
    output = run(tmp_path, SKIPS, "tests.fixtures.require_all", REQUIRE_ALL=required)
    assert outcome in output
    assert "no moon" in output


def test_a_skipped_module_fails_too(tmp_path: Path) -> None:
    source = "import pytest\npytest.importorskip('surely_not_installed')\n"
    output = run(tmp_path, source, "tests.fixtures.require_all", REQUIRE_ALL="1")
    assert "1 error" in output
    assert "surely_not_installed" in output


def test_a_test_that_needs_root_is_skipped_for_others(tmp_path: Path) -> None:
    source = "import os, pytest\nos.geteuid = lambda: 1000\n@pytest.mark.needs_root\ndef test_it(): pass\n"
    output = run(tmp_path, source, "tests.fixtures.require_all", REQUIRE_ALL="")
    assert "1 skipped" in output
    assert "needs root" in output


def test_a_failed_tests_namespace_is_in_its_report(tmp_path: Path) -> None:
    source = f"""
import pytest, tests.fixtures.{cluster.__name__.rsplit(".", 1)[-1]} as plugin
plugin.namespace_dump = lambda access, name: f"events of {{name}}"
@pytest.fixture
def control_plane(): return object()
@pytest.fixture
def namespace(control_plane): return "test-1"
def test_red(namespace): assert False
def test_green(namespace): pass
"""
    output = run(tmp_path, source, "tests.fixtures.cluster")
    assert output.count("events of test-1") == 1
    assert "namespace test-1" in output
