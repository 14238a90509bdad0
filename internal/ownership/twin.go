package ownership

import (
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/event"
)

// processesFact is the key of the fact with the tokens of this host's processes that have
// committed: eight bytes each, the newest last.
const processesFact = "processes"

// maxProcesses bounds the number of tokens. A newest commit that is older than that many
// starts is still known from the volume's record.
const maxProcesses = 4096

// processes tells this host's own processes from those of another daemon with its
// identity, which runs on a copy of its data directory. Each process has a random token.
// It records the token before its first commit, and all its commits carry it.
type processes struct {
	mu      sync.Mutex
	known   map[string]bool // includes this process once its token is recorded
	current string          // this process's token; "" before its first commit
}

// process returns this process's token. On first use it creates the token and records it
// durably.
func (ow *Owners) process() (string, error) {
	if ow.disks.DB == nil { // a direct import into a store has no metadata, and nobody shares its identity
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

// load parses tokens of size bytes each. Under mu.
func (t *processes) load(b []byte, size int) {
	t.known = map[string]bool{}
	for ; len(b) >= size; b = b[size:] {
		t.known[hex.EncodeToString(b[:size])] = true
	}
}

// CommittedByTwin reports whether another daemon with this host's identity made the commit that
// names owner.
func (ow *Owners) CommittedByTwin(owner commitlog.Host) bool {
	if owner.ID != ow.disks.HostID || owner.Process == "" {
		return false
	}
	t := &ow.processes
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		b, err := ow.disks.DB.Fact(processesFact)
		if err != nil {
			return false // a commit will report it
		}
		t.load(b, 8)
	}
	return !t.known[owner.Process]
}

// reportTwin records that another daemon has this host's identity, if err says so.
func (ow *Owners) reportTwin(err error) {
	if errors.Is(err, commitlog.ErrTwin) && ow.twin.Swap(&err) == nil {
		ow.disks.Event(event.Host, "", "two daemons have this host's identity: %v", err)
	}
}

// TwinNoticed returns the evidence of another daemon with this host's identity, or nil.
func (ow *Owners) TwinNoticed() error {
	if e := ow.twin.Load(); e != nil {
		return *e
	}
	return nil
}
