package keys

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// ageKey is a recipient of age, to whom a keyring can be written without a secret, or a
// file with identities. A recipient is public: that a wrap opens says nothing of who
// made it. So a host that opens keyrings with age and remembers none takes what
// the store shows it; age is for recovery, and for hosts that trust their store.
type ageKey struct{ recipient, identity string } // one of them

func parseAge(rest string) (Provider, error) {
	if path, ok := strings.CutPrefix(rest, "identity="); ok && path != "" {
		return &ageKey{identity: path}, nil
	}
	if _, err := ageRecipient(rest); err != nil {
		return nil, err
	}
	return &ageKey{recipient: rest}, nil
}

func ageRecipient(text string) (age.Recipient, error) {
	var r age.Recipient
	var err error
	if strings.HasPrefix(text, "age1pq1") {
		r, err = age.ParseHybridRecipient(text)
	} else {
		r, err = age.ParseX25519Recipient(text)
	}
	if err != nil { // not with its text: it may be an identity, which is secret
		return nil, errs.New(errs.Invalid, "not a recipient of age: say age:age1… or age:identity=PATH")
	}
	return r, nil
}

// String implements Provider.
func (a *ageKey) String() string {
	if a.identity != "" {
		return kindAge + ":identity=" + a.identity
	}
	return kindAge + ":" + a.recipient
}

// Kind implements Provider.
func (*ageKey) Kind() string { return kindAge }

// identities reads the file, and the recipients that belong to what is in it.
func (a *ageKey) identities() (ids []age.Identity, recipients []string, err error) {
	b, err := readSecret(a.identity, true)
	if err != nil {
		return nil, nil, err
	}
	if ids, err = age.ParseIdentities(bytes.NewReader(b)); err != nil {
		return nil, nil, errs.New(errs.Invalid, "%s is not a file of identities of age: make one with age-keygen", a.identity)
	}
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			recipients = append(recipients, id.Recipient().String())
		case *age.HybridIdentity:
			recipients = append(recipients, id.Recipient().String())
		default:
			return nil, nil, errs.New(errs.Unsupported, "%s has an identity of a kind that this release does not know", a.identity)
		}
	}
	return ids, recipients, nil
}

// Wrap implements Provider. Of a file it takes the first identity.
func (a *ageKey) Wrap(_ context.Context, _ uint32, kek seal.Key) (Wrap, error) {
	id := a.recipient
	if id == "" {
		_, recipients, err := a.identities()
		if err != nil {
			return Wrap{}, err
		}
		id = recipients[0]
	}
	r, err := ageRecipient(id)
	if err != nil {
		return Wrap{}, err
	}
	var blob bytes.Buffer
	w, err := age.Encrypt(&blob, r)
	if err != nil {
		return Wrap{}, fmt.Errorf("%v: %w", a, err)
	}
	if _, err := w.Write(kek.Append(nil)); err != nil {
		return Wrap{}, fmt.Errorf("%v: %w", a, err)
	}
	if err := w.Close(); err != nil {
		return Wrap{}, fmt.Errorf("%v: %w", a, err)
	}
	return Wrap{Kind: kindAge, ID: id, Blob: blob.Bytes()}, nil
}

// Unwrap implements Provider.
func (a *ageKey) Unwrap(_ context.Context, _ uint32, w Wrap) (seal.Key, error) {
	if a.identity == "" {
		return seal.Key{}, locked(ErrWrongKey, "%v is a recipient, who cannot open the keyring here: name the identity with age:identity=PATH", a)
	}
	ids, _, err := a.identities()
	if err != nil {
		return seal.Key{}, err
	}
	r, err := age.Decrypt(bytes.NewReader(w.Blob), ids...)
	if err != nil {
		return seal.Key{}, locked(ErrWrongKey, "%v has no identity that opens what is wrapped for %.100s: find its file", a, w.ID)
	}
	b, err := io.ReadAll(io.LimitReader(r, seal.KeySize+1))
	if err != nil || len(b) != seal.KeySize {
		return seal.Key{}, locked(ErrWrongKey, "%v opens something that is no key", a)
	}
	return seal.KeyOf(b)
}
