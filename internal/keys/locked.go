package keys

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// Why a domain is locked. Test with errors.Is; the errors are of kind errs.Unavailable.
var (
	// ErrAway: a provider does not answer. The domain opens when it does.
	ErrAway = errors.New("locked: the key provider is away")
	// ErrDenied: a provider answers, and refuses. Its owner decides.
	ErrDenied = errors.New("locked: the key provider refuses")
	// ErrWrongKey: what this host has, such as a passphrase, is not what the keyring was wrapped with.
	ErrWrongKey = errors.New("locked: not the right key")
	// ErrErased: the domain was erased, or has no keyring.
	ErrErased = errors.New("locked: the domain's keys were erased")
)

// ErrOld: the store shows an older keyring than the one seen last. The kind is errs.Unavailable.
var ErrOld = errors.New("the store shows an old keyring")

// marked is an error with one of the marks above, which its message need not repeat.
type marked struct {
	mark error
	err  error
}

func (m *marked) Error() string        { return m.err.Error() }
func (m *marked) Unwrap() error        { return m.err }
func (m *marked) Is(target error) bool { return target == m.mark }

func locked(mark error, format string, args ...any) error {
	return &marked{mark, errs.New(errs.Unavailable, format, args...)}
}

// asLocked marks an error of a provider that has no mark: what this host has is no key.
func asLocked(err error) error {
	for _, mark := range []error{ErrAway, ErrDenied, ErrWrongKey, errs.Corrupt, errs.Unsupported} {
		if errors.Is(err, mark) {
			return err
		}
	}
	return locked(ErrWrongKey, "%w", err)
}

// worst returns one error for several attempts to open a keyring. The first that says
// more decides: a keyring that was tampered with, a provider that may come back, one that refuses.
func worst(attempts []error) error {
	if len(attempts) == 1 {
		return attempts[0]
	}
	texts := make([]string, len(attempts))
	for i, err := range attempts {
		texts[i] = err.Error()
	}
	all := strings.Join(texts, "; ")
	for _, mark := range []error{errs.Corrupt, ErrAway, ErrDenied} {
		for _, err := range attempts {
			if errors.Is(err, mark) {
				if mark == errs.Corrupt {
					return errs.New(errs.Corrupt, "%s", all)
				}
				return locked(mark, "%s", all)
			}
		}
	}
	return locked(ErrWrongKey, "%s", all)
}

// limited calls a provider, and waits for at most limit: also for one that does not know
// of contexts, such as a file system that hangs. What that returns later is dropped.
func limited[T any](ctx context.Context, limit time.Duration, who fmt.Stringer, call func(context.Context) (T, error)) (T, error) {
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		v   T
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		defer func() { answers <- a }()
		defer errs.Catch(&a.err)
		a.v, a.err = call(timed)
	}()
	var none T
	select {
	case a := <-answers:
		if a.err == nil || timed.Err() == nil {
			return a.v, a.err
		}
	case <-timed.Done():
	}
	if ctx.Err() != nil {
		return none, fmt.Errorf("%v was not waited for: %w", who, ctx.Err())
	}
	return none, locked(ErrAway, "%v did not answer within %v: check that it runs and can be reached", who, limit)
}
