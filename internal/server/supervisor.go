package server

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// supervisor notifies systemd, if it started the daemon, of the daemon's state.
type supervisor struct {
	log *slog.Logger

	mu     sync.Mutex
	status string
}

// tell sends a state. Without systemd, nothing listens.
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

// starting reports the step that a start has reached, and asks for more time while
// the start makes progress: it goes to the next step, computes, or uses the disk.
// done ends that.
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

// movement changes while the process works: it counts CPU time in tenths of a
// second, and blocks read from and written to the disk.
func movement() [3]int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return [3]int64{}
	}
	return [3]int64{(u.Utime.Nano() + u.Stime.Nano()) / 1e8, u.Inblock, u.Oublock}
}

// serving reports that the daemon serves, and then gives signs of life while alive
// returns, until over. stopping reports that the daemon stops.
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

// watchdog gives a sign of life each time alive returns, so that systemd restarts a
// daemon that hangs. An error of alive, as on a full disk, is no reason to
// restart.
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
					s.log.Warn("the daemon's check of itself failed", "error", err)
				}
			case <-t.C:
				if !hangs {
					s.log.Error("the daemon hangs: the watchdog gets no sign of life until it moves again")
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

// oneLine makes a status one line: systemd would take another for one more variable.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// reloading reports that files are being read again; done reports that they have
// been.
func (s *supervisor) reloading() (done func()) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every Linux has it
	s.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	return func() { s.tell(daemon.SdNotifyReady) }
}
