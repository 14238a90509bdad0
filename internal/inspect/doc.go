// Package inspect reads volumes for people: where their bytes are, what they share,
// where two differ, whether they are whole; and shows objects as text. It changes
// nothing, and has no locks.
package inspect
