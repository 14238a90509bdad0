package auth

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// maxTokens bounds the tokens of a file.
const maxTokens = 100_000

// Tokens are the tokens of a file: a line for each, comments after #. The file has no
// secrets, only their hashes; whoever can change it can let himself in, so others must not
// be able to write to it. Tokens may be used concurrently.
type Tokens struct {
	path string
	now  func() time.Time

	mu     sync.RWMutex // guards the rest
	byID   map[string]*Token
	begun  bool       // there is a file, or there was one since the daemon started
	change sync.Mutex // held while the file is changed
}

// OpenTokens reads a file of tokens; one that does not exist has none yet. now is the clock
// that ends tokens.
func OpenTokens(path string, now func() time.Time) (*Tokens, error) {
	t := &Tokens{path: path, now: now}
	return t, t.Read()
}

// Read reads the file again. If that fails, the tokens that were read before stay.
func (t *Tokens) Read() error {
	byID, err := readFile(t.path)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = t.begun || byID != nil
	t.byID = byID
	return nil
}

// readFile returns the tokens of a file, nil if there is none.
func readFile(path string) (map[string]*Token, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.New(errs.Invalid, "the file of tokens: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, errs.New(errs.Invalid, "the file of tokens %s can be written by others, who could let themselves in: chmod go-w it", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the file of tokens: %w", err)
	}
	byID := map[string]*Token{}
	in := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; in.Scan(); n++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		tok, err := parseLine(line)
		if err == nil && byID[tok.ID] != nil {
			err = errs.New(errs.Invalid, "token %s is there twice", tok.ID)
		}
		if err == nil && len(byID) == maxTokens {
			err = errs.New(errs.Invalid, "there are more than %d tokens", maxTokens)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, n, err)
		}
		byID[tok.ID] = tok
	}
	if err := in.Err(); err != nil {
		return nil, errs.New(errs.Invalid, "%s: %w", path, err)
	}
	return byID, nil
}

// Check returns whose token the text is; nil if it is no token, or not any more. It takes
// as long for an unknown token as for a known one with a wrong secret.
func (t *Tokens) Check(text string) *Principal {
	id, ok := idOf(text)
	if !ok {
		return nil
	}
	t.mu.RLock()
	tok := t.byID[id]
	t.mu.RUnlock()
	known := tok != nil
	if !known {
		tok = &Token{}
	}
	if !tok.is(text) || !known || tok.over(t.now()) {
		return nil
	}
	return t.principal(tok)
}

// principal is who holds a token.
func (t *Tokens) principal(tok *Token) *Principal {
	p := tok.principal()
	p.Current = func() *Principal {
		t.mu.RLock()
		now := t.byID[tok.ID]
		t.mu.RUnlock()
		if now == nil || now.hash != tok.hash || now.over(t.now()) {
			return nil
		}
		return t.principal(now)
	}
	return p
}

// Begin says that tokens are in use, although there may be no file yet.
func (t *Tokens) Begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = true
}

// None tells whether nobody has begun to use tokens. It does not hold any more when the last
// one is revoked, or the file is removed: that must open nothing.
func (t *Tokens) None() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return !t.begun
}

// List returns the tokens, by id.
func (t *Tokens) List() []*Token {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]*Token, 0, len(t.byID))
	for _, tok := range t.byID {
		list = append(list, tok)
	}
	slices.SortFunc(list, func(a, b *Token) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Add adds a token to the file.
func (t *Tokens) Add(tok *Token) error {
	return t.edit(func(byID map[string]*Token) error {
		if len(byID) >= maxTokens {
			return errs.New(errs.NoSpace, "there are %d tokens: revoke some", len(byID))
		}
		byID[tok.ID] = tok
		return nil
	})
}

// Revoke removes a token from the file. One that is not there is errs.NotFound.
func (t *Tokens) Revoke(id string) error {
	return t.edit(func(byID map[string]*Token) error {
		if byID[id] == nil {
			return errs.New(errs.NotFound, "there is no token %.20q: glide token ls lists them", id)
		}
		delete(byID, id)
		return nil
	})
}

// edit changes the file, as it is now, and uses what it then has. Comments do not stay.
func (t *Tokens) edit(change func(byID map[string]*Token) error) error {
	t.change.Lock()
	defer t.change.Unlock()
	byID, err := readFile(t.path)
	if err != nil {
		return err
	}
	if byID == nil {
		byID = map[string]*Token{}
	}
	if err := change(byID); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.byID
	t.byID, t.begun = byID, true
	if err := t.writeLocked(); err != nil {
		t.byID = before
		return errs.New(errs.Unavailable, "the file of tokens cannot be written: %w", err)
	}
	return nil
}

// writeLocked replaces the file.
func (t *Tokens) writeLocked() error {
	var b bytes.Buffer
	b.WriteString("# id sha256 tenant verbs volumes until; changed by glide token\n")
	ids := make([]string, 0, len(t.byID))
	for id := range t.byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		b.WriteString(t.byID[id].line() + "\n")
	}
	f, err := os.CreateTemp(filepath.Dir(t.path), ".tokens-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), t.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(t.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
