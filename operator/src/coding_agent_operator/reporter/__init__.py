"""The reporter: mirrors AgentTasks to labels and one comment on their items (docs/decisions/0014).

`decide` and `report_of` hold the rules, `mirror` does one look at one task, `engine` says when to look.
"""
