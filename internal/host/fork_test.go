package host

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
)

// TestForkIsAllOrNothing loses the power at every file operation of a fork of a volume
// with unsynced writes. The log reaches the disk before the metadata in one run, and
// after it in the other. Afterwards the fork is whole or gone. Then the parent continues,
// and the power is lost again. Once Fork has returned, the fork stays.
func TestForkIsAllOrNothing(t *testing.T) {
	for _, slow := range []string{".seg", ".log"} {
		there, gone := 0, 0
		for at := 1; ; at++ {
			left, acknowledged := forkWithPowerLoss(t, slow, at)
			h := removeHost(t, left)
			forked := forkedWell(t, h)
			if forked {
				there++
			} else {
				gone++
			}
			if acknowledged && !forked {
				t.Errorf("%s slow: the fork is gone, though it was acknowledged", slow)
			}
			fill(t, h, "v", 9, 32*kib, 16*kib) // uses the numbers that were lost
			if err := vol(t, h, "v").Flush(); err != nil {
				t.Fatal(err)
			}
			again := left.CrashClone(vfs.CrashCloneCfg{})
			_ = h.Close(ctx)
			h = removeHost(t, again)
			if now := forkedWell(t, h); now != forked {
				t.Errorf("%s slow, power lost at operation %d: the fork is there: %v, and after another loss: %v", slow, at, forked, now)
			}
			_ = h.Close(ctx)
			if acknowledged {
				break // the fork makes no more operations
			}
		}
		if there < 2 || gone == 0 {
			t.Errorf("%s slow: %d times there and %d times gone: the crashes are not where they should be", slow, there, gone)
		}
	}
}

// forkWithPowerLoss creates a volume with two writes, of which the second is not synced,
// and forks it. It returns what is on the disk if the power is lost at an operation of
// the fork, or right after it. Syncs of files with the slow suffix take long.
func forkWithPowerLoss(t *testing.T, slow string, at int) (left *vfs.MemFS, acknowledged bool) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	if err := mem.MkdirAll(crashData, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/", ""} { // the directory itself is the operator's
		if f, err := mem.OpenDir(d); err == nil {
			_ = f.Sync()
		}
	}
	var mu sync.Mutex
	armed, ops := false, 0
	h := removeHost(t, crashFS{mem, func(where string) {
		mu.Lock()
		on := armed
		mu.Unlock()
		if on && strings.HasPrefix(where, "before sync") && strings.HasSuffix(where, slow) {
			time.Sleep(2 * time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		if !armed || left != nil {
			return
		}
		if ops++; ops == at {
			left = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (at % 3), RNG: rand.New(rand.NewPCG(uint64(at), 7))})
		}
	}})
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h, "v", 1, 0, 4*kib)
	if err := vol(t, h, "v").Flush(); err != nil {
		t.Fatal(err)
	}
	fill(t, h, "v", 2, 8*kib, 4*kib)
	mu.Lock()
	armed = true
	mu.Unlock()
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"}))
	mu.Lock()
	defer mu.Unlock()
	if armed = false; left == nil {
		left, acknowledged = mem.CrashClone(vfs.CrashCloneCfg{}), true
	}
	go func() { _ = h.Close(ctx) }()
	return left, acknowledged
}

// forkedWell reports whether the fork exists. If it does, it must be whole. The parent
// must exist.
func forkedWell(t *testing.T, h *Host) (there bool) {
	t.Helper()
	for _, v := range must[[]api.Volume](t)(h.List(ctx, false)) {
		if v.State != "active" {
			t.Fatalf("%s is %s: %s", v.Name, v.State, v.Reason)
		}
		there = there || v.Name == "f"
	}
	b := make([]byte, 4*kib)
	if err := vol(t, h, "v").ReadAt(b, 0); err != nil || !bytes.Equal(b, random(1, 4*kib)) {
		t.Fatalf("the parent's first write: %v", err)
	}
	if there {
		for i, off := range []uint64{0, 8 * kib} {
			if err := vol(t, h, "f").ReadAt(b, off); err != nil || !bytes.Equal(b, random(uint64(i+1), 4*kib)) {
				t.Fatalf("the fork's bytes at %d: %v", off, err)
			}
		}
	}
	return there
}
