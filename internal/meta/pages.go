package meta

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// StoredPage is a page of a block map, as AddPage stored it under its hash.
type StoredPage struct {
	Hash pack.Hash
	Page []byte
}

// PagesAfter returns the next n stored pages of block maps in the order of their hashes,
// those behind after; nil: from the first. Fewer than n are the last ones.
func (m *DB) PagesAfter(after *pack.Hash, n int) (list []StoredPage, err error) {
	from := []byte("m/")
	if after != nil {
		from = append(append(from, after[:]...), 0)
	}
	err = m.view(func(in *instance) (err error) {
		list, err = call(in, func() (list []StoredPage, err error) {
			it, err := in.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte("m0")})
			if err != nil {
				return nil, err
			}
			for ok := it.First(); ok && len(list) < n; ok = it.Next() {
				_, page, err := in.vals.open(it.Key(), it.Value())
				if err != nil && errs.KindOf(err) != errs.Corrupt {
					return nil, errors.Join(err, it.Close())
				}
				p := StoredPage{Page: page} // none, if it is damaged
				copy(p.Hash[:], it.Key()[len("m/"):])
				list = append(list, p)
			}
			return list, it.Close()
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the metadata: %w", err)
	}
	return list, nil
}

// ForgetPage removes a stored page that does not match its hash.
func (m *DB) ForgetPage(h pack.Hash) error {
	return m.index(func(b *pebble.Batch) error { return b.Delete(append([]byte("m/"), h[:]...), nil) })
}

// Tenants returns the names of the tenants in the dedup index.
func (m *DB) Tenants() (names []string, err error) {
	err = m.view(func(in *instance) (err error) {
		names, err = call(in, func() (names []string, err error) {
			it, err := in.db.NewIter(&pebble.IterOptions{LowerBound: []byte("d/"), UpperBound: []byte("d0")})
			if err != nil {
				return nil, err
			}
			for ok := it.First(); ok; {
				name, _, _ := bytes.Cut(it.Key()[len("d/"):], []byte("/"))
				names = append(names, string(name))
				ok = it.SeekGE([]byte("d/" + string(name) + "0"))
			}
			return names, it.Close()
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the dedup index: %w", err)
	}
	return names, nil
}
