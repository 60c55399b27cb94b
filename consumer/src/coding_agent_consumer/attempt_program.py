"""`main.py --mode attempt`: the program of a Job's agent container.

Its result is its termination message, an `Outcome` as JSON, and its exit code (`ExitCode`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.connect import connect, forge_of
from coding_agent_core.logs import configure
from coding_agent_core.messages import ENVIRONMENT_VARIABLE, AttemptInput
from coding_agent_core.outcome import Outcome
from coding_agent_core.reasons import Reason
from coding_agent_core.settings import Settings, load_settings

from coding_agent_consumer.agent.models import model_spec
from coding_agent_consumer.agent.run import ModelAgent
from coding_agent_consumer.agent.scrub import scrub_for, scrub_logs
from coding_agent_consumer.pod_attempt import PodAttempt, read_input
from coding_agent_consumer.workspace.launch import harden_agent_process, launch_workspace

_logger = logging.getLogger("coding_agent.attempt")
_TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads a container's last words; `TERMINATION_LOG` names another file."""


def run_attempt(config: Path | None, environment: Mapping[str, str] | None = None) -> int:
    """Run the attempt that the environment names; its exit code.

    Args:
        config: the settings' file; `None`: as `load_settings` finds it.
        environment: the variables; `None`: the process's own.
    """
    harden_agent_process()
    environment = os.environ if environment is None else environment
    try:
        settings = load_settings(config, environment)
        configure(settings.logging)
        scrub_logs(scrub_for(settings))
        given = read_input(environment, ENVIRONMENT_VARIABLE)
        outcome = asyncio.run(_attempt(settings, given))
    except (SettingsError, ValueError) as error:
        outcome = Outcome(reason=Reason.CONFIGURATION, message=str(error))
    except Exception as error:
        _logger.exception("The attempt's program failed unexpectedly")
        outcome = Outcome(
            reason=Reason.INTERNAL,
            message=f"The attempt failed unexpectedly ({type(error).__name__}); its log tells more.",
        )
    _say(outcome, Path(environment.get("TERMINATION_LOG", _TERMINATION_LOG)))
    return outcome.exit_code.value


async def _attempt(settings: Settings, given: AttemptInput) -> Outcome:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    item = given.task.request.item
    if not settings.user_config_api.enabled:
        model_spec(settings.llm)  # with per-user settings a person may bring a key
    # Only the item's own forge: the credentials of another need not be there.
    forge = connect(settings, item.platform)
    try:
        forge_of({forge.host: forge}, item)
        return await PodAttempt(
            settings=settings,
            given=given,
            forge=forge,
            make_agent=ModelAgent,
            open_workspace=lambda: launch_workspace(
                settings.consumer.workspace, hidden=[settings.context_storage.base_dir]
            ),
            stop=stop,
            grace=settings.operator.job.grace_seconds,
        ).run()
    finally:
        await forge.aclose()


def _say(outcome: Outcome, last_words: Path) -> None:
    log = _logger.info if outcome.succeeded else _logger.error
    log("%s: %s", outcome.reason, outcome.message)
    if not last_words.exists():
        return  # not in a pod
    try:
        last_words.write_text(outcome.to_termination_message(), encoding="utf-8")
    except (OSError, ValueError) as error:
        _logger.error("Cannot write the termination message: %s", error)  # noqa: TRY400 - the exit code tells
