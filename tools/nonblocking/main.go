// Command nonblocking checks that nothing blocks under a lock that says so. It is a vet
// tool: go vet -vettool=nonblocking ./...
//
// A mutex that is a field or a package's variable is nonblocking if a line of
// its comment is
//
//	glide:nonblocking
//
// While it may be held, nothing may wait: no request to the object store, no
// I/O on files or the network, no sleep, no channel operation outside a select
// with a default, no WaitGroup or Cond (but that of the lock itself), and no
// lock that is not nonblocking too. Calls are followed through this module; of
// functions of other modules those listed in blocking.go block. An interface's
// method, or a field that holds a function, blocks if a line of its comment is
//
//	glide:blocks
//
// The check knows a lock by the name of its type and field, so it does not tell
// two values of one type apart. A function literal that is an argument of a call
// counts as run there, but for those of go statements, Go and AfterFunc. A call of
// a plain function value, or of an interface's method without the mark, is not
// followed.
package main

import "golang.org/x/tools/go/analysis/unitchecker"

func main() { unitchecker.Main(Analyzer) }
