package clock

import (
	"context"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"golang.org/x/sys/unix"
)

// BootTime returns the time since the machine booted, including suspensions.
func BootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(fmt.Sprintf("no clock: %v", err)) // every Linux kernel has this clock
	}
	return time.Duration(t.Nano())
}

// Pause waits for d. It returns an error if the context ends first.
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
