// Command checked has one check, for the test that looks for it in the binary.
package main

import (
	"os"

	"github.com/paraglide/glide/internal/invariants"
)

//go:noinline
func costly() int { return len(os.Args) }

func main() {
	if invariants.Enabled {
		invariants.Check(costly() > 0, "no arguments")
	}
}
