"""The site builds without a warning, and a reader without the internet sees all of it, diagrams drawn."""

from pathlib import Path

import pytest
from coding_agent_docs import site
from coding_agent_docs.errors import DocsError
from coding_agent_docs.paths import ROOT
from coding_agent_testbed.cluster import build

from tests.chart.run import run

# npm may have to fetch the diagrams' library first (two calls of up to two minutes), and the site is built.
pytestmark = pytest.mark.timeout(900)


@pytest.mark.xdist_group("docs-site")
def test_a_dead_link_stops_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n[gone](gone.md)\n")
    config = site.CONFIG.read_text()
    nav = config[config.index("nav = [") : config.index("[project.theme]")]
    (tmp_path / "zensical.toml").write_text(config.replace(nav, 'nav = ["index.md"]\n\n'))
    monkeypatch.setattr(site, "CONFIG", tmp_path / "zensical.toml")
    with pytest.raises(DocsError, match="page does not exist"):
        site.build()


# Time for actionlint, which may have to be built first.
WORKFLOWS = sorted(str(file) for file in (ROOT / ".github" / "workflows").iterdir())


def test_actionlint_finds_nothing() -> None:
    assert WORKFLOWS
    run(str(build.binaries(["actionlint"])["actionlint"]), *WORKFLOWS)
