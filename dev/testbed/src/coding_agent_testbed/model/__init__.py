"""A model server that answers from scripts, for the demo and the tests, never for production.

It speaks the wire formats of Anthropic, OpenAI and Google.
"""

from coding_agent_testbed.model.script import Script, load_scripts
from coding_agent_testbed.model.server import ModelServer, create_app

__all__ = ["ModelServer", "Script", "create_app", "load_scripts"]
