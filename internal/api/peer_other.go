//go:build !linux

package api

import (
	"syscall"
	"time"
)

// setUserTimeout would bound how long data may be unacknowledged.
func setUserTimeout(syscall.RawConn, time.Duration) {}
