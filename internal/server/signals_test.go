package server

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUnmanagedSignals sends each of them, and then has all threads make a system
// call, for which the runtime uses one. It stops all goroutines if that does not
// arrive: another process tries it. It uses none where C is linked in, as `go test`
// does of itself; there the daemon in a guest (internal/guest) is the test of that.
func TestUnmanagedSignals(t *testing.T) {
	const victim = "GLIDE_TEST_VICTIM"
	if os.Getenv(victim) != "" {
		ignoreUnmanaged()
		for _, s := range unmanaged {
			if err := unix.Kill(os.Getpid(), s); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Millisecond) // each would have ended us by now
		// Where C is linked in, it is refused.
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != 0 && errno != unix.ENOTSUP {
			t.Fatal(errno)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestUnmanagedSignals$", "-test.count=1")
	cmd.Env = append(os.Environ(), victim+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v (%v)\n%s", err, ctx.Err(), out)
	}
}
