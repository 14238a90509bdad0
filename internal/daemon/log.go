package daemon

import (
	"bytes"
	"strings"
	"sync"
)

// Log is what a process says. It can be read while the process still writes.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Reset forgets what was said until now.
func (l *Log) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

// LastLine is the last line that is not empty.
func (l *Log) LastLine() string {
	s := strings.TrimSpace(l.String())
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}
