"""A real Kubernetes on this machine, for development, tests and benchmarks.

Two shapes share the same parts: a control plane alone (``control_plane``), plain processes on free ports
that need no privilege, and a whole cluster (``cluster``), a control plane and one node inside Linux
namespaces of their own. ``docs/development.md`` is the guide; ``docs/decisions/0004-local-cluster.md`` says
why it is built this way.
"""
