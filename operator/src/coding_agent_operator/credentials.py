"""Which credentials an attempt is given: the rule as a pure function."""

from __future__ import annotations

from collections.abc import Iterable

from coding_agent_core.settings.job import Credential
from coding_agent_core.tasks import Item


def select(credentials: Iterable[Credential], item: Item) -> list[Credential]:
    """One credential for each file that the item's task is given, by file name.

    Every scope that an entry names must be the item's. Of those that give the same file the most specific
    wins: one that names the repository, then one that names the host, then one that names the platform; of
    equals the later.
    """
    chosen: dict[str, Credential] = {}
    for each in credentials:
        if not _is_for(each, item):
            continue
        other = chosen.get(each.file)
        if other is None or _specificity(each) >= _specificity(other):
            chosen[each.file] = each
    return [chosen[file] for file in sorted(chosen)]


def _is_for(credential: Credential, item: Item) -> bool:
    return (
        credential.platform in (None, item.platform)
        and _same(credential.host, item.host)
        and _same(credential.repository, item.repository)
    )


def _same(wanted: str | None, actual: str) -> bool:
    return wanted is None or wanted.lower() == actual.lower()


def _specificity(credential: Credential) -> tuple[bool, bool, bool]:
    return (
        credential.repository is not None,
        credential.host is not None,
        credential.platform is not None,
    )
