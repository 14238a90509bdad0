package clock

import (
	"context"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"golang.org/x/sys/unix"
)

// BootTime is the time since the machine was started, suspensions included.
func BootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(fmt.Sprintf("no clock: %v", err)) // every Linux has it
	}
	return time.Duration(t.Nano())
}

// Pause waits, unless the context ends first.
func Pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errs.New(errs.Unavailable, "the daemon is stopping")
	}
}
