package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/problem"
)

// Everything that Glide promises about who owns a volume rests on the store's
// refusal to create what exists. A store that ignores the condition answers
// like one that has it until two hosts meet; so it is proved at every start.

const probeAdvice = "; use a store that has conditional writes (If-None-Match), or update it"

const probes = "probe/"

// IsProbe tells whether only probes use the key.
func IsProbe(key string) bool { return strings.HasPrefix(key, probes) }

// Probe proves that s refuses to create an object that exists, or fails with
// problem.Unsupported. It makes four requests, on probe/NONCE; the nonce must
// never have been used.
func Probe(ctx context.Context, s Store, nonce string) error {
	key := probes + nonce
	first, second := []byte("first "+nonce), []byte("second "+nonce)
	if err := s.PutIfAbsent(ctx, key, first); err != nil {
		return fmt.Errorf("probing the store: %w", err)
	}
	err := s.PutIfAbsent(ctx, key, second)
	switch {
	case err == nil:
		err = problem.New(problem.Unsupported, "the store %s created an object a second time, so two hosts could own one volume"+probeAdvice, s)
	case errors.Is(err, problem.Exists):
		err = probeRead(ctx, s, key, first)
	default:
		err = fmt.Errorf("probing the store: %w", err)
	}
	return probeClean(ctx, s, key, err)
}

// probeRead checks that the object is still the first one.
func probeRead(ctx context.Context, s Store, key string, want []byte) error {
	got, err := s.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("probing the store: %w", err)
	}
	if !bytes.Equal(got, want) {
		return problem.New(problem.Unsupported, "the store %s refused to create an object a second time, and yet replaced it"+probeAdvice, s)
	}
	return nil
}

// probeClean removes what the probe made; what was found out goes first.
func probeClean(ctx context.Context, s Store, key string, err error) error {
	derr := s.Delete(ctx, key)
	if err == nil && derr != nil {
		err = fmt.Errorf("probing the store: %w", derr)
	}
	return err
}

// ProbeRace proves what Probe does, for creates that run at once: of eight,
// exactly one may win, and its bytes must be there. It makes ten requests.
func ProbeRace(ctx context.Context, s Store, nonce string) error {
	const racers = 8
	key := probes + nonce
	data := func(i int) []byte { return fmt.Appendf(nil, "racer %d %s", i, nonce) }
	var errs [racers]error
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { errs[i] = s.PutIfAbsent(ctx, key, data(i)) })
	}
	wg.Wait()
	return probeClean(ctx, s, key, func() error {
		winner, winners := 0, 0
		for i, err := range errs {
			switch {
			case err == nil:
				winner = i
				winners++
			case !errors.Is(err, problem.Exists):
				return fmt.Errorf("probing the store: %w", err)
			}
		}
		if winners != 1 {
			return problem.New(problem.Unsupported, "the store %s let %d of %d creates of one object win, so two hosts could own one volume"+probeAdvice,
				s, winners, racers)
		}
		return probeRead(ctx, s, key, data(winner))
	}())
}
