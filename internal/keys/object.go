package keys

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

const (
	magic   = "GLDK"
	version = 1
	// fixed is the length of what stands before the header: magic, version, zero, domain,
	// number, hash of the predecessor, and the lengths of header and body.
	fixed   = 4 + 2 + 2 + 4 + 8 + 32 + 4 + 4
	macSize = 32

	// maxSize is the largest size of a keyring, in bytes, on write and on read. It holds
	// about 500 roots.
	maxSize = 64 << 10
	// maxWraps bounds how many providers a keyring is wrapped for.
	maxWraps = 32
	// maxBlob bounds a wrapped key: a KMS returns 200 bytes, age 300, or 2,000 with a
	// recipient that withstands quantum computers.
	maxBlob = 6 << 10
	maxID   = 3 << 10 // a recipient of the latter kind has 2,000 bytes
	maxKind = 32
	// maxNumber is the greatest that the ten digits of an object key can say.
	maxNumber = 9_999_999_999
)

var le = binary.LittleEndian

// Wrap is the KEK of a keyring, wrapped by one provider.
type Wrap struct {
	Kind   string  `json:"kind"`
	ID     string  `json:"id"` // which key of that kind; public
	Params *Argon2 `json:"params,omitempty"`
	Blob   []byte  `json:"blob"`
}

// String names the provider.
func (w Wrap) String() string { return w.Kind + ":" + w.ID }

// header is what has to be readable to get at the KEK.
type header struct {
	Suite seal.Suite `json:"suite"` // of the body, and of what is sealed in the domain
	Wraps []Wrap     `json:"wraps"`
}

// check finds what is wrong with the header, as text; "" when nothing is.
func (h *header) check() string {
	if len(h.Wraps) < 1 || len(h.Wraps) > maxWraps {
		return fmt.Sprintf("it is wrapped for %d providers, not 1 to %d", len(h.Wraps), maxWraps)
	}
	seen := map[string]bool{}
	for _, w := range h.Wraps {
		switch {
		case w.Kind == "" || len(w.Kind) > maxKind || len(w.ID) > maxID || len(w.Blob) == 0 || len(w.Blob) > maxBlob:
			return "one of its wraps has no kind or key, or is too long"
		case seen[w.String()]: // also bounds passphrases, which are slow to try, to one
			return fmt.Sprintf("it is wrapped twice for %.100q", w)
		case (w.Params != nil) != (w.Kind == kindPassphrase):
			return fmt.Sprintf("parameters are missing or too many for %.100q", w)
		}
		if w.Params != nil {
			if wrong := w.Params.check(); wrong != "" {
				return wrong
			}
		}
		seen[w.String()] = true
	}
	return ""
}

// object is a keyring's object of which the body is still sealed.
type object struct {
	domain uint32
	number uint64
	prev   [32]byte // BLAKE3 of the predecessor; zero of the first
	header header

	hash   [32]byte // BLAKE3 of all of it
	before []byte   // all before the MAC
	mac    []byte
	body   []byte // sealed
}

// strict decodes JSON and refuses a field that it does not know: who changes a keyring
// writes all of it again, and would lose what a newer release put there.
func strict(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("there is more after it")
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return errs.New(errs.Corrupt, "bad keyring: %w", fmt.Errorf(format, args...))
}

// decode reads all of a keyring but its body. One of a newer version is errs.Unsupported,
// anything else that encode does not write errs.Corrupt. Nothing of it is confirmed yet.
func decode(raw []byte) (*object, error) {
	if len(raw) < fixed+macSize || len(raw) > maxSize || string(raw[:4]) != magic {
		return nil, errs.New(errs.Corrupt, "not a keyring (%d bytes)", len(raw))
	}
	if v := le.Uint16(raw[4:]); v != version || le.Uint16(raw[6:]) != 0 {
		if v > version {
			return nil, errs.New(errs.Unsupported, "keyring of version %d, this release reads up to %d; use a newer glide", v, version)
		}
		return nil, corrupt("version %d, and %d in a field that must be zero", v, le.Uint16(raw[6:]))
	}
	o := &object{domain: le.Uint32(raw[8:]), number: le.Uint64(raw[12:]), prev: [32]byte(raw[20:52]), hash: blake3.Sum256(raw)}
	h, b := uint64(le.Uint32(raw[52:])), uint64(le.Uint32(raw[56:]))
	if fixed+h+macSize+b != uint64(len(raw)) {
		return nil, corrupt("its lengths, %d and %d, are not those of %d bytes", h, b, len(raw))
	}
	if o.domain == 0 || o.number == 0 || o.number > maxNumber {
		return nil, corrupt("number %d of domain %d", o.number, o.domain)
	}
	o.before, raw = raw[:fixed+h], raw[fixed+h:]
	o.mac, o.body = raw[:macSize], raw[macSize:]
	if err := strict(o.before[fixed:], &o.header); err != nil {
		return nil, corrupt("its header: %w", err)
	}
	if wrong := o.header.check(); wrong != "" {
		return nil, corrupt("%s", wrong)
	}
	if err := o.header.Suite.Check(); err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return o, nil
}

// open opens the body with the KEK. Whoever wrapped it, the MAC decides whether it is the
// KEK of this keyring; only then is the body looked at.
func (o *object) open(kek seal.Key) (*contents, error) {
	mac := kek.Derive("header", o.domain).MAC(o.before)
	if !hmac.Equal(mac[:], o.mac) {
		return nil, corrupt("keyring %d of domain %08x was changed by somebody who does not have its key", o.number, o.domain)
	}
	raw, err := kek.Derive("body", o.domain).Open(nil, o.header.Suite, append(bytes.Clone(o.before), o.mac...), o.body)
	if err != nil {
		return nil, corrupt("keyring %d of domain %08x: %w", o.number, o.domain, err)
	}
	c := &contents{}
	if err := strict(raw, c); err != nil {
		// The tag is right, so this is the work of a release that has more fields.
		return nil, errs.New(errs.Unsupported, "keyring %d of domain %08x was written by another release (%w); use a newer glide", o.number, o.domain, err)
	}
	if wrong := c.check(o.domain); wrong != "" {
		return nil, corrupt("keyring %d of domain %08x: %s", o.number, o.domain, wrong)
	}
	return c, nil
}

// encode is the bytes of a keyring. One that decode and open would refuse is errs.Invalid.
func encode(domain uint32, number uint64, prev [32]byte, h header, kek seal.Key, c *contents) ([]byte, error) {
	wrong := h.check()
	if wrong == "" {
		wrong = c.check(domain)
	}
	if wrong == "" && (domain == 0 || number == 0 || number > maxNumber) {
		wrong = "it has no domain, or no number"
	}
	if wrong != "" {
		return nil, errs.New(errs.Invalid, "keyring %d of domain %08x cannot be written: %s", number, domain, wrong)
	}
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	raw := le.AppendUint32(append(le.AppendUint16([]byte(magic), version), 0, 0), domain)
	raw = append(le.AppendUint64(raw, number), prev[:]...)
	raw = le.AppendUint32(raw, uint32(len(head)))
	raw = le.AppendUint32(raw, uint32(len(plain)+h.Suite.Overhead()))
	raw = append(raw, head...)
	mac := kek.Derive("header", domain).MAC(raw)
	raw = append(raw, mac[:]...)
	if n := len(raw) + len(plain) + h.Suite.Overhead(); n > maxSize {
		return nil, errs.New(errs.Invalid, "keyring %d of domain %08x cannot be written: it has %d bytes, at most %d are possible; retire old roots",
			number, domain, n, maxSize)
	}
	return kek.Derive("body", domain).Seal(raw, h.Suite, bytes.Clone(raw), plain), nil
}
