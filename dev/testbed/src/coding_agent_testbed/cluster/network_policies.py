"""NetworkPolicy that is enforced: kube-network-policies (https://sigs.k8s.io/kube-network-policies).

It decides about the first packet of each connection, which the node's firewall hands it through a queue.
"""

from coding_agent_testbed.cluster import sandbox, system_images
from coding_agent_testbed.cluster.cluster import Cluster
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.manifests import manifest
from coding_agent_testbed.cluster.network import Network
from coding_agent_testbed.cluster.pki import NODE_NAME
from coding_agent_testbed.cluster.progress import step

_QUEUE = 100


def firewall_rules(network: Network) -> list[list[str]]:
    """iptables' arguments for handing first packets of pods to the queue.

    The program would do this with nftables, whose queue expression not every kernel has (CONFIG_NFT_QUEUE);
    iptables' NFQUEUE target is far older. The node's own packets, such as the kubelet's probes, pass, as
    the NetworkPolicy API demands of traffic between a node and its pods.
    """
    table = ["-t", "mangle"]
    append = [*table, "-A", "POSTROUTING"]
    queue = ["-j", "NFQUEUE", "--queue-num", str(_QUEUE)]
    return [
        [*table, "-F", "POSTROUTING"],
        [*append, "-m", "owner", "--uid-owner", "0", "-j", "ACCEPT"],
        [*append, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"],
        [*append, "-s", network.pods, *queue],
        [*append, "-d", network.pods, *queue],
    ]


def enable(cluster: Cluster) -> None:
    """Enforce NetworkPolicies from now on; builds the program when the cache lacks it."""
    image, archive = system_images.part_image("kube-network-policies")
    with step("network policies"):
        cluster.node.import_image(archive)
        text = manifest("network-policies", IMAGE=image, NODE=NODE_NAME, QUEUE=str(_QUEUE))
        kubectl = cluster.access.kubectl
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        kubectl("-n", "kube-system", "rollout", "status", "daemonset/network-policies", "--timeout=110s")
        # Only now: a queue that nobody reads drops what it is given.
        inside = sandbox.enter(cluster.processes)
        for rule in firewall_rules(cluster.network):
            run([*inside, "iptables", "-w", "10", *rule])


def is_enabled(cluster: Cluster) -> bool:
    """Whether the firewall hands packets over."""
    listing = run([*sandbox.enter(cluster.processes), "iptables", "-w", "10", "-t", "mangle", "-S"])
    return "NFQUEUE" in listing
