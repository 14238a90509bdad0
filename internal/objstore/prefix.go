package objstore

import (
	"context"
	"strings"
)

// prefixed is the part of a store whose keys begin with prefix.
type prefixed struct {
	Store
	prefix string // ends with a slash
}

// Prefix returns the part of s under prefix, as a store of its own. The prefix
// has no slash at its ends. Errors name keys in full.
func Prefix(s Store, prefix string) Store { return &prefixed{s, prefix + "/"} }

// String is the URL with the prefix added to its path.
func (p *prefixed) String() string {
	base, query, hasQuery := strings.Cut(p.Store.String(), "?")
	url := strings.TrimSuffix(base, "/") + "/" + strings.TrimSuffix(p.prefix, "/")
	if hasQuery {
		url += "?" + query
	}
	return url
}

// full is the key in the store below. A bad key must stay one: "" is not the
// prefix, and ".." is refused by the driver as part of the full key.
func (p *prefixed) full(key string) string { return p.prefix + key }

func (p *prefixed) Get(ctx context.Context, key string) ([]byte, error) {
	return p.Store.Get(ctx, p.full(key))
}

func (p *prefixed) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	return p.Store.GetRange(ctx, p.full(key), off, n)
}

func (p *prefixed) Put(ctx context.Context, key string, data []byte) error {
	return p.Store.Put(ctx, p.full(key), data)
}

func (p *prefixed) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return p.Store.PutIfAbsent(ctx, p.full(key), data)
}

func (p *prefixed) Head(ctx context.Context, key string) (Info, error) {
	info, err := p.Store.Head(ctx, p.full(key))
	info.Key = strings.TrimPrefix(info.Key, p.prefix)
	return info, err
}

func (p *prefixed) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	if after != "" {
		after = p.full(after)
	}
	infos, err := p.Store.List(ctx, p.full(prefix), after, limit)
	for i := range infos {
		infos[i].Key = strings.TrimPrefix(infos[i].Key, p.prefix)
	}
	return infos, err
}

func (p *prefixed) Delete(ctx context.Context, key string) error {
	return p.Store.Delete(ctx, p.full(key))
}

func (p *prefixed) DeleteBatch(ctx context.Context, keys []string) error {
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = p.full(key)
	}
	return p.Store.DeleteBatch(ctx, full)
}
