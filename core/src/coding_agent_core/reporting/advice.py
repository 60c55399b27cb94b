"""What a person can do about a failure, by its reason. Pure."""

from __future__ import annotations

from coding_agent_core.outcome import Reason

_ADVICE: dict[str, str] = {
    Reason.CANNOT_BE_DONE: "Say in the description or in a comment what is missing.",
    Reason.MODEL_UNAVAILABLE: "The model's provider did not answer often enough; later it may.",
    Reason.MODEL_REFUSED: "The model's address, name and key are set in the section `llm`.",
    Reason.MODEL_MALFORMED: "Another model, set in the section `llm`, may do better with tools.",
    Reason.FORGE_UNAVAILABLE: "The forge did not answer often enough; later it may.",
    Reason.FORGE_REFUSED: "The bot's account needs the right to push to this repository, and a token that "
    "has not ended.",
    Reason.BUDGET_EXHAUSTED: "A smaller task, or a larger `max_llm_process_num`, may do.",
    Reason.DEADLINE_EXCEEDED: "A smaller task, or a larger `consumer.timeout_seconds`, may do.",
    Reason.TOOL_FAILING: "If it is the tool of an MCP server, look at that server (`mcp_servers`).",
    Reason.INTERNAL: "This is a defect of the bot; its administrator finds the trace in the attempt's log.",
    Reason.CONFIGURATION: "The administrator of this bot has to mend its configuration.",
    "OOMKilled": "It needs more memory than the attempt's pod may use (`operator.job`).",
    "Evicted": "It needs more disk space than the attempt's pod may use (`operator.job`).",
    "Unschedulable": "The cluster has to get room for it.",
    "ErrImagePull": "The administrator of this bot has to look at the attempt's image.",
    "InvalidImage": "The administrator of this bot has to look at the attempt's image.",
    "CreateContainerError": "The administrator of this bot has to look at the attempt's image.",
    "CreateContainerConfigError": "The administrator of this bot has to look at its Secrets.",
    "PodNotReadyToStart": "The administrator of this bot has to look at its Secrets and volumes.",
    "PodNotCreated": "The administrator of this bot has to see why the cluster takes no pod of it.",
}


def advice(reason: str | None) -> str:
    """A sentence, empty where nothing better than trying again is known."""
    return _ADVICE.get(reason or "", "")
