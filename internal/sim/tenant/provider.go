package tenant

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/seal"
)

// kind is that of a Provider's wraps.
const kind = "sim"

// Provider wraps the KEKs of keyrings with a key in memory. It implements keys.Provider.
type Provider struct {
	key seal.Key

	mu    sync.Mutex
	until time.Time // of its trouble
	why   error     // keys.ErrAway or keys.ErrDenied
}

// Other returns a provider with the same key, which has its own troubles: another host's
// way to the same service.
func (p *Provider) Other() *Provider { return &Provider{key: p.key} }

// Trouble makes calls fail for a while, with keys.ErrAway or keys.ErrDenied.
func (p *Provider) Trouble(why error, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why, p.until = why, time.Now().Add(d)
}

func (p *Provider) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.until) {
		return fmt.Errorf("%w: %w", p.why, errs.New(errs.Unavailable, "%v", p))
	}
	return nil
}

// Kind implements keys.Provider.
func (*Provider) Kind() string { return kind }

// String implements keys.Provider.
func (*Provider) String() string { return kind + ":key" }

// Wrap implements keys.Provider.
func (p *Provider) Wrap(_ context.Context, domain uint32, kek seal.Key) (keys.Wrap, error) {
	if err := p.trouble(); err != nil {
		return keys.Wrap{}, err
	}
	return keys.Wrap{Kind: kind, ID: "key", Blob: p.key.Derive("wrap", domain).Seal(nil, seal.AES256GCM, nil, kek.Append(nil))}, nil
}

// Unwrap implements keys.Provider.
func (p *Provider) Unwrap(_ context.Context, domain uint32, w keys.Wrap) (seal.Key, error) {
	if err := p.trouble(); err != nil {
		return seal.Key{}, err
	}
	b, err := p.key.Derive("wrap", domain).Open(nil, seal.AES256GCM, nil, w.Blob)
	if err != nil {
		return seal.Key{}, err
	}
	return seal.KeyOf(b)
}
