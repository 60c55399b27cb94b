"""One attempt: clone, let the agent work in the workspace, push its work, open the change.

A Job's pod and a consumer of a queue run the same attempt. It writes neither labels nor comments. Whatever
happens, it returns an `Outcome` in time. Work that was done is pushed even if the attempt fails or is
stopped, so that the next attempt continues from it. If somebody else pushes to the branch meanwhile, the
attempt ends at its next push: nothing is overwritten, and the next attempt starts from the branch's new tip.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.values import Change, CommitIdentity, ItemDetails
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.markdown import inline, quotation
from coding_agent_core.platforms.text import beginning
from coding_agent_core.runtime.retry import Clock, Deadline, StoppedError, both, run_until
from coding_agent_core.settings.attempt_settings import Signing
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import AttemptInput, Outcome
from coding_agent_core.task.environment import ENVIRONMENT_FILE, Environment, RepositoryFile
from coding_agent_core.task.model import TaskRequest, identity_hash, issue_of_branch
from coding_agent_core.task.reasons import Reason, ReasonClass
from coding_agent_core.task.runners import RunnerName
from coding_agent_core.task.verification import not_run

from coding_agent_consumer.agent.model_spec import with_task_options
from coding_agent_consumer.agent.prompt import instructions, prompt
from coding_agent_consumer.agent_interface import Brief, Image
from coding_agent_consumer.attempt.agent_work import AgentWork, MakeAgent
from coding_agent_consumer.attempt.failures import outcome_of_error
from coding_agent_consumer.attempt.time_limits import AttemptTime
from coding_agent_consumer.item.approval import ApprovalCheck, Unapproved, require_trusted
from coding_agent_consumer.item.background import (
    Conversation,
    instruction_files,
    pod_environment,
    project_commit,
    read_conversation,
    read_environment,
    read_images,
)
from coding_agent_consumer.item.forge_tasks import (
    Approval,
    ForgeTask,
    PushTarget,
    approval_of,
    person_refusal,
    push_target,
)
from coding_agent_consumer.item.push_check import BranchCheck
from coding_agent_consumer.item.run_check import RunCheck
from coding_agent_consumer.repository.clone import BareClone, PushCheck
from coding_agent_consumer.repository.commits import co_author, commit_author
from coding_agent_consumer.repository.git_errors import RemoteMovedError, with_present_branches
from coding_agent_consumer.repository.publisher import Publisher
from coding_agent_consumer.repository.work_mark import WorkMark, outcome_of
from coding_agent_consumer.transcripts.store import Transcripts
from coding_agent_consumer.transcripts.transcript import scrub_for, scrub_logs

if TYPE_CHECKING:
    from coding_agent_consumer.repository.mirror import Mirror
    from coding_agent_consumer.repository.ssh_signatures import SshSigner
    from coding_agent_consumer.rounds.work import RoundWork

_logger = logging.getLogger("coding_agent.attempt")


@dataclass(frozen=True)
class LoadedItem:
    """An item as it was read before the attempt, with its task.

    Attributes:
        branch: the branch for the work on an issue.
        check: says before each push whether people still want the run; `None` if others check that.
    """

    task: ForgeTask
    details: ItemDetails
    branch: str
    check: RunCheck | None = None


Load = Callable[[], Awaitable[LoadedItem]]
"""Reads what the attempt works on. It is called again while the forge is not available.

Raises:
    ForgeNotFoundError: there is no longer anything to work on.
"""

START_PATIENCE = 60.0
"""Seconds that each step before the work waits while the forge is down; then another attempt starts later."""
_LAST_UPLOAD = 20.0
"""Seconds that the last upload of the transcript may take, unless time is short."""
_RESERVE = 10.0
"""Seconds at the end of the grace time that are kept for writing the outcome."""
_DESCRIPTION_LIMIT = 16_000
"""The most characters of the summary in a change's description; GitHub accepts 65,536 in total."""


@dataclass
class Attempt:
    """One attempt at a task.

    Attributes:
        settings: the installation's settings, before those of the user and the task apply.
        given: the task with the numbers of this run and attempt, and what the operator says about the
            attempt. The agent must finish within its `timeout_seconds`.
        stop: set to end the attempt early; work that was done is still pushed.
        grace: seconds within which the attempt returns after `stop`.
        overtime: seconds that the attempt may take beyond its time, for work that cannot be pushed yet.
        patience: the most seconds that each step before the work waits while the forge is down.
        environment: the environment with which the attempt's pod was made; `None`: it has no pod.
        record: saves what is known so far, in case this process is killed. It is called only if there is an
            allowance, because an attempt that leaves no outcome counts as having spent all of it.
        mirror: the mirror of the item's repository, if there is a cache.
        variables: environment variables for the commands in the workspace.
        lost: set when a queue has given the task to another consumer. Nothing is pushed from then on, and no
            change is opened.

    example:
        attempt = build_attempt(settings, given, forge, stop, grace=60.0)  # of `program`
        outcome = await attempt.run()
    """

    settings: Settings
    given: AttemptInput
    load: Load
    transcript_folder: Path
    make_agent: MakeAgent
    stop: asyncio.Event
    grace: float
    overtime: float
    environment: Environment | None = None
    record: Callable[[Outcome], None] | None = None
    mirror: Mirror | None = None
    patience: float = START_PATIENCE
    variables: Mapping[str, str] = field(default_factory=dict)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    clock: Clock = field(default_factory=Clock)
    transcripts: Transcripts = field(init=False)
    _time: AttemptTime = field(init=False)
    _work: AgentWork | None = field(default=None, init=False)
    """The agent's work, once all that it needs is prepared."""
    _change: str | None = field(default=None, init=False)
    """The open change that the work continues. The outcome names it however the attempt ends."""
    _cloned: str = field(default="", init=False)
    """The commit that was cloned. A merge changes the clone's start point."""
    _recap: str | None = field(default=None, init=False)
    """What earlier attempts did; `None` until it was read."""
    _round: RoundWork | None = field(default=None, init=False)
    """The round that this attempt works on; `None` for a task that a person asked for."""

    def __post_init__(self) -> None:
        queued = self.given.task
        self.transcripts = Transcripts(
            self.settings.context_storage,
            self.transcript_folder,
            queued.request.item,
            run=queued.run,
            uuid=queued.uuid,
            attempt=queued.attempt,
        )

    @property
    def _request(self) -> TaskRequest:
        return self.given.task.request

    @property
    def _forge_signs(self) -> bool:
        return self.settings.consumer.commits.sign is Signing.GITHUB

    async def run(self) -> Outcome:
        """Run the attempt to its end. This raises only if it is cancelled from outside."""
        timeout = self.given.timeout_seconds
        deadline = Deadline.after(timeout, self.clock)
        self._time = AttemptTime(deadline, self.overtime, self.patience, self.stop, self.clock)
        # The last seconds are for the upload of the transcript and the report; without them the pod is
        # killed first.
        reserve = min(_RESERVE, self.grace / 3)
        try:
            outcome = await run_until(
                self._outcome,
                self.stop,
                grace=self.grace - reserve,
                timeout=timeout + self.overtime - reserve,
                cleanup=reserve / 2,
            )
        except StoppedError:
            outcome = self._cut_off(
                Reason.CANCELLED, "The attempt was stopped before its work could be pushed."
            )
        except TimeoutError:
            outcome = self._cut_off(
                Reason.DEADLINE_EXCEEDED, f"The attempt did not finish within {timeout} s."
            )
        if self._work is not None and self._work.usage is not None:
            # The work was paid for even if it could not be pushed.
            outcome = outcome.model_copy(update={"usage": self._work.usage})
        if outcome.change_url is None:
            outcome = outcome.model_copy(update={"change_url": self._change})
        if self._round is not None:
            outcome = outcome.model_copy(update={"round": self._round.report(outcome)})
        elif self._request.trigger.round is not None and outcome.reason is Reason.SUPERSEDED:
            from coding_agent_consumer.rounds.asked_by import cause_gone  # noqa: PLC0415 - only rounds need it

            # The change was closed or merged, or is gone, so it could not be read.
            outcome = outcome.model_copy(update={"round": cause_gone(self._request.trigger.round)})
        return await self.transcripts.end(outcome, within=reserve / 3 if self.hurried else _LAST_UPLOAD)

    @property
    def began(self) -> bool:
        """Whether the agent's work has begun."""
        return self._work is not None and self._work.usage is not None

    @property
    def hurried(self) -> bool:
        """Whether the remaining steps must be quick, because the attempt was stopped or its time is over."""
        return self._time.hurried

    def _cut_off(self, reason: Reason, message: str) -> Outcome:
        pushed = self._work.pushed if self._work is not None else None
        if self._work is not None and self._work.finished:
            reason, message = Reason.FORGE_UNAVAILABLE, "The finished work could not be pushed in time."
            if pushed is not None and self._round is None:
                message = "The finished work could not be offered as a change in time."
            elif pushed is not None:
                message = "The finished work was pushed, but it could not be reported on the change in time."
        return Outcome(reason=reason, message=message, branch=pushed)

    async def _outcome(self) -> Outcome:
        try:
            return await self._run()
        except StoppedError:
            return Outcome(reason=Reason.CANCELLED, message="The attempt was stopped before it started.")
        except Exception as error:
            if self._request.trigger.round is not None and isinstance(
                error, RemoteMovedError | ForgeNotFoundError
            ):
                # Another attempt would not help: what is left to do now, if anything, is another cause.
                return Outcome(reason=Reason.SUPERSEDED, message=str(error))
            outcome = outcome_of_error(error, scrub_for(self.settings, os.environ))
            if self._work is not None:
                outcome = outcome.model_copy(update={"branch": self._work.pushed})
            if outcome.reason is Reason.FORGE_UNAVAILABLE and not self.began:
                # It would hold its place for the whole outage, and tasks of other forges would wait.
                return outcome.model_copy(update={"reason": Reason.FORGE_DOWN})
            return outcome

    async def _run(self) -> Outcome:
        loaded: LoadedItem | None = None

        async def work() -> Outcome:
            nonlocal loaded
            if loaded is None:
                loaded = await self._time.before_work(self.load)
            else:
                task = loaded.task
                details = await self._time.before_work(lambda: task.forge.read(task.item))
                loaded = replace(loaded, details=details)
            return await self._work_on(loaded)

        # Branches can be renamed or deleted after the item was read.
        return await with_present_branches(work, clock=self.clock, logger=_logger, unless=lambda: self.began)

    async def _work_on(self, loaded: LoadedItem) -> Outcome:
        task, details = loaded.task, loaded.details
        # It is set before anything can fail: the outcome names the open change however the attempt ends.
        self._change = task.state.change_url
        approval = await self._approval(task, details)
        if isinstance(approval, Outcome):
            return approval
        user = approval.user
        target = push_target(task.item, details, loaded.branch)
        push_check = await self._push_check(loaded, target)
        check = ApprovalCheck(
            task.forge, task.item, approval, self.settings.authorize, self.settings.newer_text
        )
        settings = await self._settings_of(task, user)
        if self._recap is None:
            self._recap = await self._read_recap()
        _logger.info("Attempt %d of %d at %s starts", task.state.attempt, task.max_attempts, task.name)
        with tempfile.TemporaryDirectory(prefix="coding-agent-clone-") as folder:
            details, unapproved, repository = await self._checked_clone(
                task, details, check, lambda: self._clone(task, target, push_check, Path(folder))
            )
            mark = self._mark(task)
            over = await self._resumed(repository, mark)
            if over is not None and over.reason is not Reason.COMPLETED:
                return over.model_copy(update={"change_url": details.url})
            project = await self._time.before_work(
                lambda: project_commit(task.forge, details, repository, self.settings.consumer.branch_prefix)
            )
            _logger.info("Instructions and environment are those of the branch %s", project.branch)
            file = await read_environment(repository, project, settings, self.environment)
            if over is not None:
                unknown = not_run(len(settings.verify.commands_of(file)))
                over = over.model_copy(update={"verify": unknown})
                return await self._conclude(task, details, over, repository.branch)
            needs_other_pod = self._needs_other_pod(file, settings)
            if needs_other_pod is not None:
                return needs_other_pod
            settings = with_task_options(
                settings,
                task.item,
                model=self.given.model,
                runner=self._request.runner or file.runner,
                instructions=self.given.instructions,
            )
            author = await self._time.before_work(
                lambda: commit_author(task.forge, settings.consumer.commits)
            )
            publisher, (brief, unapproved) = await both(
                self._time.before_work(
                    lambda: self._publisher(
                        settings, task, details, repository, mark, user=user, author=author
                    )
                ),
                self._brief(
                    settings,
                    task,
                    details,
                    repository,
                    check=check,
                    unapproved=unapproved,
                    author=author,
                    project=project.commit,
                    recap=self._recap,
                ),
            )
            self._work = AgentWork(
                settings,
                task.item.display,
                publisher,
                self._round,
                self._time,
                self.transcripts,
                make_agent=self.make_agent,
                given_allowance=self.given.allowance,
                record=self.record,
                variables=self.variables,
            )
            worked = await self._work.run(brief, file)
            if unapproved.report:
                summary = f"{unapproved.report}\n\n{worked.summary}".strip()
                worked = worked.model_copy(update={"summary": summary})
            worked = await self._answered(worked, repository)
            worked = worked.model_copy(update={"commit": self._commit(repository)})
        outcome = await self._conclude(task, details, worked, publisher.pushed_branch)
        _logger.info("Attempt %d at %s ended: %s", task.state.attempt, task.name, outcome.reason)
        return outcome

    async def _push_check(self, loaded: LoadedItem, target: PushTarget) -> PushCheck:
        """Return the check before each push, after having checked once that the branch may be pushed to.

        A task that must not push thus costs neither a clone nor a model.
        """
        task, prefix = loaded.task, self.settings.consumer.branch_prefix
        of_branch = BranchCheck(task.forge, loaded.details, prefix, target.repository, self.lost)
        await self._time.before_work(lambda: of_branch(target.branch))
        push_check: PushCheck = of_branch
        if loaded.check is not None:
            push_check = _if_wanted(push_check, loaded.check, self.stop)
        return push_check if self._round is None else self._round.push_check(push_check)

    async def _read_recap(self) -> str:
        """Return what earlier attempts did and how the last one ended, for the prompt."""
        earlier = self.given.earlier
        recap = await self.transcripts.begin() or earlier.recap
        if earlier.ended not in recap:  # a transcript does not say how its attempt ended
            recap = f"{recap}\n\n{earlier.ended}".strip()
        return recap

    def _needs_other_pod(self, file: RepositoryFile, settings: Settings) -> Outcome | None:
        """Return the attempt's outcome if its pod is not the one that the repository's file asks for."""
        if self.environment is None or (pod := pod_environment(file, settings)) == self.environment:
            return None
        # The pod cannot change while it runs. Nothing was asked of the model yet, so the attempt does not
        # count.
        message = f"`{ENVIRONMENT_FILE}` asks for a different pod ({pod}); the next attempt gets it."
        return Outcome(reason=Reason.ENVIRONMENT_CHANGED, message=message, environment=pod)

    async def _settings_of(self, task: ForgeTask, user: str) -> Settings:
        """Return the settings with those of the person who asked for the work."""
        if not self.settings.user_config_api.enabled:
            return self.settings
        from coding_agent_consumer.attempt.per_user import settings_for  # noqa: PLC0415 - few installations

        settings = await run_until(lambda: settings_for(self.settings, task.item.platform, user), self.stop)
        scrub_logs(scrub_for(settings, os.environ))  # a person may have a key of their own
        return settings

    async def _refusal(self, task: ForgeTask, user: str) -> str | None:
        return await person_refusal(
            task.forge,
            task.item,
            self._request.trigger,
            user,
            self.settings.authorize,
            own_label_counts=self.settings.own_label_counts,
        )

    async def _clone(
        self, task: ForgeTask, target: PushTarget, push_check: PushCheck, folder: Path
    ) -> BareClone:
        repository = await BareClone.clone(
            partial(task.forge.clone_source, target.repository),
            folder / "clone.git",
            base=target.base,
            branch=target.branch,
            push_check=push_check,
            mirror=self.mirror,
            commits=task.forge.signed_commits(target.repository) if self._forge_signs else None,
        )
        self._cloned = repository.start_point
        continuing = " (continuing)" if repository.resumed else ""
        _logger.info("Cloned %s: branch %s%s", target.repository, target.branch, continuing)
        return repository

    async def _checked_clone(
        self,
        task: ForgeTask,
        details: ItemDetails,
        check: ApprovalCheck,
        clone: Callable[[], Awaitable[BareClone]],
    ) -> tuple[ItemDetails, Unapproved, BareClone]:
        """Return the checked item, its parts that nobody has approved, and a clone of exactly that state.

        1. The check reads a change with the commit of its branch, and who has pushed until then.
        2. Somebody pushes another commit.
        3. The clone fetches that commit. So the change is read and checked again, until the forge shows the
           commit that was cloned.

        Raises:
            NotApprovedError: strangers changed the item after its approval, and the settings refuse that.
        """
        loaded: ItemDetails | None = details

        async def checked() -> tuple[ItemDetails, Unapproved, BareClone]:
            nonlocal loaded
            shown, loaded = loaded or await task.forge.read(task.item), None
            unapproved = await check.revisions(shown)
            repository = await clone()
            if (
                check.at is not None
                and task.item.kind is ItemKind.CHANGE
                and repository.start_point != shown.head_sha
            ):
                raise ForgeUnavailableError(f"The branch of {task.item.display} was pushed to meanwhile")
            return shown, unapproved, repository

        return await self._time.before_work(checked)

    async def _brief(
        self,
        settings: Settings,
        task: ForgeTask,
        details: ItemDetails,
        repository: BareClone,
        *,
        check: ApprovalCheck,
        unapproved: Unapproved,
        author: CommitIdentity,
        project: str,
        recap: str,
    ) -> tuple[Brief, Unapproved]:
        """Build the agent's input, and return it with the parts that nobody has approved.

        Args:
            author: the author of the round's merge.
            project: the commit whose instructions count.
        """
        files = await instruction_files(repository, project)
        round_, images = self._round, tuple[Image, ...]()
        if round_ is not None:
            await self._time.before_work(lambda: round_.prepare(repository, details, author))
            text = round_.prompt(
                details, repository.conflicts, files, recap, shows_strangers=check.shows_strangers
            )
        else:
            conversation, unapproved = await self._time.before_work(
                lambda: self._conversation(task, details, repository, check, unapproved)
            )
            own = await self._time.before_work(task.forge.whoami)
            text = prompt(conversation, unapproved, own_login=own, files=files, recap=recap)
            if settings.llm.images:
                images = await self._time.before_work(lambda: read_images(task.forge, conversation))
        scrub = scrub_for(settings, {**os.environ, **self.variables})
        brief = Brief(
            instructions=instructions(settings),
            prompt=scrub(text),  # a failed check may have printed one of our secrets
            scrub=scrub,
            images=images,
            transcript=self.transcripts.path,
            last_lines=self.transcripts.lines,
        )
        return brief, unapproved

    async def _conversation(
        self,
        task: ForgeTask,
        details: ItemDetails,
        repository: BareClone,
        check: ApprovalCheck,
        unapproved: Unapproved,
    ) -> tuple[Conversation, Unapproved]:
        pushed = repository.branch if repository.resumed else None
        conversation = await read_conversation(task.forge, details, pushed_branch=pushed)
        return await check.conversation(conversation, unapproved)

    async def _approval(self, task: ForgeTask, details: ItemDetails) -> Approval | Outcome:
        """Return the approval of the work, or the attempt's outcome if the person may not ask for it.

        Nobody asks for a round. It decides by itself whose remarks count.
        """
        trigger, given = self._request.trigger.round, self.settings.operator.job
        # A task that a person wrote as an AgentTask has no cause, and may say what they know.
        if self.given.trusted and self._request.trigger.cause is not None and given.depends_on_trust:
            await self._time.before_work(lambda: require_trusted(task.forge, task.item))
        if trigger is None:
            approval = await self._time.before_work(lambda: approval_of(task.forge, task.item, self._request))
            refused = await self._time.before_work(lambda: self._refusal(task, approval.user))
            return approval if refused is None else Outcome(reason=Reason.NOT_AUTHORIZED, message=refused)
        # Other attempts do without the rules of rounds.
        from coding_agent_consumer.rounds.asked_by import round_refusal, round_user  # noqa: PLC0415
        from coding_agent_consumer.rounds.work import RoundWork  # noqa: PLC0415

        refusal = round_refusal(self._request.trigger, enabled=self.settings.rounds.enabled)
        if refusal is not None:
            return refusal
        policy = self.settings.rounds.policy(self.settings.labels(task.item.platform))
        self._round = await self._time.before_work(
            lambda: RoundWork.begin(task.forge, details.item, trigger, policy)
        )
        self._round.charge(self.given.earlier.usage)
        over = None if self._round.moved else self._round.over
        if over is not None:
            return over
        prefix = self.settings.consumer.branch_prefix
        issue = issue_of_branch(details.item, details.head_branch or "", prefix)
        claimed = self._request.user
        user = await self._time.before_work(lambda: round_user(task.forge, details.item, issue, claimed))
        return Approval(user, None)

    def _mark(self, task: ForgeTask) -> WorkMark:
        """Return the mark of this task's finished work, which its next attempt finds after a kill."""
        lines, item, trigger = task.forge.hidden_lines, task.item, self._request.trigger.round
        name = trigger.name_part if trigger is not None else f"task-{identity_hash(self.given.task.uuid)}"
        return WorkMark(name, partial(lines.mac, item), partial(lines.proves, item))

    async def _resumed(self, repository: BareClone, mark: WorkMark) -> Outcome | None:
        """Return the outcome of a task that needs no agent.

        An earlier attempt has pushed the finished work, or no round is due.
        """
        if self._round is not None:
            worked = await self._round.resumed(repository, mark) if self._round.moved else None
            if worked is not None:
                return await self._answered(worked, repository)
            return self._round.over if self._round.moved else None
        # The agent works again after a push by anybody else, and if nothing proves that the commit is ours.
        newest = await repository.newest(1) if repository.resumed else []
        if not any(proven for commit in newest for _, proven in mark.told_in(commit)):
            return None
        _logger.info("An earlier attempt has pushed its finished work: %s", newest[0].id[:12])
        return outcome_of(newest[0])

    async def _answered(self, worked: Outcome, repository: BareClone) -> Outcome:
        """Reply to the remarks that the round has read, and return the outcome that the change shows."""
        if self._round is None:
            return worked
        await self._round.pushed_by(repository)
        await self._round.answer(worked, self._time.after_work)
        return worked.model_copy(update={"summary": self._round.public(worked.summary)})

    async def _publisher(
        self,
        settings: Settings,
        task: ForgeTask,
        details: ItemDetails,
        repository: BareClone,
        mark: WorkMark,
        *,
        user: str,
        author: CommitIdentity,
    ) -> Publisher:
        key = settings.consumer.commits.signing_key
        told = "" if self._round is None else self._round.told
        return Publisher(
            repository=repository,
            author=author,
            title=details.title,
            footer=f"For {task.item.display}: {details.url}",
            mark=lambda tree: mark.line(tree, told),
            asked_by=await co_author(task.forge, user),
            # The summary of the runner `command` is the end of a program's output; it cannot name a commit.
            quotes_summary=settings.consumer.runner is not RunnerName.COMMAND,
            signer=_signer(key) if key else None,
        )

    def _commit(self, repository: BareClone) -> str | None:
        """Return the commit to verify: the last one that this task has pushed; `None` if it pushed none."""
        if repository.pushed != self._cloned:
            return repository.pushed
        return self._cloned if repository.resumed and self._round is None else None

    async def _conclude(
        self, task: ForgeTask, details: ItemDetails, worked: Outcome, branch: str | None
    ) -> Outcome:
        outcome = worked.model_copy(update={"branch": branch})
        if outcome.outcome_class is not ReasonClass.SUCCEEDED:
            return outcome
        if task.item.kind is ItemKind.CHANGE:
            return outcome.model_copy(update={"change_url": details.url})
        if branch is None:
            message = "The agent found nothing to change in the repository."
            return outcome.model_copy(update={"reason": Reason.NOTHING_TO_CHANGE, "message": message})
        # Another consumer has the task now, and it opens the change.
        if self.lost.is_set():
            raise StoppedError
        summary = beginning(worked.summary, _DESCRIPTION_LIMIT)
        # The repository may have been renamed during the work.
        item = await self._time.after_work(lambda: task.forge.locate(task.item))

        async def opened(base: str) -> Change:
            return await task.forge.open_change(
                item,
                branch=branch,
                base=base,
                title=inline(details.title),
                body=f"{quotation(summary)}\n\nCloses #{task.item.number}\n".lstrip(),
                draft=self.settings.rounds.opens_drafts,
            )

        async def opened_now() -> Change:
            try:
                return await opened(details.base_branch)
            except ForgeUnavailableError:
                raise
            except ForgeError:
                # The default branch may have been renamed during the work.
                base = (await task.forge.read(item)).base_branch
                if base == details.base_branch:
                    raise
                return await opened(base)

        change = await self._time.after_work(opened_now)
        return outcome.model_copy(update={"reason": Reason.COMPLETED, "change_url": change.url})


def _if_wanted(push_check: PushCheck, check: RunCheck, stop: asyncio.Event) -> PushCheck:
    """Return a check of pushes that also asks whether people still want the run.

    Args:
        stop: set when the attempt was stopped; then it only saves its work so far on its own branch.
    """

    async def checked(branch: str) -> None:
        # Whoever withdraws the label stops the attempt, and the work so far is promised to be on the branch.
        if not stop.is_set():
            await check()
        await push_check(branch)

    return checked


def _signer(key: Path) -> SshSigner:
    from coding_agent_consumer.repository.ssh_signatures import SshSigner  # noqa: PLC0415 - see that module

    return SshSigner.load(key)
