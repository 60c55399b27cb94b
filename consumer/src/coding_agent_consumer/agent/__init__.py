"""The built-in agent, and what it shares with the runners: models and failures."""
