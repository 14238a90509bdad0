package flush

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// Pins announces to collectors what a host is about to refer to. Each method returns when
// the pin is durable in the store. It also returns a function that drops the pin.
type Pins interface {
	// PinSession announces every pack, in all domains, whose nonce begins with these bytes.
	//
	// glide:blocks
	PinSession(ctx context.Context, nonce [8]byte) (drop func(context.Context) error, err error)
	// PinPacks announces packs by name.
	//
	// glide:blocks
	PinPacks(ctx context.Context, ids []pack.ID) (drop func(context.Context) error, err error)
}

// sessionPacks is how many packs share one nonce before the session rotates.
const sessionPacks = 4096

// Session is a host's open upload session. The keys of its packs carry its nonce, and a
// pin announces the nonce before the first pack is uploaded. So its packs need no check
// before they are referred to (reachable-is-kept). A session that is not used makes no
// request. It may be used concurrently.
type Session struct {
	store objstore.Store
	pins  Pins
	rand  func() uint64

	mu     sync.Mutex // held while a pin is created
	open   bool
	nonce  [8]byte
	count  uint32
	drop   func(context.Context) error
	users  int                           // folds that are using the session
	stale  []func(context.Context) error // pins of rotated sessions, dropped when no fold is in progress
	issued map[[8]byte]bool              // nonces whose pins still exist
	spare  []*pack.Builder               // for reuse; all were made with limits
	limits pack.Limits
}

// NewSession returns a session. rand is the source of its nonces.
func NewSession(store objstore.Store, pins Pins, rand func() uint64) *Session {
	return &Session{store: store, pins: pins, rand: rand, issued: map[[8]byte]bool{}}
}

// Begin begins a fold. The caller calls end when the fold's root is committed or
// abandoned. Until then the pins of its packs stay.
func (s *Session) Begin() (end func(context.Context)) {
	s.mu.Lock()
	s.users++
	s.mu.Unlock()
	return func(ctx context.Context) {
		s.mu.Lock()
		s.users--
		var drop []func(context.Context) error
		if s.users == 0 {
			s.spare = nil
			drop, s.stale = s.stale, nil
			clear(s.issued)
			if s.open {
				s.issued[s.nonce] = true
			}
		}
		s.mu.Unlock()
		for _, d := range drop {
			// A pin that stays only keeps some garbage. The next start of this host drops
			// it.
			_ = d(ctx)
		}
	}
}

// newPack begins a pack of the session, in a domain, or that of the keys. Domains share the session: no nonce is
// used in two of them. If needed it first opens or rotates the session.
func (s *Session) newPack(ctx context.Context, c pack.Codec, domain uint32, limits pack.Limits) (*pack.Builder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open && s.count >= sessionPacks {
		s.stale = append(s.stale, s.drop)
		s.open = false
	}
	if !s.open {
		var nonce [8]byte
		binary.LittleEndian.PutUint64(nonce[:], s.rand())
		drop, err := s.pins.PinSession(ctx, nonce)
		if err != nil {
			return nil, err
		}
		s.open, s.nonce, s.count, s.drop = true, nonce, 0, drop
		s.issued[nonce] = true
	}
	var n [12]byte
	copy(n[:], s.nonce[:])
	binary.BigEndian.PutUint32(n[8:], s.count)
	s.count++
	if last := len(s.spare) - 1; last >= 0 && s.limits == limits {
		b := s.spare[last]
		s.spare = s.spare[:last]
		b.Begin(c, domain, n)
		return b, nil
	}
	s.spare, s.limits = nil, limits
	b := pack.NewBuilder(domain, n, limits)
	b.Begin(c, domain, n)
	return b, nil
}

// spareBuilders is how many builders, of about 3 MB each, are kept for reuse while folds
// are in progress.
const spareBuilders = 8

// reuse accepts a builder whose object has been uploaded.
func (s *Session) reuse(b *pack.Builder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users > 0 && len(s.spare) < spareBuilders {
		s.spare = append(s.spare, b)
	}
}

// owns reports whether the pack was uploaded under a pin of this session that still
// exists. The pin is for all domains, so the nonce alone tells.
func (s *Session) owns(id pack.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued[[8]byte(id.Nonce[:8])]
}

// Rotate ends the open session, unless a fold is using it, so that a collector may take
// what became garbage of its packs. The next fold opens another.
func (s *Session) Rotate(ctx context.Context) error {
	s.mu.Lock()
	if s.users > 0 || !s.open {
		s.mu.Unlock()
		return nil
	}
	drop := s.drop
	s.open = false
	delete(s.issued, s.nonce)
	s.mu.Unlock()
	return drop(ctx)
}

// Close drops the session's pins. No fold may be in progress.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	drop := s.stale
	if s.open {
		drop = append(drop, s.drop)
	}
	s.open, s.stale = false, nil
	clear(s.issued)
	s.mu.Unlock()
	var first error
	for _, d := range drop {
		if err := d(ctx); err != nil && first == nil {
			first = err
		}
	}
	return first
}
