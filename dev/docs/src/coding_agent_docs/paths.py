"""The folders and files of the documentation."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
DOCS = ROOT / "docs"
CONFIGURATION = DOCS / "reference" / "configuration.md"
CHART_SCHEMA = ROOT / "charts" / "schema.py"
"""The script that lists the settings that the chart sets itself."""
METRICS = DOCS / "reference" / "metrics.md"
LABELS = DOCS / "labels.md"
AGENTTASK = DOCS / "reference" / "agenttask.md"
CRD = ROOT / "crds" / "agenttask.yaml"


def pages() -> list[Path]:
    """Return every Markdown file for people, including decisions and the READMEs of packages."""
    folders = [DOCS, ROOT / ".github", ROOT / "plugin", ROOT / "charts"]
    return [
        *sorted(ROOT.glob("*.md")),
        *(page for folder in folders for page in sorted(folder.rglob("*.md"))),
    ]
