"""Trying again what downloads: a registry, a proxy or a mirror may fail for a moment."""

import re
import time
from collections.abc import Callable
from typing import TypeVar

from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.progress import note

T = TypeVar("T")
TRIES = 3
PAUSE_S = 5.0
"""Seconds before the second try; twice as many before the third."""

# What Go, pip, uv, npm, apt, debootstrap and buildah print when a download failed, and a compiler does not.
_DOWNLOAD = re.compile(
    r"time[d ]?-?\s?out|connection (?:refused|reset|closed|aborted|broken|lost)|closed connection|broken pipe"
    r'|unexpected EOF|": EOF\b|i/o timeout|stream error|context deadline exceeded|is unreachable'
    r"|no route to host"
    r"|TLS handshake|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENOTFOUND|socket hang up|npm error network"
    r"|temporary failure|no such host|could not resolve|server misbehaving|failed getting release file"
    r"|(?:status|error|code|HTTP(?:/[\d.]+)?|response):? *(?:code:? *)?(?:408|429|5\d\d)\b"
    r"|\b(?:429 Too Many Requests|500 Internal Server Error|502 Bad Gateway|503 Service Unavailable)"
    r"|\b504 Gateway Time-?out|GOAWAY|hash sum mismatch|failed to (?:fetch|download)|couldn't download"
    r"|could not get lock|unable to (?:lock|fetch)|could not fetch|404 +Not Found|from versions: none"
    # What apt says of a package when an index could not be fetched: `apt-get update` succeeds all the same.
    r"|unable to locate package|no installation candidate"
    r"|cannot be downloaded|incomplete",
    re.IGNORECASE,
)


def is_download(error: ClusterError) -> bool:
    """Whether it reads like a download that failed, which the next try may not."""
    return _DOWNLOAD.search(str(error)) is not None


def again(what: str, work: Callable[[], T], *, pause: Callable[[float], None] | None = None) -> T:
    """Do it, and again after a download that failed: ``TRIES`` times in all.

    Raises:
        ClusterError: that of the last try, or the first one that has nothing to do with a download.
    """
    for number in range(1, TRIES):
        try:
            return work()
        except ClusterError as error:
            if not is_download(error):
                raise
            last = str(error).strip().splitlines()[-1][:200]
            note(f"{what}: try {number} of {TRIES} failed ({last})")
            (pause or time.sleep)(PAUSE_S * number)
    return work()
