package datadir

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
)

// identityFile is the name of the file with the host's identity.
const identityFile = "host.json"

// identity is what identityFile holds.
type identity struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
}

const identityVersion = 1

// Identify reads a directory's identity, or makes one from rand. A directory of a
// newer format is refused.
func Identify(fsys vfs.FS, dir string, rand io.Reader) (id string, err error) {
	f, err := readIdentity(fsys, dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f.ID, err
	}
	var b [8]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", err
	}
	id = hex.EncodeToString(b[:])
	return id, writeIdentity(fsys, dir, id)
}

// CheckIdentity makes the file of a host's identity again if it went away. It is
// an error if the file names another host.
func CheckIdentity(fsys vfs.FS, dir, id string) error {
	f, err := readIdentity(fsys, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return writeIdentity(fsys, dir, id)
	case err != nil:
		return err
	case f.ID != id:
		return errs.New(errs.Corrupt, "%s names host %s, and this daemon runs as %s: put the file back", identityFile, f.ID, id)
	}
	return nil
}

func readIdentity(fsys vfs.FS, dir string) (f identity, err error) {
	path := fsys.PathJoin(dir, identityFile)
	b, err := readFile(fsys, path)
	if err != nil {
		return f, Unusable(dir, err)
	}
	if err := json.Unmarshal(b, &f); err != nil || f.ID == "" {
		return f, errs.New(errs.Corrupt, "%s is not a host's identity: %v", path, err)
	}
	if f.Version > identityVersion {
		return f, errs.New(errs.Unsupported, "the data directory %s is of format %d, this program knows up to %d: use a newer glide", dir, f.Version, identityVersion)
	}
	return f, nil
}

func writeIdentity(fsys vfs.FS, dir, id string) error {
	b, err := json.Marshal(identity{identityVersion, id})
	if err != nil {
		return err
	}
	if err := writeFile(fsys, dir, identityFile, b); err != nil {
		return Unusable(dir, err)
	}
	return nil
}

// readFile reads a small file.
func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	return b, errors.Join(err, f.Close())
}

// writeFile replaces a small file, durably.
func writeFile(fsys vfs.FS, dir, name string, b []byte) error {
	path := fsys.PathJoin(dir, name)
	f, err := fsys.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(path+".new", path); err != nil {
		return err
	}
	return SyncDir(fsys, dir)
}

// SyncDir makes the names in a directory durable.
func SyncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
