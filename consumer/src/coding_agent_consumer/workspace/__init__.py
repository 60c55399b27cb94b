"""The workspace: a program that runs the model's commands in a tree of its own, and the client the agent holds."""
