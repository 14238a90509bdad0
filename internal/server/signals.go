package server

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ignored lists the signals that end a process by default and that the daemon
// ignores. The others keep a meaning: SIGTERM and SIGINT stop the daemon, SIGQUIT
// ends it with a dump of its goroutines, SIGHUP makes it read its files again.
// SIGPIPE arrives when a reader of its log has gone away.
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

// The signals without names that package signal handles.
const (
	firstRealTime = 35
	lastRealTime  = 64
)

// unmanaged lists signals that neither package signal nor the runtime handles: the
// profiling signal while nothing is profiled, and those reserved for C libraries.
var unmanaged = []syscall.Signal{syscall.SIGPROF, 32, 33, 34}

// outliveSignals keeps stray signals from ending the process until ctx ends. It
// calls reload for each SIGHUP, one at a time.
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
				if s != syscall.SIGPIPE { // logging it would raise the next one
					log.Info("a signal was ignored", "signal", s.String())
				}
			case <-ctx.Done():
				return // the signals stay ignored
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

// ignoreUnmanaged ignores the signals that package signal cannot, unless something
// handles them: without C, the Go runtime uses signal 33 to run a system call on
// every thread, and waits for all threads.
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
		// It cannot fail with these arguments. If it did, the signal would still end the process.
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), 0, uintptr(unsafe.Pointer(&old)), size, 0, 0)
		if errno == 0 && old.handler == byDefault {
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&set)), 0, size, 0, 0)
		}
	}
}
