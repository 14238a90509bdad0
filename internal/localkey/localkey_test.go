package localkey

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

func keyFile(t *testing.T, name string) (provider string, raw []byte) {
	t.Helper()
	raw = make([]byte, 32)
	_, _ = rand.Read(raw)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + path, raw
}

func keyring(t *testing.T, data string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(data, "keys", "*", "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the keyrings are %v, %v", found, err)
	}
	return found[0]
}

// TestOpen: the first start makes the key, and later ones open the same.
func TestOpen(t *testing.T) {
	ctx, data := context.Background(), t.TempDir()
	if l, err := Open(ctx, data, "", "host-1"); l != nil || err != nil {
		t.Fatalf("without a key: %v, %v", l, err)
	}
	if list, _ := os.ReadDir(data); len(list) != 0 {
		t.Errorf("without a key there is %v", list)
	}
	provider, raw := keyFile(t, "key")
	first, err := Open(ctx, data, provider, "host-1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(ctx, data, provider, "host-1")
	if err != nil || again.Mark() != first.Mark() {
		t.Fatalf("%v, %v, and then %v", err, first, again)
	}
	sealed := first.SealValue(nil, []byte("k"), []byte("v"))
	if v, err := again.OpenValue(nil, 1, seal.AES256GCM, []byte("k"), sealed); err != nil || string(v) != "v" {
		t.Errorf("%q, %v", v, err)
	}
	if b, err := os.ReadFile(keyring(t, data)); err != nil || bytes.Contains(b, raw) {
		t.Errorf("the key itself is in the keyring (%v)", err)
	}
}

// TestRefusals: whatever is wrong with the key of a sealed directory, it is said, and
// nothing changes: with the right one it opens again.
func TestRefusals(t *testing.T) {
	ctx, data := context.Background(), t.TempDir()
	right, _ := keyFile(t, "key")
	wrong, _ := keyFile(t, "other")
	if _, err := Open(ctx, data, right, "host-1"); err != nil {
		t.Fatal(err)
	}
	ring := keyring(t, data)
	away := func(path string) func() func() {
		return func() func() {
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.Rename(path+".away", path); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		provider, host string
		change         func() func()
		kind           errs.Kind
		text           string
	}{
		"none":             {"", "host-1", nil, errs.Invalid, "give the --local-key that it had"},
		"wrong":            {wrong, "host-1", nil, errs.Unavailable, "give the --local-key that the directory was sealed with"},
		"gone":             {right, "host-1", away(strings.TrimPrefix(right, "file:")), errs.Unavailable, "nothing is lost: start glide again when"},
		"no provider":      {"nonsense", "host-1", nil, errs.Invalid, "--local-key"},
		"no keyring":       {right, "host-1", away(ring), errs.Unavailable, "put the directory's keys/ back"},
		"no keyrings":      {right, "host-1", away(filepath.Join(data, "keys")), errs.Unavailable, "put the directory's keys/ back"},
		"another host":     {right, "host-2", nil, errs.Corrupt, "host-2"},
		"a damaged marker": {right, "host-1", overwrite(t, filepath.Join(data, markerFile), "{}"), errs.Corrupt, "put it back from a copy"},
		"a newer marker": {right, "host-1", overwrite(t, filepath.Join(data, markerFile), `{"format":"glide-local-key","version":2}`), errs.Unsupported,
			"use a newer glide"},
		"a damaged keyring": {right, "host-1", overwrite(t, ring, "GLDK"), errs.Corrupt, "keys/ back"},
	} {
		undo := func() {}
		if c.change != nil {
			undo = c.change()
		}
		l, err := Open(ctx, data, c.provider, c.host)
		if l != nil || errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, of kind %v", name, err, errs.KindOf(err))
		}
		undo()
		if _, err := Open(ctx, data, right, "host-1"); err != nil {
			t.Fatalf("after %s: %v", name, err)
		}
		if keyring(t, data) != ring {
			t.Fatalf("%s: there is another keyring", name)
		}
	}
}

func overwrite(t *testing.T, path, text string) func() func() {
	return func() func() {
		before, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(path, before, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestProvidersThatOnlyWrap: a recipient whose identity is elsewhere would lock the host
// out at its next start; the directory does not become sealed.
func TestProvidersThatOnlyWrap(t *testing.T) {
	ctx, data := context.Background(), t.TempDir()
	const recipient = "age:age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
	if l, err := Open(ctx, data, recipient, "host-1"); l != nil || err == nil {
		t.Fatalf("%v, %v", l, err)
	}
	if _, err := os.Stat(filepath.Join(data, markerFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is sealed: %v", err)
	}
	if l, err := Open(ctx, data, "", "host-1"); l != nil || err != nil {
		t.Errorf("%v, %v", l, err)
	}
}

// TestEncrypted: dm-crypt is seen through other layers, and only if it is below all of a
// device.
func TestEncrypted(t *testing.T) {
	sys := t.TempDir()
	put := func(device, uuid string) {
		if err := os.MkdirAll(filepath.Join(sys, device, "dm"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, device, "dm", "uuid"), []byte(uuid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("crypt", "CRYPT-LUKS2-1")
	put("lvm", "LVM-1")
	put("lvm/slaves/a", "CRYPT-LUKS2-1")
	put("half", "LVM-2")
	put("half/slaves/a", "CRYPT-LUKS2-1")
	put("half/slaves/b", "LVM-3")
	if err := os.MkdirAll(filepath.Join(sys, "plain"), 0o700); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string][2]bool{"crypt": {true, true}, "lvm": {true, true}, "half": {false, true}, "plain": {false, true}, "none": {false, false}} {
		if yes, known := encrypted(filepath.Join(sys, device), maxLayers); yes != want[0] || known != want[1] {
			t.Errorf("%s: %v, %v", device, yes, known)
		}
	}
	Encrypted(t.TempDir()) // of this machine it may be anything
}
