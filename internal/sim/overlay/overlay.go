// Package overlay makes the Go runtime deterministic, for the simulator's
// binaries alone: it writes patched copies of a few files of the runtime, and
// the list by which `go build -overlay` uses them instead of its own.
//
// testing/synctest gives a simulation virtual time, but leaves three things to
// chance. A goroutine that waits for a mutex does not count as blocked, since
// somebody outside might hold it, so time would stand still while a lock is held
// over I/O; in a simulation nobody is outside. Select, maps and equal timers draw
// random numbers of the process; here each simulation has its own, that begin
// alike. And the scheduler looks at the wall clock to take turns; here a
// goroutine runs until it waits.
//
// One more patch is for speed: Pebble looks ten times a second whether a
// compaction was forgotten, which is a lot in a run that lasts for days.
//
// It is to be used with GOMAXPROCS=1 and with garbage collected between
// simulations, not during them.
package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// change is one edit of a file of the standard library. Old has to be there exactly
// once: a release of Go that looks different is refused, not guessed at.
type change struct{ file, old, new string }

var changes = []change{
	// Waiting for a lock is being blocked.
	{"runtime/runtime2.go", "waitReasonSyncCondWait:          true,",
		"waitReasonSyncCondWait: true, waitReasonSyncMutexLock: true, waitReasonSyncRWMutexRLock: true, waitReasonSyncRWMutexLock: true,"},
	// Each bubble draws its own random numbers, but not for the runtime's own
	// locks: whether those are contended is up to other threads.
	{"runtime/synctest.go", "type synctestBubble struct {",
		`//go:nosplit
func (bubble *synctestBubble) draw() uint64 {
	bubble.drawn += 0x9e3779b97f4a7c15
	z := bubble.drawn
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

type synctestBubble struct {
	drawn   uint64`},
	{"runtime/rand.go", "func rand() uint64 {", "func rand() uint64 {\n\tif gp := getg(); gp.bubble != nil && gp.m.locks == 0 {\n\t\treturn gp.bubble.draw()\n\t}"},
	{"runtime/rand.go", "func cheaprand() uint32 {", "func cheaprand() uint32 {\n\tif gp := getg(); gp.bubble != nil && gp.m.locks == 0 {\n\t\treturn uint32(gp.bubble.draw() >> 32)\n\t}"},
	{"runtime/time.go", "t.rand = cheaprand()", "t.rand = 0"},
	// A context ends its children in the order in which they were made, not in
	// that of their addresses.
	{"context/context.go", "children map[canceler]struct{} //", "children map[canceler]uint64 //"},
	{"context/context.go", "p.children = make(map[canceler]struct{})", "p.children = make(map[canceler]uint64)"},
	{"context/context.go", "p.children[child] = struct{}{}", "childCount++\n\t\t\tp.children[child] = childCount"},
	{"context/context.go", "for child := range c.children {", "for _, child := range inOrder(c.children) {"},
	{"context/context.go", "// A cancelCtx can be canceled.", `var childCount uint64

func inOrder(m map[canceler]uint64) []canceler {
	var out []canceler
	for c, n := range m {
		i := len(out)
		for out = append(out, nil); i > 0 && m[out[i-1]] > n; i-- {
			out[i] = out[i-1]
		}
		out[i] = c
	}
	return out
}

// A cancelCtx can be canceled.`},
	// The process hashes the same way each time.
	{"runtime/rand.go", "globalRand.state.Init(*seed)", "clear(seed[:])\n\tseed[0] = 1\n\tglobalRand.state.Init(*seed)"},
	// Nothing is decided by the wall clock, nor by how long the process has run.
	{"runtime/proc.go", "const forcePreemptNS = 10 * 1000 * 1000", "const forcePreemptNS = 1 << 60"},
	{"runtime/proc.go", "if pp.schedtick%61 == 0 && !sched.runq.empty() {", "if false {"},
	{"runtime/sema.go", "func internal_sync_nanotime() int64 {\n\treturn nanotime()", "func internal_sync_nanotime() int64 {\n\tif b := getg().bubble; b != nil {\n\t\treturn b.now\n\t}\n\treturn nanotime()"},
	{"time/tick.go", "func NewTicker(d Duration) *Ticker {", "func NewTicker(d Duration) *Ticker {\n\tif d == 100*Millisecond {\n\t\td = Hour\n\t}"},
}

// ask asks the go command.
func ask(args ...string) (string, error) {
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Write writes the patched files under dir and returns the path of the list for
// the go command's -overlay flag.
func Write(dir string) (string, error) {
	root, err := ask("env", "GOROOT")
	if err != nil {
		return "", err
	}
	where := func(file string) string { return filepath.Join(root, "src", file) }
	text := map[string]string{}
	for _, c := range changes {
		if _, read := text[c.file]; !read {
			b, err := os.ReadFile(where(c.file))
			if err != nil {
				return "", err
			}
			text[c.file] = string(b)
		}
		if n := strings.Count(text[c.file], c.old); n != 1 {
			return "", fmt.Errorf("%s of this release of Go has %q %d times, not once: mend internal/sim/overlay", c.file, c.old, n)
		}
		text[c.file] = strings.Replace(text[c.file], c.old, c.new, 1)
	}
	var list struct{ Replace map[string]string }
	list.Replace = map[string]string{}
	for name, s := range text {
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		// An unchanged file keeps its time, so that nothing is built again for it.
		if b, err := os.ReadFile(path); err != nil || string(b) != s {
			if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
				return "", err
			}
		}
		list.Replace[where(name)] = path
	}
	b, err := json.Marshal(list)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, b, 0o644)
}
