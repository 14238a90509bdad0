package ownership

import (
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/event"
)

// processesFact has the tokens of this host's processes that have committed, eight
// bytes each, the newest last.
const processesFact = "processes"

// maxProcesses bounds them; a newest commit that is older than so many starts is
// still known by the volume's record.
const maxProcesses = 4096

// processes knows this host's own processes from those of another daemon with its
// identity, which runs on a copy of its data directory: each process has a random
// token, that its commits carry, and that it records before the first one.
type processes struct {
	mu      sync.Mutex
	known   map[string]bool // this process's included, once it is recorded
	current string          // this process's; "" before its first commit
}

// process is this process's token. Before it is used for the first time it is
// recorded, durably.
func (ow *Owners) process() (string, error) {
	if ow.disks.DB == nil { // an import into a store, whose host is nobody else
		return "", nil
	}
	t := &ow.processes
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != "" {
		return t.current, nil
	}
	b, err := ow.disks.DB.Fact(processesFact)
	if err != nil {
		return "", err
	}
	token := fmt.Appendf(nil, "%016x", ow.disks.Random64())
	raw := make([]byte, len(token)/2)
	if _, err := hex.Decode(raw, token); err != nil {
		return "", err
	}
	b = append(b, raw...)
	if most := maxProcesses * len(raw); len(b) > most {
		b = b[len(b)-most:]
	}
	if err := ow.disks.DB.SetFact(processesFact, b); err != nil {
		return "", err
	}
	t.load(b, len(raw))
	t.current = string(token)
	return t.current, nil
}

// load reads tokens of a size. Under mu.
func (t *processes) load(b []byte, size int) {
	t.known = map[string]bool{}
	for ; len(b) >= size; b = b[size:] {
		t.known[hex.EncodeToString(b[:size])] = true
	}
}

// IsTwins tells whether what carries this host's identity was committed by another
// daemon.
func (ow *Owners) IsTwins(owner commitlog.Host) bool {
	if owner.ID != ow.disks.HostID || owner.Process == "" {
		return false
	}
	t := &ow.processes
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		b, err := ow.disks.DB.Fact(processesFact)
		if err != nil {
			return false // who commits finds out
		}
		t.load(b, 8)
	}
	return !t.known[owner.Process]
}

// reportTwin remembers that another daemon has this host's identity.
func (ow *Owners) reportTwin(err error) {
	if errors.Is(err, commitlog.ErrTwin) && ow.twin.Swap(&err) == nil {
		ow.disks.Event(event.Host, "", "two daemons have this host's identity: %v", err)
	}
}

// TwinNoticed is how another daemon with this host's identity was noticed, nil if
// none was.
func (ow *Owners) TwinNoticed() error {
	if e := ow.twin.Load(); e != nil {
		return *e
	}
	return nil
}
