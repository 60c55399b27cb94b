# The local cluster (dev/testbed): one target per habit. Included by the Makefile at the top.
CLUSTER ?= $(PY) -m coding_agent_testbed.cluster

.PHONY: control-plane control-plane-down test-parts
.PHONY: cluster cluster-down cluster-status node-parts sweep-parts node-images try gitea

control-plane: venv ## start an API server with its controllers but no node; prints KUBECONFIG=FILE
	@$(CLUSTER) control-plane up

control-plane-down: venv ## stop the API server and its controllers
	@$(CLUSTER) control-plane down

cluster: venv ## start a Kubernetes cluster with one node (Linux, root); prints KUBECONFIG=FILE
	@$(CLUSTER) up

cluster-down: venv ## stop the cluster and remove everything that it left
	@$(CLUSTER) down

cluster-status: venv ## show what runs, and how to point kubectl at it
	@$(CLUSTER) status

node-images: venv ## build the images and load them into the cluster's node; `make try` then installs them
	@$(CLUSTER) images

try: venv ## take the steps of the quick start in a cluster, with a sandbox forge and a scripted model; prints the address to open (RUNTIME=gvisor; Linux, root)
	@$(CLUSTER) try $(if $(RUNTIME),--runtime $(RUNTIME))

gitea: venv ## build Gitea, a forge that this project did not write; `make e2e` and `make nightly` do so too
	@$(CLUSTER) build gitea

# Built before the tests rather than by the first one that needs them: each test has a time limit.
test-parts: venv
	@$(CLUSTER) prepare test

node-parts: venv
	@$(CLUSTER) prepare e2e

sweep-parts: venv
	@$(CLUSTER) prepare sweep
