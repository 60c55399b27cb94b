// cosign without the key services of clouds (AWS, Azure, Google, Vault): the stock main links their SDKs.
package main

import (
	"os"

	"github.com/sigstore/cosign/v3/cmd/cosign/cli"
)

func main() {
	// Cobra prints the error.
	if err := cli.New().Execute(); err != nil {
		os.Exit(1)
	}
}
