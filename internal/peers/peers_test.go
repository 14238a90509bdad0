package peers

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/pack"
)

const size = 128 << 10

// other is another host. What it does to a request is up to the test.
type other struct {
	asked  int
	blocks func(ctx context.Context, r api.BlocksRequest, got func(int, []byte) error) error
	closed int
}

func (o *other) Blocks(ctx context.Context, r api.BlocksRequest, got func(int, []byte) error) error {
	o.asked++
	return o.blocks(ctx, r, got)
}

func (o *other) Close() { o.closed++ }

// lab is a host that knows some others, and the blocks that it wants.
type lab struct {
	t      *testing.T
	p      *Peers
	now    time.Duration
	hasher *pack.Hasher
	raw    [][]byte
	hashes []pack.Hash
}

func newLab(t *testing.T, blocks int, others ...*other) *lab {
	l := &lab{t: t, hasher: pack.NewHasher("t")}
	r := rand.NewChaCha8([32]byte{1})
	for range blocks {
		raw := make([]byte, size)
		_, _ = r.Read(raw)
		l.raw, l.hashes = append(l.raw, raw), append(l.hashes, l.hasher.Sum(raw))
	}
	l.p = New(Options{On: true, Uptime: func() time.Duration { return l.now }, Dial: func(addr, id string) (Peer, error) {
		if id != "host "+addr {
			t.Errorf("%s is taken for host %q", addr, id)
		}
		return others[addr[0]-'0'], nil
	}})
	for i := range others {
		l.p.Learn("t", "host "+string(rune('0'+i)), []string{string(rune('0' + i))})
	}
	return l
}

// fetch wants blocks, and returns how many came and how long it took.
func (l *lab) fetch(from, to int) (came int, took time.Duration) {
	began := time.Now()
	l.p.Fetch(l.t.Context(), "t", l.hashes[from:to], size, func(i int, raw []byte) bool {
		if l.hasher.Sum(raw) != l.hashes[from+i] {
			return false
		}
		came++
		return true
	})
	return came, time.Since(began)
}

// has sends the blocks of the lab.
func (l *lab) has(_ context.Context, r api.BlocksRequest, got func(int, []byte) error) error {
	for i, h := range r.Hashes {
		for k := range l.hashes {
			if l.hashes[k].String() == h {
				if err := got(i, bytes.Clone(l.raw[k])); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// TestFetch: what the first host lacks comes from the next one, in requests of bounded
// size.
func TestFetch(t *testing.T) {
	a, b := &other{}, &other{}
	l := newLab(t, 150, a, b)
	most := 0
	b.blocks = func(ctx context.Context, r api.BlocksRequest, got func(int, []byte) error) error {
		most = max(most, len(r.Hashes))
		for i, h := range r.Hashes { // the last one that was named is asked first
			for k := 0; k < len(l.hashes); k += 2 {
				if l.hashes[k].String() == h {
					if err := got(i, l.raw[k]); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	a.blocks = l.has
	if n, _ := l.fetch(0, 150); n != 150 || l.p.Stats.Fetched.Load() != 150*size {
		t.Errorf("%d blocks came, %d bytes were counted", n, l.p.Stats.Fetched.Load())
	}
	if most > api.MaxBlocks || a.asked != 2 || b.asked != 3 {
		t.Errorf("up to %d blocks in a request; %d and %d requests", most, a.asked, b.asked)
	}
	l.p.Close()
	if a.closed != 1 || b.closed != 1 {
		t.Error("connections stay open")
	}
}

// TestBadPeers: whatever another host does, its blocks do not count and the read goes on
// soon. After that it is left alone, so that the next read does not wait at all.
func TestBadPeers(t *testing.T) {
	for what, c := range map[string]struct {
		blocks func(l *lab) func(context.Context, api.BlocksRequest, func(int, []byte) error) error
		bad    bool // it is left alone for minutes
	}{
		"damaged bytes": {func(l *lab) func(context.Context, api.BlocksRequest, func(int, []byte) error) error {
			return func(_ context.Context, _ api.BlocksRequest, got func(int, []byte) error) error {
				raw := bytes.Clone(l.raw[0])
				raw[77] ^= 1
				return got(0, raw)
			}
		}, true},
		"another block": {func(l *lab) func(context.Context, api.BlocksRequest, func(int, []byte) error) error {
			return func(_ context.Context, _ api.BlocksRequest, got func(int, []byte) error) error {
				return got(0, l.raw[5])
			}
		}, true},
		"silence": {func(*lab) func(context.Context, api.BlocksRequest, func(int, []byte) error) error {
			return func(ctx context.Context, _ api.BlocksRequest, _ func(int, []byte) error) error {
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}, false},
		"a block, then silence": {func(l *lab) func(context.Context, api.BlocksRequest, func(int, []byte) error) error {
			return func(ctx context.Context, _ api.BlocksRequest, got func(int, []byte) error) error {
				if err := got(0, bytes.Clone(l.raw[0])); err != nil {
					return err
				}
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}, false},
		"refusal": {func(*lab) func(context.Context, api.BlocksRequest, func(int, []byte) error) error {
			return func(context.Context, api.BlocksRequest, func(int, []byte) error) error {
				return errors.New("401 Unauthorized")
			}
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			o := &other{}
			l := newLab(t, 20, o)
			o.blocks = c.blocks(l)
			came, took := l.fetch(0, 4)
			if took > 400*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			if came > 1 || what != "a block, then silence" && came > 0 {
				t.Errorf("%d blocks came", came)
			}
			if bad := l.p.Stats.Bad.Load() > 0; bad != c.bad {
				t.Errorf("%d bad blocks are counted", l.p.Stats.Bad.Load())
			}
			if _, took := l.fetch(4, 8); o.asked != 1 || took > 20*time.Millisecond {
				t.Errorf("it was asked %d times; the next read took %v", o.asked, took)
			}
			// It is well again, and is asked again in time.
			o.blocks = l.has
			if l.now = time.Second; c.bad {
				l.now = maxPause - time.Second
				if came, _ := l.fetch(8, 12); came != 0 {
					t.Error("a host that sent something else is asked again soon")
				}
				l.now = maxPause + time.Second
			}
			if came, _ := l.fetch(8, 12); came != 4 {
				t.Errorf("%d blocks come from it when it is well", came)
			}
		})
	}
}

// TestMisses: a block that a host does not have costs one round trip, and is not asked for
// again for a while. A host that has nothing is asked less and less.
func TestMisses(t *testing.T) {
	o := &other{blocks: func(context.Context, api.BlocksRequest, func(int, []byte) error) error { return nil }}
	l := newLab(t, 400, o)
	l.fetch(0, 1)
	l.fetch(0, 1)
	if o.asked != 1 {
		t.Errorf("for one block that it does not have, it was asked %d times", o.asked)
	}
	if l.now = 2*missedFor + time.Second; true {
		l.fetch(0, 1)
	}
	if o.asked != 2 {
		t.Errorf("after a while it was asked %d times in all", o.asked)
	}
	for i := 1; i < 400; i++ {
		l.fetch(i, i+1)
	}
	if o.asked > 2+dryAfter {
		t.Errorf("a host that has nothing was asked %d times", o.asked)
	}
	l.now += maxDry
	o.blocks = l.has
	if came, _ := l.fetch(300, 310); came != 10 {
		t.Errorf("now that it has blocks, %d came", came)
	}
}

// TestMemoryIsBounded: so many misses do not fill the memory.
func TestMemoryIsBounded(t *testing.T) {
	var m memory
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 10 * maxMissed {
		var h pack.Hash
		for k := range h {
			h[k] = byte(r.Uint32())
		}
		m.answered(time.Duration(i)*time.Millisecond, 1, []pack.Hash{h})
		if n := len(m.missed[0]) + len(m.missed[1]); n > 2*maxMissed {
			t.Fatalf("%d misses are remembered", n)
		}
	}
}

// TestHostsAreBounded: however many hosts the commit log names.
func TestHostsAreBounded(t *testing.T) {
	o := &other{}
	p := New(Options{On: true, Uptime: func() time.Duration { return 0 }, Dial: func(string, string) (Peer, error) { return o, nil }})
	for i := range 1000 {
		p.Learn("tenant"+string(rune('a'+i%100)), "h", []string{hex.EncodeToString([]byte{byte(i >> 8), byte(i)}), "x", "y", "z", "u"})
	}
	if len(p.hosts) != maxHosts {
		t.Errorf("%d hosts are remembered", len(p.hosts))
	}
	for _, h := range p.hosts {
		if len(h.tenants) > maxTenants {
			t.Errorf("%d tenants of one host are remembered", len(h.tenants))
		}
	}
}

// TestServe: a host sends only what it has and what matches, and nothing if it is off.
func TestServe(t *testing.T) {
	l := newLab(t, 4)
	rotten := bytes.Clone(l.raw[2])
	rotten[9] ^= 1
	disk := map[pack.Hash][]byte{l.hashes[0]: l.raw[0], l.hashes[2]: rotten}
	local := func(h *pack.Hash, p []byte) bool { return copy(p, disk[*h]) == len(p) }
	r := api.BlocksRequest{Tenant: "t", BlockSize: size}
	for _, h := range l.hashes {
		r.Hashes = append(r.Hashes, h.String())
	}
	serve := func(on bool, r api.BlocksRequest) (sent []int, err error) {
		err = New(Options{On: on, Local: local, Hasher: pack.NewHasher}).Serve(t.Context(), r, func(i int, raw []byte) error {
			if sent = append(sent, i); !bytes.Equal(raw, l.raw[i]) {
				t.Errorf("block %d is sent with other bytes", i)
			}
			return nil
		})
		return sent, err
	}
	if sent, err := serve(true, r); err != nil || len(sent) != 1 || sent[0] != 0 {
		t.Errorf("blocks %v were sent, %v", sent, err)
	}
	if sent, err := serve(false, r); err != nil || len(sent) != 0 {
		t.Errorf("a host that does not exchange blocks sent %v, %v", sent, err)
	}
	other := r
	other.Tenant = "another"
	if sent, err := serve(true, other); err != nil || len(sent) != 0 {
		t.Errorf("for another tenant %v were sent, %v", sent, err)
	}
	r.Hashes = []string{"0123"}
	if _, err := serve(true, r); err == nil {
		t.Error("half a hash is taken")
	}
}
