package client

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/paraglide/glide/internal/api"
)

// lockFile is the file that a daemon locks in its data directory.
const lockFile = "lock"

// Holder returns the process that serves from a data directory, as far as this
// machine knows; 0: none.
func Holder(dir string) int {
	st, err := os.Stat(filepath.Join(dir, lockFile))
	if err != nil {
		return 0
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	// Asking for the lock would open the file. If the daemon is this same process,
	// closing the file would release its lock.
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		// 1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "POSIX" && strings.HasSuffix(f[5], ":"+strconv.FormatUint(sys.Ino, 10)) {
			pid, _ := strconv.Atoi(f[4])
			return pid
		}
	}
	return 0
}

// notRunning says why nothing listens at an address.
func notRunning(a api.Addr) string {
	if a.Network == "unix" {
		dir := filepath.Dir(a.Address)
		if pid := Holder(dir); pid != 0 {
			return fmt.Sprintf("glide serve runs (process %d, in %s), but its socket %s is gone: it makes it again within seconds; if not, its log says why", pid, dir, a.Address)
		}
	}
	return fmt.Sprintf("glide serve is not running at %s: start it, or say with --api (or $GLIDE_API) where it runs", a)
}
