package auth

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/paraglide/glide/internal/errs"
)

// Users says who the users of this machine are at the host's own sockets, by what the kernel
// tells of a client. Its file has a line for each, comments after #:
//
//	user tenant verbs volumes        such as: deploy acme use,manage ci-*
//
// The user is a name or a number, * stands for all tenants or volumes. Users may be used
// concurrently. A nil Users knows nobody.
type Users struct {
	path string
	byID atomic.Pointer[map[uint32]*Principal]
}

// OpenUsers reads a file of users.
func OpenUsers(path string) (*Users, error) {
	u := &Users{path: path}
	return u, u.Read()
}

// Read reads the file again. If that fails, the users that were read before stay.
func (u *Users) Read() error {
	st, err := os.Stat(u.path)
	if err != nil {
		return errs.New(errs.Invalid, "the file of users: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return errs.New(errs.Invalid, "the file of users %s can be written by others, who could let themselves in: chmod go-w it", u.path)
	}
	b, err := os.ReadFile(u.path)
	if err != nil {
		return errs.New(errs.Invalid, "the file of users: %w", err)
	}
	byID := map[uint32]*Principal{}
	in := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; in.Scan(); n++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		id, p, err := parseUser(line)
		if err == nil && byID[id] != nil {
			err = errs.New(errs.Invalid, "the user %d is there twice", id)
		}
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", u.path, n, err)
		}
		p.Current = func() *Principal { return u.Of(id) }
		byID[id] = p
	}
	if err := in.Err(); err != nil {
		return errs.New(errs.Invalid, "%s: %w", u.path, err)
	}
	u.byID.Store(&byID)
	return nil
}

func parseUser(line string) (id uint32, p *Principal, err error) {
	f := strings.Fields(line)
	if len(f) != 4 {
		return 0, nil, errs.New(errs.Invalid, "it has %d words, not 4: user, tenant, verbs, volumes", len(f))
	}
	n, nerr := strconv.ParseUint(f[0], 10, 32)
	if nerr != nil {
		u, err := user.Lookup(f[0])
		if err != nil {
			return 0, nil, errs.New(errs.Invalid, "this machine has no user %.60q", f[0])
		}
		if n, err = strconv.ParseUint(u.Uid, 10, 32); err != nil {
			return 0, nil, errs.New(errs.Invalid, "the user %.60q has no number", f[0])
		}
	}
	p = &Principal{Who: "user " + f[0]}
	if p.Tenant = f[1]; p.Tenant == anything {
		p.Tenant = ""
	}
	if p.Verbs, err = ParseVerbs(f[2]); err != nil {
		return 0, nil, err
	}
	p.Volumes, err = parsePatterns(f[3])
	return uint32(n), p, err
}

// Of returns who a user is at the host's own sockets. Root, and the user that runs the
// daemon, own the host; others are nobody unless the file has them.
func (u *Users) Of(id uint32) *Principal {
	if u == nil || id == 0 || id == uint32(os.Geteuid()) {
		return Owner()
	}
	return (*u.byID.Load())[id]
}
