// The OCI registry that the release is tried with: distribution, with a folder as its only storage. The stock
// main links the SDKs of three clouds' storage, which take most of its build time.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"

	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if err := registry.RootCmd.Execute(); err != nil {
		os.Exit(1)
	}
}
