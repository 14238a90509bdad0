package wire

// Sizes of the fixed parts of the transmission phase, in bytes.
const (
	RequestSize     = 28
	SimpleReplySize = 16
	ChunkHeaderSize = 20
	OffsetDataSize  = ChunkHeaderSize + 8 // a chunk header and the offset in front of the data
	errorSize       = 6                   // of an error chunk's payload without its message
)

// Request is the header of a client's request. In a WRITE, Length bytes of data
// follow it.
//
//	0  4  magic
//	4  2  command flags
//	6  2  command
//	8  8  cookie
//	16 8  offset
//	24 4  length
type Request struct {
	Flags  uint16
	Type   uint16
	Cookie uint64
	Offset uint64
	Length uint32
}

// AppendRequest appends the header of a request.
func AppendRequest(b []byte, r Request) []byte {
	b = be.AppendUint32(b, MagicRequest)
	b = be.AppendUint16(b, r.Flags)
	b = be.AppendUint16(b, r.Type)
	b = be.AppendUint64(b, r.Cookie)
	b = be.AppendUint64(b, r.Offset)
	return be.AppendUint32(b, r.Length)
}

// DecodeRequest decodes the header in the first RequestSize bytes of b, and
// tells whether its magic number was right. b must have so many.
func DecodeRequest(b []byte) (r Request, ok bool) {
	b = b[:RequestSize]
	return Request{
		Flags:  be.Uint16(b[4:]),
		Type:   be.Uint16(b[6:]),
		Cookie: be.Uint64(b[8:]),
		Offset: be.Uint64(b[16:]),
		Length: be.Uint32(b[24:]),
	}, be.Uint32(b) == MagicRequest
}

// SimpleReply is a simple reply; the data of a READ that succeeded follows it.
//
//	0 4  magic
//	4 4  error
//	8 8  cookie
type SimpleReply struct {
	Error  uint32
	Cookie uint64
}

// AppendSimpleReply appends a simple reply.
func AppendSimpleReply(b []byte, r SimpleReply) []byte {
	b = be.AppendUint32(b, MagicSimpleReply)
	b = be.AppendUint32(b, r.Error)
	return be.AppendUint64(b, r.Cookie)
}

// DecodeSimpleReply decodes a simple reply.
func DecodeSimpleReply(b []byte) (SimpleReply, error) {
	switch {
	case len(b) != SimpleReplySize:
		return SimpleReply{}, malformed("simple reply of %d bytes", len(b))
	case be.Uint32(b) != MagicSimpleReply:
		return SimpleReply{}, malformed("simple reply with magic %#x", be.Uint32(b))
	}
	return SimpleReply{Error: be.Uint32(b[4:]), Cookie: be.Uint64(b[8:])}, nil
}

// Chunk is the header of one chunk of a structured reply; Length bytes of
// payload follow it.
//
//	0  4  magic
//	4  2  flags
//	6  2  type
//	8  8  cookie
//	16 4  length
type Chunk struct {
	Flags  uint16
	Type   uint16
	Cookie uint64
	Length uint32
}

// AppendChunk appends the header of a chunk.
func AppendChunk(b []byte, c Chunk) []byte {
	b = be.AppendUint32(b, MagicStructuredReply)
	b = be.AppendUint16(b, c.Flags)
	b = be.AppendUint16(b, c.Type)
	b = be.AppendUint64(b, c.Cookie)
	return be.AppendUint32(b, c.Length)
}

// DecodeChunk decodes the header of a chunk.
func DecodeChunk(b []byte) (Chunk, error) {
	switch {
	case len(b) != ChunkHeaderSize:
		return Chunk{}, malformed("chunk header of %d bytes", len(b))
	case be.Uint32(b) != MagicStructuredReply:
		return Chunk{}, malformed("chunk with magic %#x", be.Uint32(b))
	}
	return Chunk{
		Flags:  be.Uint16(b[4:]),
		Type:   be.Uint16(b[6:]),
		Cookie: be.Uint64(b[8:]),
		Length: be.Uint32(b[16:]),
	}, nil
}

// AppendOffsetData appends all of the only chunk of a READ's reply but its
// data: the header of a final chunk, and the offset. length is that of the data.
func AppendOffsetData(b []byte, cookie, offset uint64, length uint32) []byte {
	b = AppendChunk(b, Chunk{Flags: ChunkFlagDone, Type: ChunkOffsetData, Cookie: cookie, Length: 8 + length})
	return be.AppendUint64(b, offset)
}

// AppendError appends a whole final error chunk.
//
//	0 4  error
//	4 2  length of the message
//	6 n  message
func AppendError(b []byte, cookie uint64, errno uint32, message string) []byte {
	b = AppendChunk(b, Chunk{
		Flags: ChunkFlagDone, Type: ChunkError, Cookie: cookie, Length: uint32(errorSize + len(message)),
	})
	b = be.AppendUint32(b, errno)
	b = be.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// ErrorChunkSize is the size of what AppendError appends for a message of n bytes.
func ErrorChunkSize(n int) int { return ChunkHeaderSize + errorSize + n }

// DecodeError decodes the payload of an error chunk of any type.
func DecodeError(b []byte) (errno uint32, message string, err error) {
	if len(b) < errorSize {
		return 0, "", malformed("error chunk of %d bytes", len(b))
	}
	errno = be.Uint32(b)
	n := int(be.Uint16(b[4:]))
	if b = b[errorSize:]; n > len(b) {
		return 0, "", malformed("error message of %d bytes in a chunk with %d left", n, len(b))
	}
	if errno == 0 {
		return 0, "", malformed("error chunk without an error")
	}
	return errno, string(b[:n]), nil
}

// Descriptor is one extent in a BLOCK_STATUS chunk.
type Descriptor struct {
	Length uint32
	Flags  uint32
}

// AppendBlockStatus appends the header of a BLOCK_STATUS chunk for n
// descriptors and the context's number; the descriptors are to follow.
func AppendBlockStatus(b []byte, flags uint16, cookie uint64, context uint32, n int) []byte {
	b = AppendChunk(b, Chunk{Flags: flags, Type: ChunkBlockStatus, Cookie: cookie, Length: uint32(4 + 8*n)})
	return be.AppendUint32(b, context)
}

// AppendDescriptor appends one descriptor.
func AppendDescriptor(b []byte, d Descriptor) []byte {
	b = be.AppendUint32(b, d.Length)
	return be.AppendUint32(b, d.Flags)
}

// DecodeBlockStatus decodes the payload of a BLOCK_STATUS chunk.
func DecodeBlockStatus(b []byte) (context uint32, ds []Descriptor, err error) {
	if len(b) < 12 || len(b)%8 != 4 {
		return 0, nil, malformed("block status of %d bytes", len(b))
	}
	context = be.Uint32(b)
	ds = make([]Descriptor, 0, len(b)/8)
	for b = b[4:]; len(b) > 0; b = b[8:] {
		d := Descriptor{Length: be.Uint32(b), Flags: be.Uint32(b[4:])}
		if d.Length == 0 {
			return 0, nil, malformed("empty extent in a block status")
		}
		ds = append(ds, d)
	}
	return context, ds, nil
}

// Offset decodes the offset at the front of an OFFSET_DATA chunk's payload.
func Offset(b [8]byte) uint64 { return be.Uint64(b[:]) }

// DecodeHole decodes the payload of an OFFSET_HOLE chunk.
func DecodeHole(b []byte) (offset uint64, length uint32, err error) {
	if len(b) != 12 || be.Uint32(b[8:]) == 0 {
		return 0, 0, malformed("hole chunk of %d bytes", len(b))
	}
	return be.Uint64(b), be.Uint32(b[8:]), nil
}
