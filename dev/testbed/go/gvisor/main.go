// A shim of containerd for gVisor, like gvisor.dev/gvisor/shim, for root without CAP_SYS_RESOURCE and for a kubelet
// with a folder of its own.
//
// As it starts, the stock shim lowers the OOM score of the process that serves a container, and ends where it may
// not. It looks for the volumes of pods in /var/lib/kubelet; this one looks where KUBELET_PODS says. Nothing else
// differs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	_ "unsafe" // for go:linkname

	"github.com/containerd/containerd/v2/pkg/namespaces"
	containerd "github.com/containerd/containerd/v2/pkg/shim"
	shim "gvisor.dev/gvisor/pkg/shim/v1"
	_ "gvisor.dev/gvisor/pkg/shim/v1/plugin"
	_ "gvisor.dev/gvisor/pkg/shim/v1/utils"
)

//go:linkname kubeletPodsDir gvisor.dev/gvisor/pkg/shim/v1/utils.kubeletPodsDir
var kubeletPodsDir string

type manager struct{ containerd.Manager }

// Start starts the process that serves a container, and says where it listens.
func (m manager) Start(ctx context.Context, id string, opts containerd.StartOpts) (containerd.BootstrapParams, error) {
	none := containerd.BootstrapParams{}
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return none, err
	}
	address, err := containerd.SocketAddress(ctx, opts.Address, id, opts.Debug)
	if err != nil {
		return none, err
	}
	socket, err := containerd.NewSocket(address)
	if err != nil && containerd.SocketEaddrinuse(err) && !containerd.CanConnect(address) {
		// A process that was killed has left it.
		if err := containerd.RemoveSocket(address); err != nil {
			return none, err
		}
		socket, err = containerd.NewSocket(address)
	}
	if err != nil {
		return none, fmt.Errorf("create the shim's socket: %w", err)
	}
	file, err := socket.File()
	if err != nil {
		return none, err
	}
	self, err := os.Executable()
	if err != nil {
		return none, err
	}
	server := exec.Command(self, "-namespace", namespace, "-address", opts.Address, "-id", id)
	server.Env = append(os.Environ(), "GOMAXPROCS=2")
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	server.ExtraFiles = []*os.File{file}
	if err := server.Start(); err != nil {
		return none, err
	}
	err = containerd.WritePidFile("shim.pid", server.Process.Pid)
	if err == nil {
		err = os.WriteFile("address", []byte(address), 0o644)
	}
	if err != nil {
		server.Process.Kill()
		containerd.RemoveSocket(address)
		return none, err
	}
	return containerd.BootstrapParams{Version: 2, Address: address, Protocol: "ttrpc"}, nil
}

func main() {
	if folder := os.Getenv("KUBELET_PODS"); folder != "" {
		kubeletPodsDir = folder
	}
	containerd.Run(context.Background(), manager{shim.NewShimManager("io.containerd.runsc.v1")})
}
