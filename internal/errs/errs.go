// Package errs is the short, stable list of the ways in which Glide can
// fail, and the one table that says what each means to an HTTP client, to the
// shell and to an NBD client.
//
// A package that finds a fault returns an error made with New (or wraps one
// with %w). The code at the edge of the program asks KindOf and prints the
// message once.
package errs

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind is one way to fail. It is itself an error, so that
// errors.Is(err, errs.NotFound) holds for every error of that kind.
type Kind uint8

// The kinds. Their order is not stored anywhere; their names are (in the API).
const (
	Internal    Kind = iota // a bug, or an error of the machine below Glide
	Invalid                 // the request itself is wrong
	NotFound                // what was named does not exist
	Exists                  // what was to be created exists already
	Busy                    // refused while something else uses it
	WouldLose               // it would lose data; the caller may force it
	Corrupt                 // bytes do not match their checksum or hash
	NoSpace                 // the local disk, or a budget on it, is full
	Unavailable             // the object store or a peer does not answer
	Fenced                  // another host owns the volume now
	Unsupported             // this release does not do that
	ReadOnly                // a write to something that can only be read
	Denied                  // who asks may not do that
)

// NBD error numbers (the protocol's own, equal to Linux's).
const (
	eperm     = 1
	eio       = 5
	einval    = 22
	enospc    = 28
	enotsup   = 95
	exitFail  = 1
	exitUsage = 2
	exitForce = 3
)

var table = [...]struct {
	name string
	http int
	exit int
	nbd  uint32
}{
	Internal:    {"internal", http.StatusInternalServerError, exitFail, eio},
	Invalid:     {"invalid", http.StatusBadRequest, exitUsage, einval},
	NotFound:    {"not_found", http.StatusNotFound, exitFail, eio},
	Exists:      {"exists", http.StatusConflict, exitFail, einval},
	Busy:        {"busy", http.StatusLocked, exitFail, eio},
	WouldLose:   {"would_lose", http.StatusPreconditionFailed, exitForce, eio},
	Corrupt:     {"corrupt", http.StatusUnprocessableEntity, exitFail, eio},
	NoSpace:     {"no_space", http.StatusInsufficientStorage, exitFail, enospc},
	Unavailable: {"unavailable", http.StatusServiceUnavailable, exitFail, eio},
	Fenced:      {"fenced", http.StatusGone, exitFail, eio},
	Unsupported: {"unsupported", http.StatusNotImplemented, exitFail, enotsup},
	ReadOnly:    {"read_only", http.StatusForbidden, exitFail, eperm},
	Denied:      {"denied", http.StatusForbidden, exitFail, eperm},
}

// Error is the kind's name in words.
func (k Kind) Error() string { return k.String() }

// String is the kind's name, as in the API.
func (k Kind) String() string {
	if int(k) < len(table) {
		return table[k].name
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// HTTPStatus is the status with which the API reports the kind.
func (k Kind) HTTPStatus() int { return table[k].http }

// ExitCode is the status with which the CLI exits.
func (k Kind) ExitCode() int { return table[k].exit }

// NBDErrno is the error number of an NBD reply.
func (k Kind) NBDErrno() uint32 { return table[k].nbd }

// FromString is the inverse of String, Internal for an unknown name.
func FromString(s string) Kind {
	for k := range table {
		if table[k].name == s {
			return Kind(k)
		}
	}
	return Internal
}

type failure struct {
	kind Kind
	err  error
}

func (f *failure) Error() string        { return f.err.Error() }
func (f *failure) Unwrap() error        { return f.err }
func (f *failure) Is(target error) bool { k, ok := target.(Kind); return ok && k == f.kind }

// New is an error of the kind with the given message; %w wraps as in
// fmt.Errorf. The message is one line: what failed, why, and what to do.
func New(k Kind, format string, args ...any) error {
	return &failure{kind: k, err: fmt.Errorf(format, args...)}
}

// KindOf is the kind of the outermost error in err's chain that has one,
// Internal when none has.
func KindOf(err error) Kind {
	var f *failure
	if errors.As(err, &f) {
		return f.kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}
