"""The certificates of servers that the programs trust."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

import httpx2


def client_context() -> ssl.SSLContext:
    """Return the TLS context of all clients. `SSL_CERT_FILE` can name other certificate authorities.

    The clients share one context, because reading the authorities' certificates takes 30 ms of CPU time.
    """
    return _context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=1)
def _context(file: str | None, folder: str | None) -> ssl.SSLContext:
    return httpx2.create_ssl_context()
