"""The queue that is a Kubernetes cluster: one AgentTask for each application of the label.

`sink` is the queue, `facts` its pure rules, `api` its requests, `access` its credentials. There is no source:
the operator starts the attempts. Nothing is imported here, so that the rules can be had without the client.
"""
