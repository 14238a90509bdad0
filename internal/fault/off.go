//go:build !faults

// Package fault lets the simulator show that it finds bugs: production code asks
// Is at the places where a step of a protocol could be left out. In a program that
// is built without the tag faults the answer is a constant, and the compiler
// takes the question out.
package fault

// Is tells whether the fault with the name is planted.
func Is(string) bool { return false }
