"""The workspace: a program that runs the model's commands in its own tree, and the agent's client of it."""
