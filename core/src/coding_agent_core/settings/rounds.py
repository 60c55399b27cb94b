"""Settings of rounds: what the agent does on a change after it has opened it (docs/decisions/0029)."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.section import Count, Duration, Interval, PositiveCount, Section
from coding_agent_core.task.round_cause import RoundPolicy
from coding_agent_core.task.usage import Allowance


class Rounds(Section):
    """The agent works again on a change that it opened, after reviews, failed checks or conflicts."""

    enabled: bool = False
    """Whether there are rounds."""
    interval: Interval = 60.0
    """Seconds between two scans of the open changes of one forge.

    A webhook causes a scan of its change at once; comments of strangers cause at most one a minute."""
    check_rounds: Count = 3
    """Maximum number of rounds for failed checks, until a person acts."""
    review_rounds: Count = 5
    """Maximum number of rounds for reviews, until a person asks for more with a mention, a command, the label
    or a push."""
    conflict_rounds: Count = 2
    """Maximum number of rounds for conflicts with the base branch, until a person acts."""
    budget: Allowance | None = None
    """The most that all rounds of a change may spend together, until a person asks for more with a mention, a
    command, the label or a push. It is money or tokens, as in `budgets.task`, which limits each round too."""
    review_quiet: Duration = 60.0
    """Seconds for which nobody may have written before a round answers."""
    checks_quiet: Duration = 30.0
    """Seconds for which all checks must have ended, because new ones may appear until then."""
    check_hangs_after: Interval = 7200.0
    """Seconds for which a check may wait or run before a round no longer waits for it."""
    max_age_days: int = Field(default=30, ge=1, le=3650)
    """Days after which there are no rounds on a change on which nobody with write access did anything."""
    hands_off_label: str = Field(default="coding agent hands off", min_length=1, max_length=100)
    """A change with this label has no rounds."""
    bots: tuple[str, ...] = ()
    """Logins of bots whose reviews cause rounds."""
    programs: tuple[str, ...] = ()
    """Logins of programs with a person's account, for example a formatter that pushes to the branch. Nothing
    that they do starts a count anew. `kubectl agenttask doctor` names accounts that seem to be programs."""
    daily_rounds: PositiveCount = 20
    """Maximum number of rounds of a change within 24 hours, whoever asks for more."""
    approvals_count: bool = False
    """Whether the text of an approving review causes a round; its threads always do."""
    resolve_threads: bool = False
    """Whether a round resolves the threads for which it has changed something. By default, people do."""

    draft: bool = False
    """Whether the agent opens its changes as drafts, and marks each as ready once its checks have passed."""

    @property
    def opens_drafts(self) -> bool:
        """Whether a new change is a draft. Without rounds, nobody would mark it as ready."""
        return self.enabled and self.draft

    def policy(self, labels: Labels) -> RoundPolicy:
        """Return the rules of rounds on a forge with these labels."""
        return RoundPolicy(
            check_rounds=self.check_rounds,
            review_rounds=self.review_rounds,
            conflict_rounds=self.conflict_rounds,
            review_quiet=timedelta(seconds=self.review_quiet),
            checks_quiet=timedelta(seconds=self.checks_quiet),
            check_hangs_after=timedelta(seconds=self.check_hangs_after),
            max_age=timedelta(days=self.max_age_days),
            hands_off_label=self.hands_off_label,
            trigger_labels=frozenset(labels.triggers),
            bots=frozenset(self.bots),
            programs=frozenset(self.programs),
            daily_rounds=self.daily_rounds,
            approvals_count=self.approvals_count,
            resolve_threads=self.resolve_threads,
            budget=self.budget,
            draft=self.draft,
        )
