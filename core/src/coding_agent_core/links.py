"""Which branch and which address of a change an item may show as the work of its task.

The agent reports both from its pod, and one that was compromised can report anything. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from coding_agent_core.platforms import FACTS, ItemKind
from coding_agent_core.tasks import Item

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Links:
    """What a task of one forge may link to.

    Attributes:
        web: the forge's web address, without a trailing slash.
        branch_prefix: starts the branches for issues; a change has its own branch.
    """

    web: str
    branch_prefix: str

    def change_problem(self, url: str, item: Item) -> str | None:
        """Why this is not the address of a change in the item's repository; `None` if it is."""
        facts, ours = FACTS[item.platform], urlsplit(self.web)
        path = f"{ours.path}/{item.repository}/{facts.change_path}"
        try:
            parts = urlsplit(url)
            whole = url == f"{parts.scheme}://{parts.netloc}{parts.path}"
            same = whole and _host(parts) == _host(ours) and "@" not in parts.netloc
        except ValueError:
            same = False
        if same and re.fullmatch(re.escape(path) + r"/[1-9][0-9]{0,9}", parts.path, re.IGNORECASE):
            return None
        return f"{url[:200]!r} is not the address of a {facts.change_noun} below {self.web}/{item.repository}"

    def branch_problem(self, name: str, item: Item) -> str | None:
        """Why the work of the item's task cannot be on a branch of this name; `None` if it can."""
        if not is_branch_name(name):
            return f"{name[:200]!r} is not a branch name"
        if item.kind is ItemKind.ISSUE and not name.startswith(self.branch_prefix):
            return f"the branch {name[:200]!r} does not start with {self.branch_prefix!r}"
        return None


def is_branch_name(name: str) -> bool:
    """Whether git accepts it as a branch's name (git-check-ref-format), and never takes it for an option."""
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|\.lock(/|$)|(^|/)\.|[./]$", name)
    return not (bad or not name or name.startswith(("-", "/")) or name == "@" or len(name) > 240)


def _host(parts: SplitResult) -> tuple[str | None, int | None]:
    """Host and port. The scheme does not count: a forge may be reached by another one inside the cluster."""
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{parts.scheme!r} is not http(s)")
    default = _DEFAULT_PORTS[parts.scheme]
    return parts.hostname, None if parts.port in (None, default) else parts.port
