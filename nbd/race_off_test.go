//go:build !race

package nbd_test

// raceEnabled tells that the race detector is on, which allocates.
const raceEnabled = false
