//go:build !linux

package crowd

import (
	"syscall"
	"time"
)

// readable would wait in the thread. Nothing calls it where processTime does not tell
// that connections compete.
func readable(syscall.RawConn, time.Duration) bool { return true }

// processTime would be the processor time that the process has used.
func processTime() time.Duration { return 0 }
