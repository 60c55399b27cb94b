"""Any other program, by the command line of `consumer.command`.

It gets the prompt on its standard input and, in its environment, the gateway in the variables that most
clients know. Its output is the log of its work, and the end of it the summary.
"""

from __future__ import annotations

from collections.abc import Sequence

from coding_agent_consumer.runners import Launch, Order, Runner
from coding_agent_consumer.workspace.protocol import ProcessSpec


def runner_of(command: Sequence[str]) -> Runner:
    """The runner of a command line."""

    def launch(order: Order) -> Launch:
        openai = f"{order.url}/v1"
        env = {
            "ANTHROPIC_BASE_URL": order.url,
            "ANTHROPIC_AUTH_TOKEN": order.credential,
            "ANTHROPIC_API_KEY": order.credential,
            "OPENAI_BASE_URL": openai,
            "OPENAI_API_BASE": openai,
            "OPENAI_API_KEY": order.credential,
            "GOOGLE_GEMINI_BASE_URL": order.url,
            "GEMINI_API_KEY": order.credential,
            "CODING_AGENT_MODEL": order.model,
            "CODING_AGENT_INSTRUCTIONS": order.instructions,
        }
        return Launch(ProcessSpec(tuple(command), env), order.prompt)

    return Runner("command", None, launch, None)
