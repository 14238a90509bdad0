package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ignored are the signals that end a process unless it wants them otherwise, as the
// daemon does. SIGTERM and SIGINT stop it, SIGQUIT ends it with a dump of what it
// does, and SIGHUP makes it read its files again. SIGPIPE is what a reader of its
// log leaves that went away.
func ignored() []os.Signal {
	list := []os.Signal{
		syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM,
		syscall.SIGIO, syscall.SIGPWR, syscall.SIGSTKFLT, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGSYS,
		syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV, syscall.SIGILL,
		syscall.SIGTTIN, syscall.SIGTTOU,
	}
	for n := firstRealTime; n <= lastRealTime; n++ {
		list = append(list, syscall.Signal(n))
	}
	return list
}

// The signals that have no names of their own, and that package signal takes.
const (
	firstRealTime = 35
	lastRealTime  = 64
)

// unmanaged are signals that package signal leaves to the runtime, and the runtime
// leaves alone: that of profiling until something is profiled, and those that C
// libraries keep for themselves.
var unmanaged = []syscall.Signal{syscall.SIGPROF, 32, 33, 34}

// outliveSignals keeps the signals of other programs, terminals and people from
// ending the process until ctx ends. reload is called for each SIGHUP, one at a time.
func outliveSignals(ctx context.Context, log *slog.Logger, reload func()) {
	other := make(chan os.Signal, 16)
	signal.Notify(other, ignored()...)
	ignoreUnmanaged()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for {
			select {
			case s := <-other:
				if s != syscall.SIGPIPE { // to say so would make the next one
					log.Info("a signal was ignored", "signal", s.String())
				}
			case <-ctx.Done():
				return // and they go on being ignored
			}
		}
	}()
	go func() {
		for {
			select {
			case <-hup:
				reload()
			case <-ctx.Done():
				return
			}
		}
	}()
}

// ignoreUnmanaged ignores signals that package signal cannot, but for those that
// are handled: the runtime of a program without C has 33 for system calls that each
// thread is to make, and waits for all of them.
func ignoreUnmanaged() {
	type action struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	const byDefault, ignore = 0, 1 // SIG_DFL, SIG_IGN
	for _, n := range unmanaged {
		var old action
		set := action{handler: ignore}
		size := unsafe.Sizeof(old.mask)
		// It cannot fail with these arguments; if it did, the signal would end us as before.
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), 0, uintptr(unsafe.Pointer(&old)), size, 0, 0)
		if errno == 0 && old.handler == byDefault {
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&set)), 0, size, 0, 0)
		}
	}
}
