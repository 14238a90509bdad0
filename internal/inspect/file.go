package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/audit"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
	"github.com/paraglide/glide/internal/sealed"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/wal"
)

// whole lists the kinds of files that are decoded as a whole, by their first bytes.
var whole = []struct {
	magic string
	dump  func(w io.Writer, raw []byte) error
}{
	{"GLDC", commitlog.Dump},
	{blockmap.Magic, blockmap.Dump},
	{"{", dumpJSON},
}

// DumpFile writes a file of Glide as text. It recognizes the kind by the first bytes or, if those
// are damaged, by the name.
//
// With providers it opens an object of a sealed tenant in the directory of a store, or of a
// copy of one.
func DumpFile(ctx context.Context, w io.Writer, path string, with ...string) error {
	if len(with) > 0 {
		return dumpSealed(ctx, w, path, with)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.IsDir() {
		if meta.In(vfs.Default, path) {
			return meta.Dump(w, vfs.Default, path)
		}
		return errs.New(errs.Invalid, "%s is a directory: name a file in it, or the directory meta of a host", path)
	}
	head := make([]byte, 8)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	head = head[:n]
	switch ext := filepath.Ext(path); {
	case bytes.HasPrefix(head, []byte("GLDW")) || ext == ".seg":
		return wal.Dump(w, path)
	case bytes.HasPrefix(head, []byte(`{"time":`)):
		lines, err := audit.Check(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		_, err = fmt.Fprintf(w, "audit file: %d lines, each of which follows the one before\n", lines)
		return err
	case bytes.HasPrefix(head, []byte("GLDS")) || ext == ".slab":
		return cache.DumpSlab(w, path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(abs); meta.In(vfs.Default, dir) {
		return errs.New(errs.Invalid, "%s belongs to a Pebble database, the host's metadata: glide debug dump %s prints it", path, filepath.Dir(path))
	}
	if st.Size() > objstore.MaxObject {
		return errs.New(errs.Invalid, "%s is not a file of Glide: it does not begin like a log segment or a slab, and has %d bytes", path, st.Size())
	}
	rest, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	raw := append(head, rest...)
	key := keyIn(abs)
	if bytes.HasPrefix(raw, []byte("glidepak")) {
		id, _ := pack.ParseKey(key) // a pack has its domain in its key only
		return pack.Dump(w, id.Domain, raw)
	}
	for _, k := range whole {
		if bytes.HasPrefix(raw, []byte(k.magic)) {
			return k.dump(w, raw)
		}
	}
	if key != "" {
		return DumpObject(ctx, w, key, raw, nil)
	}
	return errs.New(errs.Invalid, "%s is not a file of Glide: glide writes nothing that begins like it", path)
}

// dumpSealed is DumpFile for an object in the directory of a store, or of a copy of one,
// which it opens with these providers.
func dumpSealed(ctx context.Context, w io.Writer, path string, key []string) error {
	with, err := keys.ParseAll(key)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	object := keyIn(abs)
	if object == "" {
		return errs.New(errs.Invalid, "%s is not in the directory of a store: without its key, which tells whose it is, it cannot be opened", path)
	}
	raw, err := os.ReadFile(abs)
	if err != nil {
		return err
	}
	store, err := objstore.Open(ctx, "file://"+strings.TrimSuffix(abs, object), objstore.Options{})
	if err != nil {
		return err
	}
	known := tenants.New(tenants.Options{Store: store, Providers: with, Now: time.Now, Uptime: clock.BootTime, Log: slog.New(slog.DiscardHandler)})
	return DumpObject(ctx, w, object, raw, known)
}

// keyIn returns the key of the object that a file in the directory of a store is, to judge
// by its path, else "".
func keyIn(path string) string {
	if i := strings.LastIndex(path, "/"+pack.DomainPrefix); i >= 0 {
		if _, err := pack.ParseKey(path[i+1:]); err == nil {
			return path[i+1:]
		}
	}
	for _, kind := range []string{"packs", "forwards", "pins", "t", "gc"} {
		if i := strings.LastIndex(path, "/"+kind+"/"); i >= 0 {
			return path[i+1:]
		}
	}
	return ""
}

// dumpJSON prints a pin, or another small document, with or without a seal.
func dumpJSON(w io.Writer, raw []byte) error {
	body, _, err := sealed.Open(raw)
	if err != nil {
		return err
	}
	var kind struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(body, &kind); err != nil {
		return errs.New(errs.Corrupt, "it begins like a JSON document but is not one: %w", err)
	}
	if kind.Format == "glide-pin" {
		return dumpPin(w, "", raw)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, body, "", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", bytes.TrimSpace(out.Bytes()))
	return err
}

// dumpPin prints a pin, with its key if that is known.
func dumpPin(w io.Writer, key string, raw []byte) error {
	pin, err := pinobject.Decode(raw)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(pin, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n%s\n", strings.TrimSpace("pin "+key), text)
	return err
}
