// Package audit writes down who did what at the daemon's doors: JSON lines, each with the
// hash of the one before, so that a line that was changed or taken out shows. There are no
// secrets in it.
//
//	{"time":"…","who":"token 3f9ab2c1","from":"10.0.0.7","verb":"manage","what":"DELETE /v1/volumes/web","outcome":"ok","prev":"<64 hex>"}
//
// prev is the SHA-256 of the line before, without its line feed; it is empty in the first
// line of all. Whoever can write to the file can make a new chain: to prove more, copy the
// lines to where the host cannot reach.
package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// Entry is one line.
type Entry struct {
	Time    time.Time `json:"time"`
	Who     string    `json:"who"`     // a principal; "nobody": one who was refused
	From    string    `json:"from"`    // a network address, or "local"
	Verb    string    `json:"verb"`    // that it took
	What    string    `json:"what"`    // method and path, or an NBD export
	Outcome string    `json:"outcome"` // ok, or the kind of the error
	Prev    string    `json:"prev"`
}

const (
	// maxWhat bounds the text that a client can have written, bytes.
	maxWhat = 512
	// maxLine bounds a line that is read, bytes.
	maxLine = 8 << 10
	// sayEvery is how often a failure is logged.
	sayEvery = time.Minute
)

// Log is an audit file. It may be used concurrently. A nil Log writes nothing.
type Log struct {
	path string
	now  func() time.Time
	log  *slog.Logger

	mu   sync.Mutex // guards the rest, and is held while a line is written
	f    *os.File
	prev string
	said time.Time // when a failure was logged last
	lost uint64
}

// Open goes on with an audit file, or begins one. A chain that is broken is errs.Corrupt:
// the file should be looked at, and moved away.
func Open(path string, now func() time.Time, log *slog.Logger) (*Log, error) {
	l := &Log{path: path, now: now, log: log}
	return l, l.open()
}

// open opens the file, and finds the end of its chain. An empty file goes on with the chain
// of the one that was there before.
func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return errs.New(errs.Invalid, "the audit file: %w", err)
	}
	last, lines, err := check(f)
	if err == nil && lines > 0 {
		l.prev = last
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w; move it away, so that a new one begins", l.path, err), f.Close())
	}
	l.f = f
	return nil
}

// Check reads an audit file and returns how many lines it has. A chain that is broken is
// errs.Corrupt, with the number of the line.
func Check(path string) (lines int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	_, lines, err = check(f)
	return lines, errors.Join(err, f.Close())
}

// check returns the hash of the last line. A last line without its line feed is the remains
// of a crash: it counts as a line.
func check(r io.Reader) (last string, lines int, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) == 0 && err == io.EOF {
			return last, lines, nil
		}
		if err != nil && err != io.EOF {
			return "", lines, errs.New(errs.Corrupt, "line %d: %w", lines+1, err)
		}
		lines++
		torn := err == io.EOF
		line = bytes.TrimSuffix(line, []byte("\n"))
		var e Entry
		switch err := json.Unmarshal(line, &e); {
		case err != nil && torn: // cut off by a crash
		case err != nil:
			// A line that a crash cut off, and that was ended when the daemon started again.
			if next, perr := in.Peek(1); perr != nil || next[0] != '{' {
				return "", lines, errs.New(errs.Corrupt, "line %d is no line of an audit file: %w", lines, err)
			}
		case lines > 1 && e.Prev != last:
			return "", lines, errs.New(errs.Corrupt, "line %d does not follow the one before: a line was changed, added or taken out", lines)
		}
		h := sha256.Sum256(line)
		last = hex.EncodeToString(h[:])
		if torn {
			return last, lines, nil
		}
	}
}

// Write adds a line. If that fails, the daemon's log says so.
func (l *Log) Write(e Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.write(e); err != nil {
		l.lost++
		if now := l.now(); now.Sub(l.said) >= sayEvery {
			l.said = now
			l.log.Error("the audit file cannot be written: what happens meanwhile is only in this log", "lost", l.lost, "error", err,
				"who", e.Who, "from", e.From, "what", e.What, "outcome", e.Outcome)
		}
	}
}

func (l *Log) write(e Entry) error {
	if err := l.follow(); err != nil {
		return err
	}
	e.Time, e.Prev = l.now().UTC(), l.prev
	if len(e.What) > maxWhat {
		e.What = e.What[:maxWhat] + "…"
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := l.endTorn(); err != nil {
		return err
	}
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		return err
	}
	h := sha256.Sum256(line)
	l.prev = hex.EncodeToString(h[:])
	return nil
}

// follow opens the file again if somebody moved it away.
func (l *Log) follow() error {
	if l.f != nil {
		now, err := os.Stat(l.path)
		have, herr := l.f.Stat()
		if err == nil && herr == nil && os.SameFile(now, have) {
			return nil
		}
		_ = l.f.Close()
		l.f = nil
	}
	return l.open()
}

// endTorn ends a last line that a crash, or a full disk, has cut off.
func (l *Log) endTorn() error {
	st, err := l.f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	var b [1]byte
	if _, err := l.f.ReadAt(b[:], st.Size()-1); err != nil || b[0] == '\n' {
		return err
	}
	_, err = l.f.Write([]byte{'\n'})
	return err
}

// Close closes the file.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := errors.Join(l.f.Sync(), l.f.Close())
	l.f = nil
	return err
}
