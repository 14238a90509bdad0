package meta

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// In tells whether a directory holds a Pebble database: the metadata of a host.
func In(fs vfs.FS, dir string) bool {
	desc, err := pebble.Peek(dir, fs)
	return err == nil && desc.Exists
}

// Dump writes the metadata in dir as text, key by key. It changes nothing, and
// refuses metadata that a daemon uses.
func Dump(w io.Writer, fs vfs.FS, dir string) error {
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return errs.New(errs.Busy, "the metadata in %s is in use by a daemon (or cannot be locked: %v): stop it first, or ask it: glide show, glide ls", dir, err)
	}
	defer func() { _ = lock.Close() }() // nothing was written
	vals := &values{}
	in, err := openInstance(fs, dir, vals, func() bool { return false }, func(o *pebble.Options) { o.ReadOnly = true })
	if err != nil {
		return err
	}
	m := &DB{in: in, vals: vals, ahead: map[string]ahead{}}
	return errors.Join(m.dump(w, dir), in.close())
}

func (m *DB) dump(w io.Writer, dir string) error {
	format, err := m.version(dir)
	if err != nil {
		return err
	}
	if format == 0 {
		return errs.New(errs.Corrupt, "the metadata in %s has no format version", dir)
	}
	if _, err := fmt.Fprintf(w, "metadata of a host: format %d\n", format); err != nil {
		return err
	}
	it, err := m.in.db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("read the metadata: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := dumpKey(w, it.Key(), it.Value()); err != nil {
			_ = it.Close()
			return err
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read the metadata: %w", err)
	}
	return nil
}

func dumpKey(w io.Writer, key, value []byte) (err error) {
	if isSealed(value) {
		if bytes.HasPrefix(key, []byte("m/")) {
			key = fmt.Appendf(nil, "m/%x", key[len("m/"):])
		}
		_, err = fmt.Fprintf(w, "%s: sealed, %d bytes\n", key, len(value))
		return err
	}
	kind, rest, _ := bytes.Cut(key, []byte("/"))
	switch string(kind) {
	case "h":
		if len(value) > 0 { // an empty value has no meaning
			_, err = fmt.Fprintf(w, "fact %s: %s\n", rest, text(value))
		}
	case "v":
		var record bytes.Buffer
		if json.Indent(&record, value, "", "  ") != nil {
			record.Reset()
			record.WriteString("damaged: " + hex.EncodeToString(value))
		}
		_, err = fmt.Fprintf(w, "volume %s\n%s\n", rest, record.Bytes())
	case "d":
		var hash pack.Hash
		tenant := bytes.TrimSuffix(rest[:max(0, len(rest)-len(hash))], []byte("/"))
		copy(hash[:], rest[len(rest)-min(len(rest), len(hash)):])
		if ref, ok := blockRef(hash, value); ok {
			_, err = fmt.Fprintf(w, "block %s of tenant %s: %d bytes at %d in %s\n", hash, tenant, ref.Len, ref.Off, ref.Pack.Key())
		} else {
			_, err = fmt.Fprintf(w, "block %s of tenant %s: damaged: %x\n", hash, tenant, value)
		}
	case "m":
		_, err = fmt.Fprintf(w, "map page %x: %d bytes\n", rest, len(value))
	default:
		_, err = fmt.Fprintf(w, "unknown key %q: %s\n", key, text(value))
	}
	return err
}

// text is the value itself if it is a JSON document, else in hexadecimal.
func text(value []byte) string {
	if len(value) > 0 && (value[0] == '{' || value[0] == '[') && json.Valid(value) {
		return string(value)
	}
	return hex.EncodeToString(value)
}
