package pinobject

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sealed"
)

const (
	prefix  = "pins/"
	format  = "glide-pin"
	version = 3 // sealed; versions 1 and 2, which are read too, are not
	// maxSize is the largest size of a pin, in bytes, on write and on read. It holds
	// 17,000 packs; a host that needs more creates more pins.
	maxSize = 1 << 20
)

// ID identifies a pin among those of its host. It is random and never used again.
type ID [16]byte

// String is the ID in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String; it makes ID a string in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (id *ID) UnmarshalText(text []byte) error { return commitlog.Unhex(id[:], text, "pin ID") }

// Kind says what a pin keeps.
type Kind string

// The kinds of pins.
const (
	Session  Kind = "session"        // an upload session: every pack that carries Nonce, in all domains
	Packs    Kind = "packs"          // Packs: dedup hits that will be published
	Fork     Kind = "fork"           // Commit: the source of a fork to another name
	Children Kind = "local-children" // Roots and Commits: what volumes' local children still need
)

// Nonce is what the packs of one upload session have in common: the first
// eight bytes of their pack.ID's Nonce.
type Nonce [8]byte

// MarshalText is the nonce in hexadecimal.
func (n Nonce) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(n[:])), nil }

// UnmarshalText reads 16 hexadecimal digits.
func (n *Nonce) UnmarshalText(text []byte) error { return commitlog.Unhex(n[:], text, "session nonce") }

// PackName is a pack.ID that has its text form in JSON.
type PackName pack.ID

// MarshalText is the text form.
func (n PackName) MarshalText() ([]byte, error) { return []byte(pack.ID(n).String()), nil }

// UnmarshalText reads what MarshalText writes, and nothing else.
func (n *PackName) UnmarshalText(text []byte) error {
	id, ok := pack.ParseID(string(text))
	if !ok {
		return errs.New(errs.Corrupt, "%.80q is no pack", text)
	}
	*n = PackName(id)
	return nil
}

// Pin is a small immutable object by which a host announces what it will refer to
// soon, or still needs. Only the fields of its kind are set.
//
// The order is: create the pin, check what it names, publish what refers to it, drop
// the pin (docs/protocols.md, Pins, rules 2 and 3). A session's pin exists before its
// packs, which need no check.
type Pin struct {
	Host      string    `json:"host"`
	ID        ID        `json:"id"`
	Kind      Kind      `json:"kind"`
	CreatedAt time.Time `json:"created_at"` // by the host's clock; for people only

	Nonce   Nonce           `json:"nonce,omitzero"`
	Packs   []PackName      `json:"packs,omitempty"`
	Commit  string          `json:"commit,omitempty"`  // key of a commit
	Commits []string        `json:"commits,omitempty"` // keys of commits
	Roots   []blockmap.Root `json:"roots,omitempty"`
}

// New starts a pin of the host. The caller sets the fields of its kind.
func New(random io.Reader, host string, kind Kind, now time.Time) (Pin, error) {
	p := Pin{Host: host, Kind: kind, CreatedAt: now.UTC()}
	if _, err := io.ReadFull(random, p.ID[:]); err != nil {
		return Pin{}, fmt.Errorf("no random bytes for a pin: %w", err)
	}
	return p, nil
}

// Key is the pin's object key: pins/<host>/<id>.
func (p *Pin) Key() string { return prefix + p.Host + "/" + p.ID.String() }

type wire struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	*Pin
}

// Encode is the pin's bytes. A pin that Decode would refuse is errs.Invalid.
func (p *Pin) Encode() ([]byte, error) {
	if wrong := p.check(); wrong != "" {
		return nil, errs.New(errs.Invalid, "pin %s cannot be written: %s", p.Key(), wrong)
	}
	raw, err := sealed.Marshal(wire{format, version, p})
	if err != nil {
		return nil, fmt.Errorf("pin %s: %w", p.Key(), err)
	}
	if len(raw) > maxSize {
		return nil, errs.New(errs.Invalid, "pin %s cannot be written: it has %d bytes, at most %d are possible", p.Key(), len(raw), maxSize)
	}
	return raw, nil
}

// Decode reads a pin. One of a newer version is errs.Unsupported, anything
// else that Encode does not write errs.Corrupt.
func Decode(raw []byte) (Pin, error) {
	if len(raw) > maxSize {
		return Pin{}, errs.New(errs.Corrupt, "not a pin (%d bytes)", len(raw))
	}
	// The version decides how the rest is to be read.
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	body, is, err := sealed.Open(raw)
	if err != nil {
		return Pin{}, errs.New(errs.Corrupt, "bad pin: %w", err)
	}
	if err := json.Unmarshal(body, &head); err != nil || head.Format != format {
		return Pin{}, errs.New(errs.Corrupt, "not a pin (%d bytes)", len(raw))
	}
	if head.Version > version {
		return Pin{}, errs.New(errs.Unsupported, "pin of version %d, this release reads up to %d; use a newer glide",
			head.Version, version)
	}
	var p Pin
	if err := json.Unmarshal(body, &p); err != nil {
		return Pin{}, errs.New(errs.Corrupt, "bad pin: %w", err)
	}
	if wrong := p.check(); wrong != "" || head.Version < 1 || is != (head.Version == version) {
		return Pin{}, errs.New(errs.Corrupt, "bad pin of version %d: %s", head.Version, wrong)
	}
	return p, nil
}

// check finds what is wrong with the pin, as text; "" when nothing is.
func (p *Pin) check() string {
	var named int // what it keeps
	switch p.Kind {
	case Session:
		if p.Nonce != (Nonce{}) {
			named = 1
		}
	case Packs:
		named = len(p.Packs)
	case Fork:
		named = len(p.Commit)
	case Children:
		named = len(p.Commits) + len(p.Roots)
	}
	switch {
	case !commitlog.ValidName(p.Host) || p.ID == ID{}:
		return "it has no host or no ID"
	case named == 0:
		return fmt.Sprintf("it is a pin of kind %.40q that names nothing", p.Kind)
	}
	keys := p.Commits
	if p.Commit != "" {
		keys = []string{p.Commit}
	}
	for _, key := range keys {
		if _, _, err := commitlog.ParseKey(key); err != nil {
			return err.Error()
		}
	}
	return ""
}

// Create creates the pin. It may be called again after an error: the pin is
// the same.
func Create(ctx context.Context, store objstore.Store, p Pin) error {
	raw, err := p.Encode()
	if err != nil {
		return err
	}
	err = store.PutIfAbsent(ctx, p.Key(), raw)
	if errors.Is(err, errs.Exists) { // IDs are random: it is ours, from a request whose answer was lost
		return nil
	}
	return err
}

// Drop removes a pin. A create request of it that is still under way may bring
// it back; a host drops pins of its own that it does not know.
func Drop(ctx context.Context, store objstore.Store, p Pin) error {
	return store.Delete(ctx, p.Key())
}

// List calls fn for every pin of the host, of all hosts if host is empty. A pin
// that cannot be read is an error that names its key; one that is dropped
// meanwhile is left out. An error of fn ends it and is returned.
func List(ctx context.Context, store objstore.Store, host string, fn func(Pin) error) error {
	return Each(ctx, store, host, func(ID) bool { return false }, fn)
}

// Each is List without the pins that skip knows by their IDs, which are not read.
func Each(ctx context.Context, store objstore.Store, host string, skip func(ID) bool, fn func(Pin) error) error {
	under := prefix
	if host != "" {
		under += host + "/"
	}
	var failed error
	err := objstore.ListAll(ctx, store, under, "", func(in objstore.Info) bool {
		var id ID
		if id.UnmarshalText([]byte(in.Key[strings.LastIndexByte(in.Key, '/')+1:])) == nil && skip(id) {
			return true
		}
		p, err := load(ctx, store, in.Key)
		if errors.Is(err, errs.NotFound) {
			return true
		}
		if err == nil {
			err = fn(p)
		}
		failed = err
		return err == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func load(ctx context.Context, store objstore.Store, key string) (Pin, error) {
	raw, err := store.Get(ctx, key)
	if err != nil {
		return Pin{}, fmt.Errorf("pin %s: %w", key, err)
	}
	p, err := Decode(raw)
	if err != nil {
		return Pin{}, fmt.Errorf("pin %s: %w", key, err)
	}
	if p.Key() != key {
		return Pin{}, errs.New(errs.Corrupt, "%s holds the pin %s", key, p.Key())
	}
	return p, nil
}
