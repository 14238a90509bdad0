package objstore

import "fmt"

// Op is a kind of request.
type Op uint8

// The kinds of requests, one for each method of Store.
const (
	OpGet Op = iota
	OpGetRange
	OpPut
	OpPutIfAbsent
	OpHead
	OpList
	OpDelete
	OpDeleteBatch
)

var opNames = [...]string{"get", "get range", "put", "put if absent", "head", "list", "delete", "delete batch"}

// String is the request's name in error messages.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// reads tells whether the request changes nothing.
func (o Op) reads() bool { return o == OpGet || o == OpGetRange || o == OpHead || o == OpList }
