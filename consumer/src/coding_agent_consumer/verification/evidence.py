"""The two programs of an evidence pod: `--mode clone` and `--mode verify` (docs/decisions/0030).

`clone` has the forge's credential. It checks that the commit is on the branch, writes a pack of exactly the
commit to run the commands on, and ends before any command runs. `verify` has no secret but the workspace's
own password at the egress proxy, to remove it from the output. For each command it lets the workspace start
over from the pack and run the setup. It leaves the results as its termination message. The workspace's
commands can write neither the pack nor the message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeNotFoundError,
    SettingsError,
)
from coding_agent_core.forge.values import ItemDetails
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.runtime.retry import Clock, Deadline, StoppedError, run_until, while_unavailable
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.load import examine
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.environment import ENVIRONMENT_FILE, EnvironmentFileError, RepositoryFile
from coding_agent_core.task.reasons import ExitCode
from coding_agent_core.task.verification import (
    VERIFY_VARIABLE,
    Side,
    VerifiedCommand,
    VerifyInput,
    VerifyResult,
)
from coding_agent_forges.connect import connect_forge, forge_of
from coding_agent_forges.rest.forge import Forge
from pydantic import BaseModel, ValidationError

from coding_agent_consumer.item.background import project_commit, read_environment, set_up
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_consumer.repository.git_errors import with_present_branches
from coding_agent_consumer.transcripts.transcript import Scrub, scrub_for, scrub_logs
from coding_agent_consumer.verification.commands import run_commands
from coding_agent_consumer.workspace.framing import Seed
from coding_agent_consumer.workspace.launch import harden_agent_process, launch_workspace
from coding_agent_consumer.workspace.protocol import Workspace

_logger = logging.getLogger("coding_agent.evidence")

_TERMINATION_LOG = "/dev/termination-log"
_PACKS, _CLONED = "verify", "clone.json"
"""The files that `clone` leaves for `verify` in their common folder, which the workspace does not have."""
_BRANCH = "verify"

_Step = Callable[[Settings, VerifyInput, Mapping[str, str]], Coroutine[Any, Any, None]]


class CloneResult(BaseModel):
    """The result of `clone`, which `verify` reads.

    Attributes:
        file: the repository's file, with the commands that count.
        problem: why there is nothing to run, as a sentence for people.
    """

    commit: str
    file: RepositoryFile = RepositoryFile()
    problem: str = ""


def run_clone(config: Path | None, environment: Mapping[str, str] | None = None) -> int:
    """Write what `verify` needs; return the exit status, a `coding_agent_core.task.reasons.ExitCode`."""
    return _run(config, os.environ if environment is None else environment, _clone)


def run_verify(config: Path | None, environment: Mapping[str, str] | None = None) -> int:
    """Run the commands, and write their results as the termination message; return the exit status."""
    return _run(config, os.environ if environment is None else environment, _verify)


def _run(config: Path | None, environment: Mapping[str, str], step: _Step) -> int:
    harden_agent_process()
    try:
        settings = examine(config, environment).require()
        configure(settings.logging)
        scrub_logs(scrub_for(settings, environment))
        given = _read_input(environment)
        asyncio.run(step(settings, given, environment))
    except SettingsError as error:
        return _failed(ExitCode.CONFIGURATION, error)
    except (CodingAgentError, StoppedError, TimeoutError) as error:
        return _failed(ExitCode.TEMPORARY, error)
    return ExitCode.DONE.value


def _failed(code: ExitCode, error: Exception) -> int:
    _logger.error("The verification has no result: %s", error or type(error).__name__)
    return code.value


def _read_input(environment: Mapping[str, str]) -> VerifyInput:
    try:
        return VerifyInput.model_validate_json(environment.get(VERIFY_VARIABLE, ""))
    except ValidationError as error:
        raise SettingsError(f"{VERIFY_VARIABLE}: the operator sets it; it cannot be read: {error}") from error


async def _clone(settings: Settings, verify_input: VerifyInput, environment: Mapping[str, str]) -> None:
    folder = Path(environment["HOME"])
    forge = connect_forge(settings, verify_input.item.platform, only=verify_input.item.repository)
    deadline = Deadline.after(verify_input.timeout_seconds)
    try:
        forge_of({forge.host: forge}, verify_input.item)
        cloned = await with_present_branches(
            lambda: while_unavailable(
                lambda: _cloned(settings, verify_input, forge, folder), within=deadline.left, logger=_logger
            ),
            clock=Clock(),
            logger=_logger,
        )
    except ForgeNotFoundError as error:
        cloned = CloneResult(commit=verify_input.commit, problem=str(error))
    finally:
        await forge.aclose()
    (folder / _CLONED).write_text(cloned.model_dump_json(), encoding="utf-8")


async def _cloned(settings: Settings, verify_input: VerifyInput, forge: Forge, folder: Path) -> CloneResult:
    details = await forge.read(await forge.locate(verify_input.item))
    repository_name, branch = _place(verify_input, details)
    if not branch:
        return CloneResult(commit=verify_input.commit, problem="The change's branch cannot be found.")
    prefix = settings.consumer.branch_prefix
    if details.item.kind is ItemKind.ISSUE and not branch.startswith(prefix):
        return CloneResult(commit=verify_input.commit, problem=f"The branch does not start with {prefix!r}.")
    repository = await BareClone.clone(
        partial(forge.clone_source, repository_name),
        folder / "clone.git",
        base=branch if verify_input.item.kind is ItemKind.CHANGE else details.base_branch,
        branch=branch,
        push_check=_no_push,
    )
    if not repository.exists or not await repository.contains(verify_input.commit):
        return CloneResult(commit=verify_input.commit, problem="The branch no longer contains the commit.")
    project = await project_commit(forge, details, repository, prefix)
    try:
        file = await read_environment(repository, project, settings, verify_input.environment)
    except EnvironmentFileError as error:
        return CloneResult(commit=verify_input.commit, problem=str(error))
    commands = settings.verify.commands_of(file)
    if not commands:
        return CloneResult(
            commit=verify_input.commit, problem=f"`{ENVIRONMENT_FILE}` no longer names any command."
        )
    commit = verify_input.commit
    if verify_input.side is Side.BASE:
        source = details.item.repository
        tip = await repository.fetch(partial(forge.clone_source, source), details.base_branch)
        base = await repository.merge_base(verify_input.commit, tip)
        if base is None or base == verify_input.commit:
            return CloneResult(
                commit=verify_input.commit, problem="The commit does not differ from the base branch."
            )
        commit = base
    await repository.pack_of(commit, folder / _PACKS)
    return CloneResult(commit=commit, file=file.model_copy(update={"verify": commands}))


def _place(verify_input: VerifyInput, details: ItemDetails) -> tuple[str, str]:
    """Return the repository and the branch that must contain the commit."""
    if details.item.kind is ItemKind.CHANGE:
        return details.head_repository or "", details.head_branch or ""
    return details.item.repository, verify_input.branch or ""


async def _no_push(branch: str) -> None:
    raise CodingAgentError(f"An evidence pod never pushes. It asked to push to {branch}.")


async def _verify(settings: Settings, given: VerifyInput, environment: Mapping[str, str]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    result = await run_until(lambda: _result(settings, given, environment), stop)
    # A pod that was stopped leaves no result: commands may have failed because of that.
    text, file = result.to_termination_message(), environment.get("TERMINATION_LOG", _TERMINATION_LOG)
    await asyncio.to_thread(Path(file).write_text, text, encoding="utf-8")


async def _result(
    settings: Settings, verify_input: VerifyInput, environment: Mapping[str, str]
) -> VerifyResult:
    folder = Path(environment["HOME"])
    cloned = CloneResult.model_validate(json.loads((folder / _CLONED).read_text(encoding="utf-8")))
    if cloned.problem:
        return VerifyResult(commit=cloned.commit, problem=cloned.problem[:1000])
    deadline, scrub = Deadline.after(verify_input.timeout_seconds), scrub_for(settings, environment)
    commands = cloned.file.verify or ()
    turns = [commands] if settings.verify.shared else [(command,) for command in commands]
    results: tuple[VerifiedCommand, ...] = ()
    seed = Seed(_BRANCH, cloned.commit, tuple((folder / _PACKS).glob("*.pack")), cloned.file.checkout)
    async with launch_workspace(settings.consumer.workspace) as workspace:
        for some in turns:
            file = cloned.file if any(command.setup for command in some) else RepositoryFile()
            await _prepare(workspace, seed, file, deadline, scrub)
            results += await run_commands(workspace, some, deadline=deadline, scrub=scrub)
            if deadline.passed:
                break
    problem = ""
    if deadline.passed:
        problem = f"The commands did not end within {verify_input.timeout_seconds} s together."
    return VerifyResult(commit=cloned.commit, commands=results, problem=problem)


async def _prepare(
    workspace: Workspace, seed: Seed, file: RepositoryFile, deadline: Deadline, scrub: Scrub
) -> None:
    """Empty the workspace, check out the commit, and run the file's setup.

    The setup runs code of the commit, as the commands do, so no command gets what another one's setup made.
    """
    await workspace.start_over(seed)
    if file.setup:
        await set_up(workspace, file, deadline, scrub)
        await workspace.restore(seed)
