package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// supervisor tells systemd, if that has started us, what we do.
type supervisor struct {
	log *slog.Logger

	mu     sync.Mutex
	status string
}

// tell sends a state; nothing is listening when systemd has not started us.
func (s *supervisor) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("systemd was not notified", "error", err)
	}
}

// Times of a start. Each sign of life extends systemd's own limit.
const (
	startSign   = 2 * time.Second
	startExtend = 60 * time.Second
)

// starting tells what a start is at, and asks for more time for as long as it
// moves: it gets on from one step to the next, computes, or reads from the disk.
// What it returns ends that.
func (s *supervisor) starting() (at func(format string, args ...any), done func()) {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		t := time.NewTicker(startSign)
		defer t.Stop()
		told, moved := "", movement()
		for {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
			s.mu.Lock()
			status := s.status
			s.mu.Unlock()
			if now := movement(); now != moved || status != told {
				moved, told = now, status
				s.tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d\nSTATUS=%s", startExtend.Microseconds(), status))
			}
		}
	}()
	at = func(format string, args ...any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.status = oneLine(fmt.Sprintf(format, args...))
	}
	return at, stop
}

// movement changes while the process does something: tenths of seconds of its
// processors' time, and blocks from and to the disk.
func movement() [3]int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return [3]int64{}
	}
	return [3]int64{(u.Utime.Nano() + u.Stime.Nano()) / 1e8, u.Inblock, u.Oublock}
}

// serving tells that the daemon serves, and then, as long as alive says so, that
// it still does, until over. stopping tells that it stops.
func (s *supervisor) serving(status string, alive func(context.Context) error) (stopping, over func()) {
	s.tell(daemon.SdNotifyReady)
	s.tell("STATUS=" + oneLine(status))
	ctx, cancel := context.WithCancel(context.Background())
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		go s.watchdog(ctx, every, alive)
	}
	return func() {
		s.tell(daemon.SdNotifyStopping)
		s.tell(fmt.Sprintf("STATUS=finishing requests, and syncing the log\nEXTEND_TIMEOUT_USEC=%d", (grace + closeTime + 10*time.Second).Microseconds()))
	}, cancel
}

// watchdog gives signs of life for as long as there is some: a daemon that hangs
// is restarted. It is no sign when alive does not return; that what it tried
// failed, as on a full disk, is no reason to restart.
func (s *supervisor) watchdog(ctx context.Context, every time.Duration, alive func(context.Context) error) {
	t := time.NewTicker(every / 3)
	defer t.Stop()
	hangs := false
	for {
		done := make(chan error, 1)
		go func() { done <- alive(ctx) }()
		for waiting := true; waiting; {
			select {
			case err := <-done:
				if waiting = false; err != nil {
					s.log.Warn("a check of the daemon by itself failed", "error", err)
				}
			case <-t.C:
				if !hangs {
					s.log.Error("the daemon hangs: it gives no sign of life until it moves again")
				}
				hangs = true
			case <-ctx.Done():
				return
			}
		}
		hangs = false
		s.tell(daemon.SdNotifyWatchdog)
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// reloading tells that files are read again; what it returns, that they were.
func (s *supervisor) reloading() (done func()) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every Linux has it
	s.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	return func() { s.tell(daemon.SdNotifyReady) }
}
