"""AgentTasks on a Kubernetes API server.

`transport` sends requests, `agenttasks` is the client for AgentTasks, `task_sink` stores what the receiver
admits, `runs` holds the pure rules about an item's runs. Nothing is imported here: the rules need no client.
"""
