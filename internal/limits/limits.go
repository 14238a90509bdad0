// Package limits tells what the system lets this process have, and how much of it
// is in use: open files, threads and memory. A limit that is met shows first as
// errors in places that have nothing to do with it, so it is told of before.
package limits

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Use is one limit, and what is in use of it. A Limit of 0 means that there is
// none, or none that can be found out.
type Use struct {
	Name        string // as metrics have it: open_files, threads, memory
	Used, Limit uint64
	Fix         string // how it is raised
}

// Near tells whether there is little left.
func (u Use) Near() bool { return u.Limit > 0 && u.Used > u.Limit/10*8 }

// Read looks at all of them. It opens a few files, which it needs to be able to.
func Read() []Use {
	return []Use{
		{"open_files", openFiles(), MaxFiles(), "raise the limit (LimitNOFILE=, ulimit -n)"},
		{"threads", threads(), least(rlimit(unix.RLIMIT_NPROC), inCgroup("pids.max")), "raise the limit (TasksMax=, ulimit -u)"},
		{"memory", memory(), inCgroup("memory.max"), "lower --memory, or raise the limit (MemoryMax=)"},
	}
}

// MaxFiles is how many files the process may have open; 0: as many as it likes.
func MaxFiles() uint64 { return rlimit(unix.RLIMIT_NOFILE) }

// openFiles is how many it has open.
func openFiles() uint64 {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return MaxFiles() // there is not one left, most likely
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil || len(names) == 0 {
		return 0
	}
	return uint64(len(names) - 1) // without this one
}

func rlimit(which int) uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(which, &l) != nil || l.Cur == unix.RLIM_INFINITY || l.Cur > math.MaxInt64 {
		return 0
	}
	return l.Cur
}

// least is the smaller of two limits, where 0 is none.
func least(a, b uint64) uint64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// threads is how many the process has; more exactly, how many the user has may
// count for the limit, which is not looked at.
func threads() uint64 {
	if n, ok := statusField("Threads:"); ok {
		return n
	}
	return uint64(runtime.NumGoroutine())
}

// memory is what is resident, in bytes.
func memory() uint64 {
	kib, _ := statusField("VmRSS:")
	return kib << 10
}

// statusField is a number of /proc/self/status.
func statusField(name string) (uint64, bool) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 1 && f[0] == name {
			n, err := strconv.ParseUint(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// inCgroup is the least limit of a kind that this process's control group (version
// 2) or one above it has.
func inCgroup(file string) uint64 {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	var path string
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); ok {
			path = string(rest)
		}
	}
	if path == "" {
		return 0
	}
	var limit uint64
	for ; path != "/" && path != "."; path = filepath.Dir(path) {
		limit = least(limit, number(filepath.Join("/sys/fs/cgroup", path, file)))
	}
	return limit
}

// number is what a file of a control group says; 0 for "max", and for none.
func number(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
