"""A pytest plugin that writes which tests failed: ``-p coding_agent_testbed.tiers.failures --failures=FILE``.

pytest's own ``--last-failed`` cannot be used with ``--dist loadgroup``: xdist appends the name of a test's
group to its id, and pytest then finds no such test (https://github.com/pytest-dev/pytest/issues/11299).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest


@dataclass
class Failures:
    """The ids of the tests that failed, and of what could not be collected."""

    tests: list[str] = field(default_factory=list)
    not_collected: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Failures:
        """Read what a run has written.

        Raises:
            OSError: the run wrote nothing.
        """
        return cls(**json.loads(file.read_text(encoding="utf-8")))


def without_group(test_id: str) -> str:
    """The id that pytest knows: xdist appends ``@group``. An ``@`` within a test's parameters stays."""
    return test_id[: test_id.rfind("@")] if test_id.rfind("@") > test_id.rfind("]") else test_id


class _Writer:
    """Collects the failures of a run. With xdist, the reports of all workers arrive in its controller."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failures = Failures()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A failed set-up or tear-down counts too, and so does the test at which a worker died."""
        test = without_group(report.nodeid)
        if report.failed and test not in self._failures.tests:
            self._failures.tests.append(test)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Each worker reports the same error of collection."""
        if report.failed and report.nodeid not in self._failures.not_collected:
            self._failures.not_collected.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(asdict(self._failures)), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--failures``."""
    parser.addoption("--failures", type=Path, metavar="FILE", help="write the ids of failed tests into FILE")


def pytest_configure(config: pytest.Config) -> None:
    """Write in the controller alone: a worker knows only its own tests."""
    file = config.getoption("--failures")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(file))
