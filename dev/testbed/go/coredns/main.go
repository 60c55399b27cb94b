// CoreDNS with the plugins that a cluster's DNS needs and no other. The stock main links the SDKs of every
// cloud's DNS service, which takes most of its build time.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// The order of the plugin chain, as in CoreDNS' own plugin.cfg.
func init() {
	dnsserver.Directives = []string{"reload", "ready", "health", "log", "errors", "cache", "kubernetes"}
}

func main() { coremain.Run() }
