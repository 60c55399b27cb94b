"""The reporter shows the state of AgentTasks on their items: labels and a comment (docs/decisions/0014).

`item_plan` and `report` contain the rules, `reconcile` applies them to one task, `forge_worker` queues the
tasks of one forge, and `program` connects everything to the cluster.
"""
