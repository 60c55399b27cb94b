"""`python -m coding_agent_tokens`: the token service, the only program with the key of the GitHub App."""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    # This comes before the imports below, which take time: the kernel drops a SIGTERM for a container's first
    # process if it has no handler. The chart starts it with SIGTERM blocked (docs/decisions/0019).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

import argparse
import asyncio
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coding_agent_core.errors import CodingAgentError, SettingsError
from coding_agent_core.kubernetes.transport import Access, ApiServer
from coding_agent_core.runtime import http_server
from coding_agent_core.runtime.http_server import ClientLimits, listen, metrics_served, stop_on_signals
from coding_agent_core.runtime.metrics import metrics_page, process_registry
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.reading import LOGGING_VARIABLES, Logging, Variables, read_settings
from coding_agent_core.settings.section import Secrets, Section
from coding_agent_forges.github.app_settings import GitHubServer, Purpose
from coding_agent_forges.github.auth.app_tokens import connect_app

from coding_agent_tokens.app import Identification, token_app
from coding_agent_tokens.metrics import TokenMetrics
from coding_agent_tokens.reviews import Reviews

_logger = logging.getLogger("coding_agent.tokens")
_REVIEW_TIMEOUT = 10.0
"""Maximum number of seconds for one TokenReview."""
LIMITS = ClientLimits()
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
VARIABLES = Variables({"GITHUB_API_URL": ("github", "api_url"), **LOGGING_VARIABLES})
_ROLE = "the ClusterRole of the token service"


class _GitHub(GitHubServer, extra="ignore"):
    pass


class TokenSettings(Section, extra="ignore"):
    """The settings that this program reads; the others are checked by the programs that read them."""

    github: _GitHub = _GitHub()
    logging: Logging = Logging()


async def serve(
    github: GitHubServer, accounts: Mapping[str, Purpose], host: str, port: int, metrics_port: int
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests under way.

    Args:
        accounts: the purpose of each program, by the user name of its ServiceAccount.
        metrics_port: the metrics have a port of their own, because their readers may not ask for tokens.

    Raises:
        SettingsError: the App is not configured, or there is no cluster to ask about ServiceAccounts.
    """
    app = github.app
    if app is None or app.service is None:
        raise SettingsError(
            "Nothing to serve: set `github.app` with `app_id`, `private_key_file` and `service`."
        )
    if not app.service.key.configured:
        raise SettingsError("Attempts cannot be identified: set `github.app.service.key`.")
    server = await ApiServer.connect(Access.find(), _REVIEW_TIMEOUT, role=_ROLE)
    tokens = connect_app(github)

    async def review(request: dict[str, Any]) -> Mapping[str, Any]:
        return await server.request("POST", _REVIEWS, body=request)

    clock = Clock()
    reviews = Reviews(accounts, review, clock)
    identification = Identification(github.host, Secrets(app.service.key), reviews, clock, app.namespaces)
    registry = process_registry()
    _logger.info("Serving tokens of GitHub App %d on port %d", app.app_id, port)
    try:
        async with metrics_served(host, metrics_port, metrics_page(registry)):
            await http_server.serve(
                token_app(tokens, identification, TokenMetrics(registry)),
                listen(host, port),
                stop_on_signals(),
                LIMITS,
            )
    finally:
        await tokens.aclose()
        await server.aclose()


def _account(text: str) -> tuple[str, Purpose]:
    name, _, purpose = text.partition("=")
    if not name.startswith("system:serviceaccount:") or purpose not in (Purpose.REPORT, Purpose.POLL):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not `system:serviceaccount:NAMESPACE:NAME=report` or `=poll`"
        )
    return name, Purpose(purpose)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 75 (try again later) or 78 (fix the settings)."""
    parser = argparse.ArgumentParser(prog="coding_agent_tokens", description=__doc__)
    parser.add_argument(
        "--config", type=Path, help="the settings file (default: CONFIG_FILE, else config.yaml)"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--metrics-port", type=int, default=8081)
    parser.add_argument(
        "--account",
        type=_account,
        action="append",
        default=[],
        help="a ServiceAccount that may ask, and for what: system:serviceaccount:NAMESPACE:NAME=report|poll",
    )
    given = parser.parse_args(argv)
    try:
        settings = read_settings(TokenSettings, VARIABLES, given.config).require()
        configure(settings.logging)
        asyncio.run(serve(settings.github, dict(given.account), given.host, given.port, given.metrics_port))
    except SettingsError as error:
        print(f"Configuration error:\n{error}", file=sys.stderr)
        return 78
    except CodingAgentError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main())
