// Package installation tells whose a store is. Two platforms that are given one bucket and
// one prefix by mistake would work as one: each could remove what is the other's. A store
// URL may therefore name its installation, and the first host that comes with a name writes
// it into the store:
//
//	installation    {"format":"glide-installation","version":1,"name":"prod"}, sealed
//
// From then on the store takes nobody with another name, or with none. A data directory
// remembers that it was let in, so this costs no request at later starts.
package installation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/sealed"
)

// Key is the key of the object.
const Key = "installation"

const (
	format  = "glide-installation"
	version = 1
)

type wire struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Name    string `json:"name"`
}

// Prove proves that a store that was opened by a URL can be relied on (objstore.Probe), and
// that it is of the installation that the URL names, which it becomes if it is of none. The
// store of another installation is errs.Invalid.
func Prove(ctx context.Context, store objstore.Store, url string) error {
	name, err := objstore.Installation(url)
	if err != nil {
		return err
	}
	if err := objstore.Probe(ctx, store, objstore.NewNonce()); err != nil {
		return err
	}
	is, err := Name(ctx, store)
	if errors.Is(err, errs.NotFound) && name != "" {
		if err = create(ctx, store, name); err == nil || errors.Is(err, errs.Exists) {
			is, err = Name(ctx, store)
		}
	}
	switch {
	case errors.Is(err, errs.NotFound) && name == "":
		return nil
	case err != nil:
		return err
	case name == "":
		return errs.New(errs.Invalid, "the store %s belongs to the installation %q, and no installation is named here: use another prefix, or if this host is one of its, add installation=%s to the store's URL", store, is, is)
	case is != name:
		return errs.New(errs.Invalid, "the store %s belongs to the installation %q, not to %q: use another prefix", store, is, name)
	}
	return nil
}

// Name is the installation whose the store is. One that is of none is errs.NotFound.
func Name(ctx context.Context, store objstore.Store) (string, error) {
	raw, err := store.Get(ctx, Key)
	if err != nil {
		return "", err
	}
	return decode(raw)
}

func decode(raw []byte) (name string, err error) {
	var w wire
	body, is, err := sealed.Open(raw)
	if err == nil {
		err = json.Unmarshal(body, &w)
	}
	switch {
	case err != nil:
		return "", errs.New(errs.Corrupt, "the object %q, which says whose the store is, is damaged (%w): delete it, and the next host with installation=NAME in its store URL writes it again", Key, err)
	case !is || w.Format != format || w.Name == "":
		return "", errs.New(errs.Corrupt, "the object %q does not say whose the store is: it has format %.40q, and a seal: %v", Key, w.Format, is)
	case w.Version > version:
		return "", errs.New(errs.Unsupported, "the object %q is of a newer version of glide: use that version here too", Key)
	}
	return w.Name, nil
}

func create(ctx context.Context, store objstore.Store, name string) error {
	raw, err := sealed.Marshal(wire{format, version, name})
	if err != nil {
		return fmt.Errorf("write whose the store is: %w", err)
	}
	return store.PutIfAbsent(ctx, Key, raw)
}
