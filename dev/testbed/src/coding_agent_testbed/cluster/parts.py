"""What can be built: each part is one binary from one of the pinned modules under ``dev/testbed/go``."""

from dataclasses import dataclass, field

from coding_agent_testbed.cluster.errors import BuildError

KUBERNETES = "k8s.io/kubernetes"


@dataclass(frozen=True)
class Module:
    """A folder below ``dev/testbed/go`` whose go.mod and go.sum pin everything that its parts need.

    ``anchor`` is the Go module whose version is the version of the parts; ``version_variable`` the variable
    that the linker sets to it, so that the binary reports it. ``data`` are folders of the anchor's sources
    that its programs read at run time: they are copied beside the binaries.
    """

    name: str
    anchor: str
    version_variable: str = ""
    tags: str = ""
    cgo: bool = False
    data: tuple[str, ...] = field(default=(), repr=False)  # what a module is built from includes its repr


@dataclass(frozen=True)
class Part:
    """A binary: its name, the module that it is built in, and its Go package."""

    name: str
    module: str
    package: str


_CONTAINERD = "github.com/containerd/containerd/v2"
_CNI = "github.com/containernetworking/plugins/plugins"
_COMPOSE = "github.com/docker/compose/v5"
_PROMETHEUS = "github.com/prometheus/prometheus"
_CADDY = "github.com/caddyserver/caddy/v2"
_GITEA = "gitea.dev"
_GVISOR = "gvisor.dev/gvisor"

MODULES: dict[str, Module] = {
    m.name: m
    for m in (
        # etcd is built in Kubernetes' module: they share gRPC and the etcd client, so both compile faster.
        Module("kubernetes", KUBERNETES, "k8s.io/component-base/version.gitVersion"),
        Module(
            "containerd",
            _CONTAINERD,
            f"{_CONTAINERD}/version.Version",
            tags="no_btrfs,no_devmapper,no_zfs",
        ),
        Module("runc", "github.com/opencontainers/runc", "main.version", tags="seccomp", cgo=True),
        # A runtime that gives a pod a kernel of its own. Its branch `go` has what Bazel generates.
        Module("gvisor", _GVISOR, f"{_GVISOR}/runsc/version.version"),
        Module("cni", "github.com/containernetworking/plugins"),
        Module("coredns", "github.com/coredns/coredns"),
        Module("helm", "helm.sh/helm/v4", "helm.sh/helm/v4/internal/version.version"),
        Module("metrics-server", "sigs.k8s.io/metrics-server"),
        Module("kwok", "sigs.k8s.io/kwok", "sigs.k8s.io/kwok/pkg/consts.Version"),
        Module("network-policies", "sigs.k8s.io/kube-network-policies"),
        Module("contour", "github.com/projectcontour/contour"),
        Module("kueue", "sigs.k8s.io/kueue"),
        Module("vegeta", "github.com/tsenart/vegeta/v12"),
        Module("gofakes3", "github.com/johannesboyne/gofakes3"),
        # What the chart is checked with.
        Module("helm-unittest", "github.com/helm-unittest/helm-unittest"),
        Module("helm-docs", "github.com/norwoodj/helm-docs"),
        Module("kubeconform", "github.com/yannh/kubeconform", "main.version"),
        Module("kube-score", "github.com/zegl/kube-score"),
        # What the workflow of CI is checked with.
        Module("actionlint", "github.com/rhysd/actionlint"),
        Module(
            "prometheus",
            _PROMETHEUS,
            "github.com/prometheus/common/version.Version",
            # Checks rules and asks no cloud for targets: those SDKs are left out.
            tags="remove_all_sd",
        ),
        # No programs of these: for the schemas of the objects that they know.
        Module("prometheus-operator", "github.com/prometheus-operator/prometheus-operator"),
        Module("argo-cd", "github.com/argoproj/argo-cd/v3"),
        Module("flux-helm-controller", "github.com/fluxcd/helm-controller"),
        Module("flux-source-controller", "github.com/fluxcd/source-controller"),
        Module("compose", _COMPOSE, f"{_COMPOSE}/internal.Version"),
        Module("caddy", _CADDY, f"{_CADDY}.CustomVersion"),
        # cosign signs a release; the tests publish it to the registry.
        Module("cosign", "github.com/sigstore/cosign/v3"),
        Module("registry", "github.com/distribution/distribution/v3"),
        # A forge that this project did not write. Its SQLite is in Go (modernc.org/sqlite).
        Module("gitea", _GITEA, "main.Version", data=("options", "public", "templates", "web_src/css")),
    )
}

PARTS: dict[str, Part] = {
    p.name: p
    for p in (
        Part("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
        *(
            Part(name, "kubernetes", f"{KUBERNETES}/cmd/{name}")
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            )
        ),
        Part("containerd", "containerd", f"{_CONTAINERD}/cmd/containerd"),
        Part("containerd-shim-runc-v2", "containerd", f"{_CONTAINERD}/cmd/containerd-shim-runc-v2"),
        Part("ctr", "containerd", f"{_CONTAINERD}/cmd/ctr"),
        Part("runc", "runc", "github.com/opencontainers/runc"),
        Part("runsc", "gvisor", f"{_GVISOR}/runsc"),
        # The project's own main: the stock one needs CAP_SYS_RESOURCE.
        Part("containerd-shim-runsc-v1", "gvisor", "."),
        Part("ptp", "cni", f"{_CNI}/main/ptp"),
        Part("loopback", "cni", f"{_CNI}/main/loopback"),
        Part("host-local", "cni", f"{_CNI}/ipam/host-local"),
        Part("portmap", "cni", f"{_CNI}/meta/portmap"),
        # The project's own main with four plugins: the stock one compiles every cloud's SDK (208 s, not 60).
        Part("coredns", "coredns", "."),
        Part("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
        Part("metrics-server", "metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server"),
        Part("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
        Part("kube-network-policies", "network-policies", "sigs.k8s.io/kube-network-policies/cmd"),
        Part("contour", "contour", "github.com/projectcontour/contour/cmd/contour"),
        Part("kueue", "kueue", "sigs.k8s.io/kueue/cmd/kueue"),
        Part("vegeta", "vegeta", "github.com/tsenart/vegeta/v12"),
        Part("gofakes3", "gofakes3", "github.com/johannesboyne/gofakes3/cmd/gofakes3"),
        Part("helm-unittest", "helm-unittest", "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"),
        Part("helm-docs", "helm-docs", "github.com/norwoodj/helm-docs/cmd/helm-docs"),
        Part("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
        Part("kube-score", "kube-score", "github.com/zegl/kube-score/cmd/kube-score"),
        Part("actionlint", "actionlint", "github.com/rhysd/actionlint/cmd/actionlint"),
        Part("promtool", "prometheus", f"{_PROMETHEUS}/cmd/promtool"),
        Part("docker-compose", "compose", f"{_COMPOSE}/cmd"),
        Part("caddy", "caddy", f"{_CADDY}/cmd/caddy"),
        # The project's own mains: the stock ones compile the SDKs of three clouds.
        Part("cosign", "cosign", "."),
        Part("registry", "registry", "."),
        Part("gitea", "gitea", _GITEA),
    )
}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE_ALONE = (
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "ptp",
    "loopback",
    "host-local",
    "portmap",
    "coredns",
)
"""What only a node runs."""
NODE = (*CONTROL_PLANE, "kube-scheduler", *NODE_ALONE)
TESTS = {
    "test": (*CONTROL_PLANE, "helm", "gofakes3"),
    "e2e": (*NODE, "helm", "contour", "kube-network-policies", "gitea"),
    "sweep": tuple(PARTS),
}
"""What each tier of tests uses."""


def part(name: str) -> Part:
    """The part of that name.

    Raises:
        BuildError: there is none; the message lists those that exist.
    """
    if name not in PARTS:
        raise BuildError(f"there is no part {name!r}; the parts are: {', '.join(sorted(PARTS))}")
    return PARTS[name]


def link_flags(module: Module, version: str) -> str:
    """The linker's flags: no symbol tables (smaller, faster to link) and the version that it reports.

    Kubernetes' components compare ``gitMajor`` and ``gitMinor``, so those are set too.
    """
    flags = ["-s", "-w"]
    if module.version_variable:
        # Gitea's own build names its version without the "v", and its clients compare it.
        said = version.removeprefix("v") if module.anchor == _GITEA else version
        flags += ["-X", f"{module.version_variable}={said}"]
    if module.anchor == KUBERNETES:
        major, minor, _ = version.removeprefix("v").split(".", 2)
        base = "k8s.io/component-base/version"
        flags += ["-X", f"{base}.gitMajor={major}", "-X", f"{base}.gitMinor={minor}"]
    return " ".join(flags)
