package keys

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/paraglide/glide/internal/fuzztest"
)

// FuzzUnwrap: a wrap, which nobody vouches for, gives no key but the one that was wrapped,
// and costs what its length and the parameters of Argon2id may.
func FuzzUnwrap(f *testing.F) {
	dir := f.TempDir()
	write := func(name, content string) source {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			f.Fatal(err)
		}
		return source{"file", path}
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	words := &passphrase{write("words", "correct horse")}
	cheap := &Argon2{Salt: make([]byte, argonSalt), MemoryKiB: 8, Passes: 1, Threads: 1}
	providers := []Provider{
		&rawKey{write("key", string(count(1)))},
		&ageKey{identity: write("identity", identity.String()).name},
		words,
	}
	kek := keyOf(f, count(0xc0))
	var ids []string
	for i, p := range providers {
		w, err := p.Wrap(context.Background(), goldenDomain, kek)
		if err != nil {
			f.Fatal(err)
		}
		if p == Provider(words) {
			key, err := words.key(cheap)
			if err != nil {
				f.Fatal(err)
			}
			w.Params, w.Blob = cheap, wrapWith(key, goldenDomain, kek)
		}
		ids = append(ids, w.ID)
		f.Add(uint8(i), w.Blob)
		f.Add(uint8(i), w.Blob[:len(w.Blob)-1])
	}
	f.Fuzz(func(t *testing.T, i uint8, blob []byte) {
		n := int(i) % len(providers)
		w := Wrap{Kind: providers[n].Kind(), ID: ids[n], Blob: blob}
		if n == 2 {
			w.Params = cheap
		}
		// age has buffers of 64 KiB for reading, for what it read, and for a chunk.
		fuzztest.Bound(t, len(blob), 512<<10, 8, func() {
			// An age file is for a public recipient: others can make one.
			if got, err := providers[n].Unwrap(context.Background(), goldenDomain, w); err == nil && n != 1 && !got.Equal(kek) {
				t.Errorf("%v: %x opens", providers[n], blob)
			}
		})
	})
}

// FuzzParse: what names a provider is printed as it was given, and what does not is an error.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"file:/k", "env:K", "credential:k", "passphrase:file=/p", "age:identity=/i", "kms:arn:aws:kms:r:a:key/k", "vault:https://h/transit/k", "vault:http://[::1]:1/a/b/c"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err == nil && (p.String() != text || p.Kind() == "") {
			t.Errorf("%q is printed as %q", text, p)
		}
		if (err == nil) != (p != nil) {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	})
}
