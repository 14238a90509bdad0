package objstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/errs"
)

// ProbeVersion changes when Probe checks more: a store that passed an older version is
// probed again.
const ProbeVersion = 2

const probes = "probe/"

// IsProbe tells whether only probes use the key.
func IsProbe(key string) bool { return strings.HasPrefix(key, probes) }

// listed are objects by which lists are proved, in the order of their bytes. They
// are written in another; some servers order by words, by case, or by directory.
var listed = []string{"0", "00", "A", "B", "Z-1", "_", "a", "a-b", "a.b", "a0", "b", "c~", "d-1", "d/1"}

// unordered is the distance in that list between consecutive writes, coprime to its
// length.
const unordered = 5

// Probe proves that s has every Property, or fails with errs.Unsupported and
// names the one that it lacks. It makes some 30 requests under probe/NONCE, most of
// them side by side; the nonce must never have been used.
func Probe(ctx context.Context, s Store, nonce string) error {
	p := &prober{s: s, once: probes + nonce + "/once", list: probes + nonce + "/list/"}
	err := p.prove(ctx)
	if !p.begun {
		return err // there is nothing to clean up
	}
	if cerr := p.clean(ctx); err == nil {
		err = cerr
	}
	return err
}

// NewNonce returns a random nonce for Probe.
func NewNonce() string { return strings.ToLower(rand.Text()) }

type prober struct {
	s    Store
	once string // the object that is created once
	list string // the prefix of those that are listed
	// begun tells that the store has taken a request.
	begun bool
}

func (p *prober) keys() []string {
	keys := make([]string, len(listed))
	for i, name := range listed {
		keys[i] = p.list + name
	}
	return keys
}

// trouble is an error of the store that says nothing about its properties.
func trouble(err error) error { return fmt.Errorf("probing the store: %w", err) }

// sideBySide runs steps at once and returns the first error in their order.
func sideBySide(steps ...func() error) error {
	failed := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() { failed[i] = step() })
	}
	wg.Wait()
	// Prefer an error that names a property to a failed request.
	for _, err := range failed {
		if errors.Is(err, errs.Unsupported) {
			return err
		}
	}
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *prober) prove(ctx context.Context) error {
	first := []byte("first " + p.once)
	// If the store refuses requests, report one refusal, not a dozen.
	if err := p.s.PutIfAbsent(ctx, p.once, first); err != nil {
		return trouble(err)
	}
	p.begun = true
	steps := []func() error{func() error { return p.second(ctx, first) }}
	keys := p.keys()
	for i := range keys {
		key := keys[i*unordered%len(keys)]
		steps = append(steps, func() error {
			if err := p.s.Put(ctx, key, []byte(key)); err != nil {
				return trouble(err)
			}
			return nil
		})
	}
	if err := sideBySide(steps...); err != nil {
		return err
	}
	return sideBySide(
		func() error { return p.read(ctx, first) },
		func() error { return p.ranged(ctx, first) },
		func() error { return p.all(ctx, keys) },
		func() error { return p.pages(ctx, keys) },
		func() error { return p.absent(ctx, p.list+"none") },
	)
}

// second proves CreatesOnce.
func (p *prober) second(ctx context.Context, first []byte) error {
	err := p.s.PutIfAbsent(ctx, p.once, []byte("second"))
	switch {
	case err == nil:
		return CreatesOnce.lacks(p.s, "it created one a second time, so two hosts could own one volume")
	case !errors.Is(err, errs.Exists):
		return trouble(err)
	}
	got, err := p.s.Get(ctx, p.once)
	if err != nil {
		return p.unread(err)
	}
	if !bytes.Equal(got, first) {
		return CreatesOnce.lacks(p.s, "it refused to create one a second time, and yet replaced it")
	}
	return nil
}

// unread says why an object that was just written could not be read.
func (p *prober) unread(err error) error {
	if errors.Is(err, errs.NotFound) {
		return ReadsItsWrites.lacks(p.s, "an object that was just written is not there")
	}
	return trouble(err)
}

func (p *prober) read(ctx context.Context, first []byte) error {
	key := p.keys()[0]
	got, err := p.s.Get(ctx, key)
	if err != nil {
		return p.unread(err)
	}
	if string(got) != key {
		return ReadsItsWrites.lacks(p.s, "of %d bytes that were written other %d came back", len(key), len(got))
	}
	in, err := p.s.Head(ctx, p.once)
	if err != nil {
		return p.unread(err)
	}
	if in.Size != int64(len(first)) {
		return ReadsItsWrites.lacks(p.s, "an object of %d bytes is said to have %d", len(first), in.Size)
	}
	return nil
}

func (p *prober) ranged(ctx context.Context, first []byte) error {
	got, err := p.s.GetRange(ctx, p.once, 3, 5)
	switch {
	case errors.Is(err, errs.Unsupported), errors.Is(err, errs.Corrupt):
		return ReadsRanges.lacks(p.s, "%w", err)
	case err != nil:
		return p.unread(err)
	case !bytes.Equal(got, first[3:8]):
		return ReadsRanges.lacks(p.s, "of 5 bytes from the third on others came")
	}
	return nil
}

// all proves ListsAll and ListsInOrder.
func (p *prober) all(ctx context.Context, want []string) error {
	infos, err := p.s.List(ctx, p.list, "", 0)
	if err != nil {
		return trouble(err)
	}
	return p.compare(keysOf(infos), want)
}

func keysOf(infos []Info) []string {
	keys := make([]string, len(infos))
	for i := range infos {
		keys[i] = infos[i].Key
	}
	return keys
}

func (p *prober) compare(got, want []string) error {
	if slices.Equal(got, want) {
		return nil
	}
	for _, key := range want {
		if !slices.Contains(got, key) {
			return ListsAll.lacks(p.s, "of %d objects that were just written %d are listed, and %s is not", len(want), len(got), key)
		}
	}
	if len(got) > len(want) {
		return ListsAll.lacks(p.s, "of %d objects that were written %d are listed", len(want), len(got))
	}
	return ListsInOrder.lacks(p.s, "it lists %s", strings.Join(got, ", "))
}

// pages proves ListsFrom.
func (p *prober) pages(ctx context.Context, want []string) error {
	const page = 5
	var got []string
	after := ""
	for range len(want)/page + 2 {
		infos, err := p.s.List(ctx, p.list, after, page)
		if err != nil {
			return trouble(err)
		}
		if len(infos) > page {
			return ListsFrom.lacks(p.s, "asked for %d keys it gave %d", page, len(infos))
		}
		got = append(got, keysOf(infos)...)
		if len(infos) < page {
			break
		}
		after = infos[page-1].Key
	}
	if !slices.Equal(got, want) {
		return ListsFrom.lacks(p.s, "of %d objects, asked for by pages of %d, it lists %d", len(want), page, len(got))
	}
	return nil
}

// absent proves that absent objects are not found.
func (p *prober) absent(ctx context.Context, key string) error {
	_, err := p.s.Head(ctx, key)
	switch {
	case err == nil:
		return ForgetsDeleted.lacks(p.s, "it has an object that is not there, %s", key)
	case !errors.Is(err, errs.NotFound):
		return trouble(err)
	}
	return nil
}

// clean removes what the probe made, and proves ForgetsDeleted.
func (p *prober) clean(ctx context.Context) error {
	if err := sideBySide(
		func() error { return p.s.Delete(ctx, p.once) },
		func() error { return p.s.DeleteBatch(ctx, p.keys()) },
	); err != nil {
		return trouble(err)
	}
	return sideBySide(
		func() error { return p.absent(ctx, p.once) },
		func() error {
			infos, err := p.s.List(ctx, p.list, "", 0)
			if err != nil {
				return trouble(err)
			}
			if len(infos) > 0 {
				return ForgetsDeleted.lacks(p.s, "it lists %s, which was deleted", infos[0].Key)
			}
			return nil
		},
	)
}

// ProbeRace proves CreatesOnce for creates that run at once: of eight, exactly one
// may win, and its bytes must be there. It makes ten requests.
func ProbeRace(ctx context.Context, s Store, nonce string) error {
	const racers = 8
	key := probes + nonce
	data := func(i int) []byte { return fmt.Appendf(nil, "racer %d %s", i, nonce) }
	var results [racers]error
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { results[i] = s.PutIfAbsent(ctx, key, data(i)) })
	}
	wg.Wait()
	err := raced(ctx, s, key, results[:], data)
	if derr := s.Delete(ctx, key); err == nil && derr != nil {
		err = trouble(derr)
	}
	return err
}

func raced(ctx context.Context, s Store, key string, results []error, data func(int) []byte) error {
	winner, winners := 0, 0
	for i, err := range results {
		switch {
		case err == nil:
			winner = i
			winners++
		case !errors.Is(err, errs.Exists):
			return trouble(err)
		}
	}
	if winners != 1 {
		return CreatesOnce.lacks(s, "it let %d of %d creates of one object win, so two hosts could own one volume", winners, len(results))
	}
	got, err := s.Get(ctx, key)
	if err != nil {
		return trouble(err)
	}
	if !bytes.Equal(got, data(winner)) {
		return CreatesOnce.lacks(s, "it refused to create one a second time, and yet replaced it")
	}
	return nil
}
