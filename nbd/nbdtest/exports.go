package nbdtest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/paraglide/glide/nbd"
)

// Exports is an nbd.Exporter of a changing set of exports, which counts the
// connections that each has.
type Exports struct {
	mu     sync.Mutex
	all    map[string]nbd.Export
	opened map[string]int
	closed map[string]int
}

// NewExports returns an exporter of the given exports. The one named "" is the default.
func NewExports(exports ...nbd.Export) *Exports {
	e := &Exports{all: make(map[string]nbd.Export), opened: make(map[string]int), closed: make(map[string]int)}
	for _, x := range exports {
		e.all[x.Name] = x
	}
	return e
}

// Open implements nbd.Exporter.
func (e *Exports) Open(name string) (*nbd.Export, error) {
	x, err := e.Describe(name)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.opened[name]++
	closed := x.Closed
	x.Closed = func() {
		e.mu.Lock()
		e.closed[name]++
		e.mu.Unlock()
		if closed != nil {
			closed()
		}
	}
	return x, nil
}

// Describe implements nbd.Exporter.
func (e *Exports) Describe(name string) (*nbd.Export, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x, ok := e.all[name]
	if !ok {
		return nil, fmt.Errorf("there is no export %q", name)
	}
	return &x, nil
}

// List implements nbd.Exporter.
func (e *Exports) List() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.all))
}

// Connections returns how many connections have the export open.
func (e *Exports) Connections(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.opened[name] - e.closed[name]
}

// Opened returns how many times the export was opened.
func (e *Exports) Opened(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.opened[name]
}
