package errs

import (
	"fmt"
	"runtime/debug"
)

// Panic is a panic that was caught: a bug. Whoever is at an edge logs its stack.
type Panic struct {
	Value any
	Stack []byte
}

// Error implements error.
func (p *Panic) Error() string { return fmt.Sprintf("a bug: %v", p.Value) }

// Catch, deferred, makes a panic the error of a function that somebody waits for
// in another goroutine: a panic there would end the process, and not the request
// that it works for.
func Catch(err *error) {
	if v := recover(); v != nil {
		*err = &Panic{v, debug.Stack()}
	}
}
