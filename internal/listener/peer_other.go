//go:build !linux

package listener

import (
	"syscall"
	"time"
)

// setUserTimeout would bound how long data may be unacknowledged.
func setUserTimeout(syscall.RawConn, time.Duration) {}
