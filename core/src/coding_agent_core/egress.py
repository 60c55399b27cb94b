"""Attempts at the egress proxy: names, passwords, variables, and the hosts that it denies to them. Pure.

A password is an HMAC of the user name under a key that operator and proxy share. So the proxy knows every
attempt without any state, and the name says all that it needs: the attempt, its container, and the list of
its repository.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field

from coding_agent_core.tasks import Frozen

_PROXY = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
"""curl reads `http_proxy` in lower case alone, other programs only the other form."""
_DIRECT = ("NO_PROXY", "no_proxy")
_NODE = "NODE_USE_ENV_PROXY"
"""With `1`, `fetch` of Node.js reads the others (https://nodejs.org/api/cli.html#node_use_env_proxy1)."""
VARIABLES = (*_PROXY, *_DIRECT, _NODE)
"""What sends a container's programs through the proxy."""
NO_PROXY = "localhost,127.0.0.1,::1"
"""The pod's own loopback: the model gateway listens there."""
AGENT_USERS = r"\.agent$"
"""Regular expression of the agents' user names."""
PRESETS = "(_[a-z0-9-]+)*"
"""Regular expression of the presets at the end of a user name. Names of Jobs have no `_`."""
WORKSPACE_USERS = rf"\.workspace(\.[0-9a-f]{{16}})?{PRESETS}$"
"""Regular expression of the workspaces' user names."""
DENIALS_HOST = "denials.egress.internal"
"""Under this name the proxy tells an agent what it has denied to its attempt."""
MAX_DENIALS = 10
"""Hosts that an outcome names as denied by the egress proxy: those that were denied most often."""


class Role(StrEnum):
    """The containers of an attempt, which may reach different hosts."""

    AGENT = "agent"
    WORKSPACE = "workspace"


def user_name(job: str, role: Role, profile: str | None = None, presets: Iterable[str] = ()) -> str:
    """The proxy's user name of a container: `JOB.agent` or `JOB.workspace[.PROFILE][_PRESET]...`.

    Args:
        job: name of the attempt's Job.
        profile: of the repository, if it has a list of its own.
        presets: that the repository has asked for.
    """
    return "_".join((".".join(filter(None, (job, role.value, profile))), *presets))


def job_of(user: str) -> str | None:
    """The Job that a user name belongs to; `None`: it is not a name of an attempt."""
    user = user.partition("_")[0]
    parts = user.rsplit(".", 2)
    if len(parts) == 3 and parts[1] == Role.WORKSPACE:
        return parts[0]
    job, _, role = user.rpartition(".")
    return job if job and role in (Role.AGENT, Role.WORKSPACE) else None


def profile_of(repository: str) -> str:
    """The form of a key of `egress.repositories` in user names, which take no `/`."""
    return hashlib.sha256(repository.lower().encode()).hexdigest()[:16]


def password(user: str, key: str) -> str:
    """The password of a user: 128 bits of an HMAC-SHA256, in hexadecimal."""
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def is_valid(user: str, given: str, keys: Iterable[str]) -> bool:
    """Whether the password belongs to the user under one of the keys."""
    return any(hmac.compare_digest(given.encode(), password(user, key).encode()) for key in keys)


def variables(address: str, user: str, key: str, *, direct: Iterable[str] = ()) -> dict[str, str]:
    """The environment variables that send a container's programs through the proxy.

    Args:
        address: host and port of the proxy, as a URL has them.
        direct: hosts, in addition to loopback, that are reached without the proxy.
    """
    url = f"http://{user}:{password(user, key)}@{address}"
    no_proxy = ",".join([NO_PROXY, *direct])
    return {**dict.fromkeys(_PROXY, url), **dict.fromkeys(_DIRECT, no_proxy), _NODE: "1"}


class Denial(Frozen, extra="ignore"):
    """A host that the egress proxy has denied to an attempt. Fields of a newer release are ignored.

    Attributes:
        host: with its port, unless that is 443 or 80.
        count: how often.
    """

    host: str = Field(max_length=260, pattern=r"^[A-Za-z0-9._-]+(:[0-9]{1,5})?$")
    count: int = Field(ge=1, le=2**53)
