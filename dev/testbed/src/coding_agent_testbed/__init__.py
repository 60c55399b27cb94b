"""Sandbox forges, a real Gitea, a scripted model, a local Kubernetes cluster and benchmarks."""
