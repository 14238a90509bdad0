//go:build faults

// Package fault lets the simulator show that it finds bugs: see off.go.
package fault

import "os"

var planted = os.Getenv("GLIDE_FAULT")

// Is tells whether the fault with the name is planted: the one in $GLIDE_FAULT.
func Is(name string) bool { return name == planted }
