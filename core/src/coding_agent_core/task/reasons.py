"""The reasons why an attempt or a task ends, with their consequences in the table `REASONS`.

To add a reason, add a member and its row, and describe it in docs/troubleshooting.md; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit status of an attempt; the numbers are those of sysexits.h where it has one."""

    DONE = 0
    CANNOT = 65
    TEMPORARY = 75
    REFUSED = 77
    CONFIGURATION = 78
    CANCELLED = 143


class ReasonClass(StrEnum):
    """The consequence of a reason."""

    SUCCEEDED = "succeeded"
    TRANSIENT = "transient"
    """Another attempt can help."""
    PERMANENT = "permanent"
    OUT_OF_BUDGET = "out-of-budget"
    RESTARTED = "restarted"
    """The work did not begin in this attempt: another one starts, and this one does not count."""
    DISRUPTED = "disrupted"
    """The cluster removed the pod: another attempt starts, and this one does not count."""
    CANCELLED = "cancelled"

    @property
    def retried(self) -> bool:
        return self in (ReasonClass.TRANSIENT, ReasonClass.RESTARTED, ReasonClass.DISRUPTED)

    @property
    def counted(self) -> bool:
        """Whether the attempt counts against the task's maximum."""
        return self not in (ReasonClass.RESTARTED, ReasonClass.DISRUPTED, ReasonClass.CANCELLED)


class Patience(StrEnum):
    """The operator's patience with a waiting pod, in seconds: attributes of its `AttemptPolicy`."""

    IMAGE = "image_after"
    CONFIG = "config_after"
    SCHEDULING = "unschedulable_after"


class Reason(StrEnum):
    """Reasons that an attempt reports, in CamelCase like the reasons of Kubernetes conditions."""

    COMPLETED = "Completed"
    NOTHING_TO_CHANGE = "NothingToChange"
    SUPERSEDED = "Superseded"
    CANNOT_BE_DONE = "CannotBeDone"
    CHANGE_REFUSED = "ChangeRefused"
    VERIFY_FAILED = "VerifyFailed"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    MODEL_REFUSED = "ModelRefused"
    MODEL_MALFORMED = "ModelMalformed"
    FORGE_UNAVAILABLE = "ForgeUnavailable"
    FORGE_DOWN = "ForgeDown"
    FORGE_REFUSED = "ForgeRefused"
    FORGE_REJECTED = "ForgeRejected"
    FORGE_CONFLICT = "ForgeConflict"
    BRANCH_MOVED = "BranchMoved"
    NOT_AUTHORIZED = "NotAuthorized"
    NOT_APPROVED = "NotApproved"
    ITEM_GONE = "ItemGone"
    BRANCH_GONE = "BranchGone"
    SOURCE_REPOSITORY_GONE = "SourceRepositoryGone"
    PUSH_NOT_ALLOWED = "PushNotAllowed"
    LIMIT_REACHED = "LimitReached"
    BUDGET_EXCEEDED = "BudgetExceeded"
    TOOL_FAILING = "ToolFailing"
    RUNNER_FAILED = "RunnerFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    WORKSPACE_FAILED = "WorkspaceFailed"
    CONFIGURATION = "Configuration"
    ENVIRONMENT_REFUSED = "EnvironmentRefused"
    ENVIRONMENT_CHANGED = "EnvironmentChanged"
    CANCELLED = "Cancelled"
    WITHDRAWN = "Withdrawn"
    INTERNAL = "InternalError"


class PodReason(StrEnum):
    """Reasons that the operator concludes from a Job and its pods if the attempt reports none."""

    TEMPORARY = "Temporary"
    STOPPED = "Stopped"
    CRASHED = "Crashed"
    OOM_KILLED = "OOMKilled"
    STORAGE_EXCEEDED = "StorageExceeded"
    INIT_FAILED = "InitFailed"
    POD_LOST = "PodLost"
    JOB_DEADLINE_EXCEEDED = "JobDeadlineExceeded"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    NODE_RESTARTED = "NodeRestarted"
    DISRUPTED = "Disrupted"
    POD_NOT_ENDING = "PodNotEnding"
    SUSPENDED = "Suspended"
    JOB_DELETED = "JobDeleted"
    SUPERFLUOUS = "Superfluous"
    UNSCHEDULABLE = "Unschedulable"
    POD_NOT_CREATED = "PodNotCreated"
    ERR_IMAGE_PULL = "ErrImagePull"
    INVALID_IMAGE = "InvalidImage"
    CREATE_CONTAINER_ERROR = "CreateContainerError"
    CREATE_CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"
    POD_NOT_READY_TO_START = "PodNotReadyToStart"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason
    TOO_MANY_ATTEMPTS = "TooManyAttempts"


@dataclass(frozen=True)
class ReasonFacts:
    """The consequences of a reason.

    Attributes:
        outcome_class: the class of the reason, which decides what follows.
        message: the message for the person who applied the label, if the attempt reports none.
        advice: what a person can do; shown on the item of a failed task.
        exit_code: the exit code of an attempt that reports this reason; `None` if the operator concludes it.
        patience: how long the operator waits for a pod that does not start for this reason, if it does.
        anchor: the section of docs/troubleshooting.md that describes the reason.
    """

    outcome_class: ReasonClass
    message: str
    advice: str
    exit_code: ExitCode | None = None
    patience: Patience | None = None
    anchor: str = "failed"


_IMAGE = "The administrator of this bot has to check the attempt's image."
_NODES = "The administrator of this bot can look up the cause in the nodes' events."
_LATER = "The problem may be gone in a few minutes."
_NOT_STARTING = "running-but-nothing-comes-of-it"

REASONS: Mapping[str, ReasonFacts] = {
    Reason.COMPLETED: ReasonFacts(
        ReasonClass.SUCCEEDED, "The task is done.", "There is nothing to do.", ExitCode.DONE
    ),
    Reason.NOTHING_TO_CHANGE: ReasonFacts(
        ReasonClass.SUCCEEDED, "There is nothing to change.", "There is nothing to do.", ExitCode.DONE
    ),
    Reason.SUPERSEDED: ReasonFacts(
        ReasonClass.SUCCEEDED,
        "The round's cause is gone, or somebody else has pushed.",
        "There is nothing to do. If something is left, another round starts.",
        ExitCode.DONE,
    ),
    Reason.CANNOT_BE_DONE: ReasonFacts(
        ReasonClass.PERMANENT,
        "The task cannot be done as asked.",
        "Say in the description or in a comment what is missing.",
        ExitCode.CANNOT,
    ),
    Reason.CHANGE_REFUSED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The agent's change cannot be committed.",
        "The message says what is wrong with it. Say in a comment what to leave out, then try again.",
        ExitCode.CANNOT,
    ),
    Reason.VERIFY_FAILED: ReasonFacts(
        ReasonClass.PERMANENT,
        "Commands that check the work still fail.",
        "The work is on the task's branch. Look at what fails, or say in a comment how to fix it.",
        ExitCode.CANNOT,
    ),
    Reason.MODEL_UNAVAILABLE: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The model could not be reached.",
        f"The model's provider repeatedly failed to answer. {_LATER}",
        ExitCode.TEMPORARY,
    ),
    Reason.MODEL_REFUSED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The model refused the agent's requests.",
        "The administrator of this bot has to check the model's address, name and key.",
        ExitCode.CONFIGURATION,
    ),
    Reason.MODEL_MALFORMED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The model's answers could not be used.",
        "Another model may use tools more reliably; the section `llm` sets the model.",
        ExitCode.CANNOT,
    ),
    Reason.FORGE_UNAVAILABLE: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The forge could not be reached.",
        f"The forge repeatedly failed to answer. {_LATER}",
        ExitCode.TEMPORARY,
    ),
    Reason.FORGE_DOWN: ReasonFacts(
        ReasonClass.RESTARTED,
        "The forge could not be reached, so the work did not begin.",
        "There is nothing to do: attempts that did not begin do not count.",
        ExitCode.TEMPORARY,
    ),
    Reason.BRANCH_MOVED: ReasonFacts(
        ReasonClass.TRANSIENT,
        "Somebody else pushed to the branch during the attempt.",
        "The agent overwrites nobody's work. Push to the branch when no attempt runs.",
        ExitCode.TEMPORARY,
    ),
    Reason.FORGE_REFUSED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The forge refused one of the agent's requests.",
        "Check that the bot's account may push to this repository, and that its token has not expired.",
        ExitCode.REFUSED,
    ),
    Reason.FORGE_REJECTED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The forge did not accept one of the agent's requests.",
        "The message has the forge's words. If they name no setting or rule of yours, please report them.",
        ExitCode.REFUSED,
    ),
    Reason.FORGE_CONFLICT: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The forge could not accept one of the agent's requests in its present state.",
        f"The message has the forge's words. {_LATER}",
        ExitCode.TEMPORARY,
    ),
    Reason.NOT_AUTHORIZED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The person who applied the label is not allowed to start a task.",
        "Somebody who has the required access can apply the label.",
        ExitCode.REFUSED,
    ),
    Reason.NOT_APPROVED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The item was changed after the label was applied, by somebody who is not allowed to apply it.",
        "Read what was changed, and apply the label again to approve it.",
        ExitCode.REFUSED,
    ),
    Reason.ITEM_GONE: ReasonFacts(
        ReasonClass.PERMANENT,
        "The item no longer exists, or it is closed.",
        "Reopen it, or give the bot's account access to it.",
        ExitCode.CANNOT,
    ),
    Reason.BRANCH_GONE: ReasonFacts(
        ReasonClass.PERMANENT,
        "A branch that the task starts from was deleted or renamed.",
        "Restore the branch that the message names, or give the change another base branch.",
        ExitCode.CANNOT,
    ),
    Reason.SOURCE_REPOSITORY_GONE: ReasonFacts(
        ReasonClass.PERMANENT,
        "The repository that holds the change's branch was deleted, or the bot's account cannot see it.",
        "Restore that repository or give the bot's account access to it, or open a new change from a branch "
        "of this repository.",
        ExitCode.CANNOT,
    ),
    Reason.PUSH_NOT_ALLOWED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The agent must not push to the branch of this task.",
        "It never pushes to a repository's default branch or to a protected branch. Use another branch.",
        ExitCode.REFUSED,
    ),
    Reason.LIMIT_REACHED: ReasonFacts(
        ReasonClass.OUT_OF_BUDGET,
        "The agent reached a limit on its requests, on the model's context, or on repeated steps.",
        "The message says which limit. A smaller task may help, or a larger `max_llm_process_num`.",
        ExitCode.CANNOT,
    ),
    Reason.BUDGET_EXCEEDED: ReasonFacts(
        ReasonClass.OUT_OF_BUDGET,
        "The attempt spent everything that it may spend on the model.",
        "A smaller task, or a larger budget, may help.",
        ExitCode.CANNOT,
    ),
    Reason.TOOL_FAILING: ReasonFacts(
        ReasonClass.PERMANENT,
        "One of the agent's tools failed again and again.",
        "If it is the tool of an MCP server, check that server (`mcp_servers`).",
        ExitCode.CANNOT,
    ),
    Reason.RUNNER_FAILED: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The coding agent's program ended before its work was done.",
        "The message says how it ended, and the attempt's log shows its last steps.",
        ExitCode.TEMPORARY,
    ),
    Reason.DEADLINE_EXCEEDED: ReasonFacts(
        ReasonClass.OUT_OF_BUDGET,
        "The attempt took longer than the task's time limit.",
        "A smaller task, or a larger `consumer.timeout_seconds`, may help.",
        ExitCode.CANNOT,
    ),
    Reason.WORKSPACE_FAILED: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The workspace, where the agent runs commands, stopped or does not answer.",
        "It may need more memory (`operator.job`). The log of the container `workspace` says more.",
        ExitCode.TEMPORARY,
    ),
    Reason.CONFIGURATION: ReasonFacts(
        ReasonClass.PERMANENT,
        "The agent is not configured correctly.",
        "The administrator of this bot has to correct its configuration.",
        ExitCode.CONFIGURATION,
    ),
    Reason.ENVIRONMENT_REFUSED: ReasonFacts(
        ReasonClass.PERMANENT,
        "The repository's `.coding-agent.yaml` cannot be used.",
        "The message names the field and what to change.",
        ExitCode.CONFIGURATION,
    ),
    Reason.ENVIRONMENT_CHANGED: ReasonFacts(
        ReasonClass.RESTARTED,
        "The attempt's pod does not have the environment that the repository asks for.",
        "Try again once nobody is changing `.coding-agent.yaml`.",
        ExitCode.TEMPORARY,
    ),
    Reason.CANCELLED: ReasonFacts(
        ReasonClass.CANCELLED, "The task was cancelled.", "There is nothing to do.", ExitCode.CANCELLED
    ),
    Reason.WITHDRAWN: ReasonFacts(
        ReasonClass.CANCELLED,
        "The label was removed, or the item was closed.",
        "Apply the label again to start another run.",
        ExitCode.CANCELLED,
    ),
    Reason.INTERNAL: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The agent failed because of a defect.",
        "This is a defect in the bot. Its administrator can find the stack trace in the attempt's log.",
        ExitCode.TEMPORARY,
    ),
    PodReason.TEMPORARY: ReasonFacts(
        ReasonClass.TRANSIENT, "The model or the forge could not be reached.", _LATER
    ),
    PodReason.STOPPED: ReasonFacts(ReasonClass.DISRUPTED, "The attempt was stopped from outside.", _NODES),
    PodReason.CRASHED: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The agent ended unexpectedly.",
        "The administrator of this bot can find the cause in the attempt's log.",
    ),
    PodReason.OOM_KILLED: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The attempt needed more memory than it is allowed.",
        "The administrator of this bot can give attempts more memory (`operator.job`).",
    ),
    PodReason.STORAGE_EXCEEDED: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The attempt needed more disk space than it is allowed.",
        "The administrator of this bot can give attempts more disk space (`operator.job`).",
    ),
    PodReason.INIT_FAILED: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The attempt's pod could not be prepared: one of its init containers failed.",
        _IMAGE,
    ),
    PodReason.POD_LOST: ReasonFacts(
        ReasonClass.TRANSIENT, "The attempt failed, and its pod is gone, so the cause is unknown.", _NODES
    ),
    # If the agent used up its time, its own clock or its pod's deadline ended it long before this deadline.
    PodReason.JOB_DEADLINE_EXCEEDED: ReasonFacts(
        ReasonClass.DISRUPTED,
        "The attempt was interrupted or kept waiting so long that its Job's time ran out.",
        _NODES,
    ),
    PodReason.PREEMPTED: ReasonFacts(
        ReasonClass.DISRUPTED, "A pod of higher priority took the attempt's place.", _NODES
    ),
    PodReason.EVICTED: ReasonFacts(
        ReasonClass.DISRUPTED,
        "The attempt's node was drained, ran out of resources or was shut down.",
        _NODES,
    ),
    PodReason.NODE_LOST: ReasonFacts(
        ReasonClass.DISRUPTED, "The attempt's node was lost or removed.", _NODES
    ),
    PodReason.NODE_RESTARTED: ReasonFacts(
        ReasonClass.DISRUPTED, "The attempt's node restarted during the attempt.", _NODES
    ),
    PodReason.DISRUPTED: ReasonFacts(ReasonClass.DISRUPTED, "The cluster removed the attempt's pod.", _NODES),
    PodReason.POD_NOT_ENDING: ReasonFacts(
        ReasonClass.DISRUPTED,
        "The attempt's pod does not terminate.",
        "Its node does not answer. Bring the node back or remove it from the cluster.",
        anchor=_NOT_STARTING,
    ),
    PodReason.SUSPENDED: ReasonFacts(
        ReasonClass.DISRUPTED, "The task was suspended.", "Resume it with `kubectl agenttask resume`."
    ),
    PodReason.JOB_DELETED: ReasonFacts(
        ReasonClass.DISRUPTED,
        "The attempt's Job was deleted.",
        "Somebody with access to the cluster deleted it.",
    ),
    PodReason.SUPERFLUOUS: ReasonFacts(
        ReasonClass.DISRUPTED, "Another attempt was running.", "There is nothing to do."
    ),
    PodReason.UNSCHEDULABLE: ReasonFacts(
        ReasonClass.DISRUPTED,
        "No node in the cluster could run the attempt.",
        "The cluster needs a node with room for it.",
        patience=Patience.SCHEDULING,
        anchor=_NOT_STARTING,
    ),
    PodReason.POD_NOT_CREATED: ReasonFacts(
        ReasonClass.DISRUPTED,
        "The cluster did not create the attempt's pod; the Job's events say why.",
        "The administrator of this bot has to find out why the cluster does not accept its pods.",
        patience=Patience.SCHEDULING,
        anchor=_NOT_STARTING,
    ),
    PodReason.ERR_IMAGE_PULL: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The agent's image could not be pulled.",
        _IMAGE,
        patience=Patience.IMAGE,
        anchor=_NOT_STARTING,
    ),
    PodReason.INVALID_IMAGE: ReasonFacts(
        ReasonClass.PERMANENT, "The agent's image cannot be used.", _IMAGE, patience=Patience.CONFIG
    ),
    PodReason.CREATE_CONTAINER_ERROR: ReasonFacts(
        ReasonClass.TRANSIENT, "The agent's container could not be started.", _IMAGE, patience=Patience.IMAGE
    ),
    PodReason.CREATE_CONTAINER_CONFIG_ERROR: ReasonFacts(
        ReasonClass.PERMANENT,
        "A Secret or ConfigMap that the agent needs is missing.",
        "The administrator of this bot has to check its Secrets.",
        patience=Patience.CONFIG,
        anchor=_NOT_STARTING,
    ),
    PodReason.POD_NOT_READY_TO_START: ReasonFacts(
        ReasonClass.TRANSIENT,
        "The attempt's pod could not be set up: one of its volumes is missing, or the node's container "
        "runtime refuses it. The pod's events name the cause.",
        "The administrator of this bot has to check its volumes, its RuntimeClasses and its nodes.",
        patience=Patience.IMAGE,
        anchor=_NOT_STARTING,
    ),
    PodReason.SECRET_MISSING: ReasonFacts(
        ReasonClass.DISRUPTED,
        "The attempt is waiting for a Secret that does not exist.",
        "The administrator of this bot has to create it.",
        patience=Patience.SCHEDULING,
        anchor=_NOT_STARTING,
    ),
    PodReason.TOO_MANY_ATTEMPTS: ReasonFacts(
        ReasonClass.PERMANENT,
        "Too many attempts were started, most of them disrupted.",
        "The administrator of this bot has to check the nodes.",
    ),
}


def advice(reason: str | None) -> str:
    """Return what a person can do about a failure; empty for an unknown reason."""
    facts = REASONS.get(reason or "")
    return facts.advice if facts else ""
