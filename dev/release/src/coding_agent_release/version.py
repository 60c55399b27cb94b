"""The version of a release, and its notes in CHANGELOG.md."""

import re

from coding_agent_release.errors import ReleaseError

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-rc\.(0|[1-9]\d*))?")


def checked(version: str) -> str:
    """The version of a release: `1.2.3`, or `1.2.3-rc.4` before it.

    Helm wants semantic versions (https://semver.org) and wheels want those of PEP 440; these are both.

    Raises:
        ReleaseError: it is another text.
    """
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"VERSION={version!r}: write it as 1.2.3 or 1.2.3-rc.4, without a leading v")
    return version


def of_python(version: str) -> str:
    """The same version as a wheel's file name writes it: `1.2.3rc4`."""
    return version.replace("-rc.", "rc")


def notes(changelog: str, version: str) -> str:
    """The text below the heading of this version; a candidate has the notes of its release.

    Args:
        changelog: the text of CHANGELOG.md, with one `## 1.2.3` for each release.

    Raises:
        ReleaseError: there is no such heading, or nothing below it.
    """
    release = version.partition("-")[0]
    section = rf"^## {re.escape(release)}(?: [^\n]*)?\n(?P<text>.*?)(?=^## |\Z)"
    found = re.search(section, changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found["text"].strip():
        raise ReleaseError(f"CHANGELOG.md says nothing below '## {release}': write there what changes")
    return found["text"].strip() + "\n"


def of_chart(chart: str) -> str:
    """The version in the text of Chart.yaml.

    Raises:
        ReleaseError: it has none.
    """
    found = re.search(r'^version: "?([^"\s]+)"?$', chart, re.MULTILINE)
    if found is None:
        raise ReleaseError("Chart.yaml has no version")
    return found[1]
