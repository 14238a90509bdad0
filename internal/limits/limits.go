// Package limits reports the limits that the system sets for this process, and how
// much is in use: open files, threads and memory. A limit that is reached causes
// errors in unrelated places, so Glide warns earlier.
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

// Use is one limit and its use. A Limit of 0 means that there is none, or that it
// is unknown.
type Use struct {
	Name        string // as in the metrics: open_files, threads, memory
	Used, Limit uint64
	Fix         string // how to raise it
}

// Near tells whether the limit is nearly reached.
func (u Use) Near() bool { return u.Limit > 0 && u.Used > u.Limit/10*8 }

// Read reads all of them. It needs to be able to open a few files.
func Read() []Use {
	return []Use{
		{"open_files", openFiles(), MaxFiles(), "raise the limit (LimitNOFILE=, ulimit -n)"},
		{"threads", threads(), least(rlimit(unix.RLIMIT_NPROC), inCgroup("pids.max")), "raise the limit (TasksMax=, ulimit -u)"},
		{"memory", memory(), inCgroup("memory.max"), "lower --memory, or raise the limit (MemoryMax=)"},
	}
}

// MaxFiles is how many files the process may have open; 0: no limit.
func MaxFiles() uint64 { return rlimit(unix.RLIMIT_NOFILE) }

// openFiles is how many it has open.
func openFiles() uint64 {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return MaxFiles() // most likely no descriptor is left
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil || len(names) == 0 {
		return 0
	}
	return uint64(len(names) - 1) // not counting the directory just opened
}

func rlimit(which int) uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(which, &l) != nil || l.Cur == unix.RLIM_INFINITY || l.Cur > math.MaxInt64 {
		return 0
	}
	return l.Cur
}

// least is the smaller of two limits; 0 means no limit.
func least(a, b uint64) uint64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// threads counts the process's threads. The limit may count all threads of the
// user, which is not considered here.
func threads() uint64 {
	if n, ok := statusField("Threads:"); ok {
		return n
	}
	return uint64(runtime.NumGoroutine())
}

// memory is the resident memory, in bytes.
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

// inCgroup is the smallest limit of a kind among this process's control group
// (version 2) and those above it.
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

// number reads a number from a file of a control group; 0 for "max" and for a
// missing file.
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
