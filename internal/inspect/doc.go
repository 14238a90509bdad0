// Package inspect reads volumes for users: where their bytes are, what they share, where
// two of them differ, and whether they are intact. It also shows objects and
// files as text. It changes nothing. It has one lock, under which usage is counted: calls
// wait for each other, and nothing else waits for them.
package inspect
