"""An OpenAI-compatible server that plays scripts: for the demo and the tests, never for production."""

from coding_agent_model.script import Script, load_scripts
from coding_agent_model.server import ModelServer, create_app

__all__ = ["ModelServer", "Script", "create_app", "load_scripts"]
