package commitlog

import "github.com/paraglide/glide/internal/commitlog/internal/section"

// Range is a run of bytes of a volume that a data commit changes.
type Range = section.Range

// EncodeData returns the data section for the ranges, which are in order and do not
// overlap. A section of more than MaxData bytes, compressed or not, is errs.Invalid:
// the caller must split its cut into several commits.
func EncodeData(ranges []Range) ([]byte, error) { return section.Encode(ranges) }

// DecodeData reads a data section. The ranges may share its memory. A section that
// EncodeData could not have written is errs.Corrupt.
func DecodeData(data []byte) ([]Range, error) { return section.Decode(data) }

// decodedSize is how many bytes the object's data section stands for.
func (o *Object) decodedSize() uint64 { return section.Size(o.Data, o.State.BlockSize) }
