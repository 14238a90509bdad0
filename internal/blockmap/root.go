package blockmap

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// Root is a published tree: the reference of its top page and its height in
// levels. The zero Root maps nothing: every block is a hole.
//
// Its text form, also in JSON, is "hole", or
//
//	<height>/<hash>/<pack>/<offset>+<length>
//
// with the hash in lower-case hexadecimal, the pack as pack.ID has it, and decimal
// numbers.
type Root struct {
	Ref    pack.Ref
	Height uint8
}

const holeText = "hole"

// HeightFor returns the height of a tree of this many blocks: the smallest number of
// levels that holds them.
func HeightFor(blocks uint64) uint8 {
	if blocks == 0 {
		return 0
	}
	return uint8(max(1, (bits.Len64(blocks-1)+slotBits-1)/slotBits))
}

// IsHole reports whether the tree maps nothing.
func (r Root) IsHole() bool { return r.Ref.IsHole() }

// Span returns the largest number of blocks that a map of the root's height may have.
func (r Root) Span() uint64 { return min(uint64(1)<<(slotBits*uint64(r.Height)), maxBlocks) }

// String returns the text form.
func (r Root) String() string {
	if r.IsHole() {
		return holeText
	}
	return fmt.Sprintf("%d/%s/%s/%d+%d", r.Height, r.Ref.Hash, r.Ref.Pack, r.Ref.Off, r.Ref.Len)
}

// parseRoot parses exactly what String returns.
func parseRoot(text string) (Root, error) {
	if text == holeText {
		return Root{}, nil
	}
	r, ok := readRoot(text)
	// Numbers can be spelled in several ways, but a root has one text form.
	if !ok || r.String() != text || r.Height < 1 || r.Height > MaxHeight || !validExtent(r.Ref.Off, r.Ref.Len) {
		return Root{}, errs.New(errs.Corrupt, "%.200q is no root of a block map", text)
	}
	return r, nil
}

func readRoot(text string) (r Root, ok bool) {
	parts := strings.Split(text, "/")
	if len(parts) != 4 {
		return Root{}, false
	}
	id, ok1 := pack.ParseID(parts[2])
	off, length, ok2 := strings.Cut(parts[3], "+")
	height, ok3 := number(parts[0], 8)
	o, ok4 := number(off, 32)
	l, ok5 := number(length, 32)
	r.Height, r.Ref.Pack, r.Ref.Off, r.Ref.Len = uint8(height), id, uint32(o), uint32(l)
	return r, ok1 && ok2 && ok3 && ok4 && ok5 && unhex(r.Ref.Hash[:], parts[1])
}

func number(s string, bitSize int) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, bitSize)
	return n, err == nil
}

func unhex(dst []byte, s string) bool {
	if len(s) != hex.EncodedLen(len(dst)) {
		return false
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

// MarshalText returns the text form, which makes Root a string in JSON.
func (r Root) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText parses the text form as strictly as parseRoot.
func (r *Root) UnmarshalText(text []byte) (err error) {
	*r, err = parseRoot(string(text))
	return err
}
