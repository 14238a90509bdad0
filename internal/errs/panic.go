package errs

import (
	"fmt"
	"runtime/debug"
)

// Panic is a caught panic: a bug. The code at the edge of the program logs its
// stack.
type Panic struct {
	Value any
	Stack []byte
}

// Error implements error.
func (p *Panic) Error() string { return fmt.Sprintf("a bug: %v", p.Value) }

// Catch, deferred, turns a panic into the error of a function that runs in a
// goroutine of its own. Otherwise the panic would end the process instead of the
// request.
func Catch(err *error) {
	if v := recover(); v != nil {
		*err = &Panic{v, debug.Stack()}
	}
}
