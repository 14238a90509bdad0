package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// wrong is a store of which one kind of answer is not true.
type wrong struct {
	objstore.Store
	list    func(all []objstore.Info, limit int) []objstore.Info
	head    func(objstore.Info, error) (objstore.Info, error)
	get     func([]byte, error) ([]byte, error)
	ranged  func(all []byte) []byte
	deletes bool // only pretends to delete
	after   bool // ignores where a list begins
}

func (w *wrong) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if w.after {
		after = ""
	}
	infos, err := w.Store.List(ctx, prefix, after, limit)
	if w.list != nil {
		infos = w.list(infos, limit)
	}
	return infos, err
}

func (w *wrong) Head(ctx context.Context, key string) (objstore.Info, error) {
	in, err := w.Store.Head(ctx, key)
	if w.head != nil {
		return w.head(in, err)
	}
	return in, err
}

func (w *wrong) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := w.Store.Get(ctx, key)
	if w.get != nil {
		return w.get(b, err)
	}
	return b, err
}

func (w *wrong) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if w.ranged == nil {
		return w.Store.GetRange(ctx, key, off, n)
	}
	all, err := w.Store.Get(ctx, key)
	return w.ranged(all), err
}

func (w *wrong) Delete(ctx context.Context, key string) error {
	if w.deletes {
		return nil
	}
	return w.Store.Delete(ctx, key)
}

func (w *wrong) DeleteBatch(ctx context.Context, keys []string) error {
	if w.deletes {
		return nil
	}
	return w.Store.DeleteBatch(ctx, keys)
}

// A store that lacks a property is refused, by the property's name, before anything
// is kept in it.
func TestProbeFindsWhatAStoreLacks(t *testing.T) {
	swapped := func(i, j int) func([]objstore.Info, int) []objstore.Info {
		return func(all []objstore.Info, _ int) []objstore.Info {
			if len(all) > max(i, j) {
				all[i], all[j] = all[j], all[i]
			}
			return all
		}
	}
	by := func(less func(a, b string) int) func([]objstore.Info, int) []objstore.Info {
		return func(all []objstore.Info, _ int) []objstore.Info {
			slices.SortStableFunc(all, func(a, b objstore.Info) int { return less(a.Key, b.Key) })
			return all
		}
	}
	without := func(n int) func([]objstore.Info, int) []objstore.Info {
		return func(all []objstore.Info, _ int) []objstore.Info {
			if len(all) > n {
				return slices.Delete(all, n, n+1)
			}
			return all
		}
	}
	for name, c := range map[string]struct {
		store *wrong
		want  objstore.Property
	}{
		"reversed":         {&wrong{list: func(all []objstore.Info, _ int) []objstore.Info { slices.Reverse(all); return all }}, objstore.ListsInOrder},
		"two keys swapped": {&wrong{list: swapped(11, 12)}, objstore.ListsInOrder},
		"in order of case": {&wrong{list: by(func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })}, objstore.ListsInOrder},
		"by directory": {&wrong{list: by(func(a, b string) int {
			return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
		})}, objstore.ListsInOrder},
		"the newest missing":    {&wrong{list: without(13)}, objstore.ListsAll},
		"one missing":           {&wrong{list: without(4)}, objstore.ListsAll},
		"cut short":             {&wrong{list: func(all []objstore.Info, _ int) []objstore.Info { return all[:min(len(all), 7)] }}, objstore.ListsAll},
		"one too many":          {&wrong{list: func(all []objstore.Info, _ int) []objstore.Info { return append(all, objstore.Info{Key: "x"}) }}, objstore.ListsAll},
		"always from the start": {&wrong{after: true}, objstore.ListsFrom},
		"short pages": {&wrong{list: func(all []objstore.Info, limit int) []objstore.Info {
			if limit == 0 {
				return all
			}
			return all[:min(len(all), 4)]
		}}, objstore.ListsFrom},
		"old bytes":         {&wrong{get: func(b []byte, err error) ([]byte, error) { return slices.Concat(b, []byte("x")), err }}, objstore.CreatesOnce},
		"not there yet":     {&wrong{get: func([]byte, error) ([]byte, error) { return nil, errs.New(errs.NotFound, "no") }}, objstore.ReadsItsWrites},
		"another size":      {&wrong{head: func(in objstore.Info, err error) (objstore.Info, error) { in.Size++; return in, err }}, objstore.ReadsItsWrites},
		"what is not there": {&wrong{head: func(in objstore.Info, _ error) (objstore.Info, error) { return in, nil }}, objstore.ReadsItsWrites},
		"the whole object":  {&wrong{ranged: func(all []byte) []byte { return all }}, objstore.ReadsRanges},
		"another part":      {&wrong{ranged: func(all []byte) []byte { return all[4:9] }}, objstore.ReadsRanges},
		"not deleted":       {&wrong{deletes: true}, objstore.ForgetsDeleted},
	} {
		for range 5 { // its requests come in any order
			c.store.Store = objstore.NewMem(objstore.Clock{})
			err := objstore.Probe(t.Context(), c.store, "x")
			if !errors.Is(err, errs.Unsupported) || !strings.Contains(fmt.Sprint(err), string(c.want)) {
				if name == "what is not there" && strings.Contains(fmt.Sprint(err), string(objstore.ForgetsDeleted)) {
					continue
				}
				t.Errorf("%s: %v, want that it does not %s", name, err, c.want)
				break
			}
		}
	}
}

// Each answer to a list is checked, whatever the probe said.
func TestListsAreChecked(t *testing.T) {
	mem := objstore.NewMem(objstore.Clock{})
	for _, key := range []string{"a/1", "a/2", "a/3", "b/1"} {
		if err := mem.Put(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for name, list := range map[string]func(all []objstore.Info, limit int) []objstore.Info{
		"reversed":       func(all []objstore.Info, _ int) []objstore.Info { slices.Reverse(all); return all },
		"twice":          func(all []objstore.Info, _ int) []objstore.Info { return append(all, all...) },
		"something else": func(all []objstore.Info, _ int) []objstore.Info { return append(all, objstore.Info{Key: "b/1"}) },
		"the one before": func(all []objstore.Info, _ int) []objstore.Info { return append([]objstore.Info{{Key: "a/1"}}, all...) },
		"too many": func(all []objstore.Info, limit int) []objstore.Info {
			return append(all, objstore.Info{Key: "a/4"}, objstore.Info{Key: "a/5"})
		},
	} {
		s, err := objstore.Open(t.Context(), "mem://", objstore.Options{Wrap: func(objstore.Store) objstore.Store { return &wrong{Store: mem, list: list} }})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.List(t.Context(), "a/", "a/1", 3); !errors.Is(err, errs.Unsupported) || len(got) > 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	s, err := objstore.Open(t.Context(), "mem://", objstore.Options{Wrap: func(objstore.Store) objstore.Store { return mem }})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.List(t.Context(), "a/", "a/1", 3); err != nil || len(got) != 2 {
		t.Errorf("a good list: %v, %v", got, err)
	}
}
