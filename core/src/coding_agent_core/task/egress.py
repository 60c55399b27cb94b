"""The identities of attempts at the egress proxy, their variables, and the hosts denied to them. Pure.

The user name contains all that the proxy needs: the attempt, its container, and the repository's list of
hosts. The password is an HMAC of the user name with a key that operator and proxy share. So the proxy can
authenticate every attempt without any state.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field

_PROXY = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
"""curl reads `http_proxy` only in lower case, other programs only in upper case."""
_DIRECT = ("NO_PROXY", "no_proxy")
_NODE = "NODE_USE_ENV_PROXY"
"""With `1`, `fetch` of Node.js reads the other variables
(https://nodejs.org/api/cli.html#node_use_env_proxy1)."""
VARIABLES = (*_PROXY, *_DIRECT, _NODE)
"""The variables that send a container's programs through the proxy."""
WORKSPACE_PROXY = "CODING_AGENT_WORKSPACE_PROXY"
"""The variable that tells the containers which report what a workspace's commands wrote the workspace's own
identity. They do not use it, but remove its password from their reports."""
NO_PROXY = "localhost,127.0.0.1,::1"
"""The pod's own loopback, where the model gateway listens."""
AGENT_USERS = r"\.agent$"
"""Regular expression of the agents' user names."""
PRESETS = "(_[a-z0-9-]+)*"
"""Regular expression of the presets at the end of a user name. Names of Jobs have no `_`."""
WORKSPACE_USERS = rf"\.workspace(\.[0-9a-f]{{16}})?{PRESETS}$"
"""Regular expression of the workspaces' user names."""
DENIALS_HOST = "denials.egress.internal"
"""The host name at which the proxy tells an agent which hosts it denied to the attempt."""
MAX_DENIALS = 10
"""An outcome names at most this many hosts that the egress proxy denied: the most frequent ones."""
Preset = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
"""The name of a list of hosts in the settings."""


class Role(StrEnum):
    """The containers of an attempt, which may reach different hosts."""

    AGENT = "agent"
    WORKSPACE = "workspace"


def user_name(job: str, role: Role, profile: str | None = None, presets: Iterable[str] = ()) -> str:
    """Return a container's user name at the proxy: `JOB.agent` or `JOB.workspace[.PROFILE][_PRESET]...`.

    Args:
        job: the name of the attempt's Job.
        profile: the repository's profile, if it has its own list of hosts.
        presets: the presets that the repository has asked for.
    """
    return "_".join((".".join(filter(None, (job, role.value, profile))), *presets))


def job_of(user: str) -> str | None:
    """Return the Job of a user name, or `None` if it is not the name of an attempt."""
    user = user.partition("_")[0]
    parts = user.rsplit(".", 2)
    if len(parts) == 3 and parts[1] == Role.WORKSPACE:
        return parts[0]
    job, _, role = user.rpartition(".")
    return job if job and role in (Role.AGENT, Role.WORKSPACE) else None


def profile_of(repository: str) -> str:
    """Return a key of `egress.repositories` in the form for user names, which cannot contain `/`."""
    return hashlib.sha256(repository.lower().encode()).hexdigest()[:16]


def password(user: str, key: str) -> str:
    """Return a user's password: 128 bits of an HMAC-SHA256, in hexadecimal."""
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def is_valid(user: str, given: str, keys: Iterable[str]) -> bool:
    """Whether the password belongs to the user under one of the keys."""
    return any(hmac.compare_digest(given.encode(), password(user, key).encode()) for key in keys)


def variables(address: str, user: str, key: str, *, direct: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment variables that send a container's programs through the proxy.

    Args:
        address: the proxy's host and port in the notation of URLs.
        direct: hosts that are reached without the proxy, in addition to loopback.
    """
    url = f"http://{user}:{password(user, key)}@{address}"
    no_proxy = ",".join([NO_PROXY, *direct])
    return {**dict.fromkeys(_PROXY, url), **dict.fromkeys(_DIRECT, no_proxy), _NODE: "1"}


class Denial(BaseModel, frozen=True, extra="ignore"):
    """A host that the egress proxy denied to an attempt. Fields of a newer release are ignored.

    Attributes:
        host: the host's name, with its port unless it is 443 or 80.
        count: how often the host was denied.
    """

    host: str = Field(max_length=260, pattern=r"^[A-Za-z0-9._-]+(:[0-9]{1,5})?$")
    count: int = Field(ge=1, le=2**53)
