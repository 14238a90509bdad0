package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

var be = binary.BigEndian

// Sizes of the fixed parts of the option phase, in bytes.
const (
	GreetingSize          = 18
	ClientFlagsSize       = 4
	OptionHeaderSize      = 16
	OptionReplyHeaderSize = 20
	ExportNameReplySize   = 10  // with FlagNoZeroes
	ExportNameZeroes      = 124 // that follow without it
)

// AppendGreeting appends the server's first message.
//
//	0  8  "NBDMAGIC"
//	8  8  "IHAVEOPT"
//	16 2  handshake flags
func AppendGreeting(b []byte, flags uint16) []byte {
	b = be.AppendUint64(b, MagicServer)
	b = be.AppendUint64(b, MagicOption)
	return be.AppendUint16(b, flags)
}

// DecodeGreeting returns the handshake flags of a newstyle server.
func DecodeGreeting(b []byte) (flags uint16, err error) {
	switch {
	case len(b) != GreetingSize:
		return 0, malformed("greeting of %d bytes", len(b))
	case be.Uint64(b) != MagicServer || be.Uint64(b[8:]) != MagicOption:
		return 0, malformed("not a newstyle NBD server")
	}
	return be.Uint16(b[16:]), nil
}

// AppendClientFlags appends the client's answer to the greeting.
func AppendClientFlags(b []byte, flags uint32) []byte { return be.AppendUint32(b, flags) }

// DecodeClientFlags returns the client's flags.
func DecodeClientFlags(b []byte) (flags uint32, err error) {
	if len(b) != ClientFlagsSize {
		return 0, malformed("client flags of %d bytes", len(b))
	}
	return be.Uint32(b), nil
}

// Option is the header of a client's option; Length bytes of data follow it.
//
//	0  8  "IHAVEOPT"
//	8  4  option
//	12 4  length
type Option struct {
	Option uint32
	Length uint32
}

// AppendOption appends a whole option, header and data.
func AppendOption(b []byte, option uint32, data []byte) []byte {
	b = be.AppendUint64(b, MagicOption)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// DecodeOption decodes the header of an option.
func DecodeOption(b []byte) (Option, error) {
	switch {
	case len(b) != OptionHeaderSize:
		return Option{}, malformed("option header of %d bytes", len(b))
	case be.Uint64(b) != MagicOption:
		return Option{}, malformed("option with magic %#x", be.Uint64(b))
	}
	return Option{Option: be.Uint32(b[8:]), Length: be.Uint32(b[12:])}, nil
}

// OptionReply is the header of the server's reply to an option; Length bytes of
// data follow it.
//
//	0  8  magic
//	8  4  option that is answered
//	12 4  type of reply
//	16 4  length
type OptionReply struct {
	Option uint32
	Type   uint32
	Length uint32
}

// AppendOptionReply appends a whole reply, header and data.
func AppendOptionReply[T string | []byte](b []byte, option, reply uint32, data T) []byte {
	b = appendReplyHeader(b, option, reply, len(data))
	return append(b, data...)
}

func appendReplyHeader(b []byte, option, reply uint32, length int) []byte {
	b = be.AppendUint64(b, MagicOptionReply)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, reply)
	return be.AppendUint32(b, uint32(length))
}

// DecodeOptionReply decodes the header of a reply.
func DecodeOptionReply(b []byte) (OptionReply, error) {
	switch {
	case len(b) != OptionReplyHeaderSize:
		return OptionReply{}, malformed("option reply header of %d bytes", len(b))
	case be.Uint64(b) != MagicOptionReply:
		return OptionReply{}, malformed("option reply with magic %#x", be.Uint64(b))
	}
	return OptionReply{Option: be.Uint32(b[8:]), Type: be.Uint32(b[12:]), Length: be.Uint32(b[16:])}, nil
}

// InfoRequest is the data of GO and INFO.
//
//	0   4  length of the name
//	4   n  name
//	4+n 2  number of requests
//	    2  each request
type InfoRequest struct {
	Name  string
	Infos []uint16
}

// AppendInfoRequest appends the data of GO or INFO.
func AppendInfoRequest(b []byte, r InfoRequest) []byte {
	b = appendString(b, r.Name)
	b = be.AppendUint16(b, uint16(len(r.Infos)))
	for _, info := range r.Infos {
		b = be.AppendUint16(b, info)
	}
	return b
}

// DecodeInfoRequest decodes the data of GO or INFO.
func DecodeInfoRequest(b []byte) (r InfoRequest, err error) {
	if r.Name, b, err = takeString(b, "export name"); err != nil {
		return InfoRequest{}, err
	}
	if len(b) < 2 {
		return InfoRequest{}, malformed("the list of information requests is missing")
	}
	n := int(be.Uint16(b))
	if b = b[2:]; len(b) != 2*n {
		return InfoRequest{}, malformed("%d information requests in %d bytes", n, len(b))
	}
	for ; n > 0; n-- {
		r.Infos = append(r.Infos, be.Uint16(b))
		b = b[2:]
	}
	return r, nil
}

// ContextRequest is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
//
//	0   4  length of the export's name
//	4   n  export's name
//	4+n 4  number of queries
//	    4  length of a query, for each
//	    m  the query
type ContextRequest struct {
	Name    string
	Queries []string
}

// AppendContextRequest appends the data of LIST_META_CONTEXT or SET_META_CONTEXT.
func AppendContextRequest(b []byte, r ContextRequest) []byte {
	b = appendString(b, r.Name)
	b = be.AppendUint32(b, uint32(len(r.Queries)))
	for _, q := range r.Queries {
		b = appendString(b, q)
	}
	return b
}

// DecodeContextRequest decodes the data of LIST_META_CONTEXT or SET_META_CONTEXT.
func DecodeContextRequest(b []byte) (r ContextRequest, err error) {
	if r.Name, b, err = takeString(b, "export name"); err != nil {
		return ContextRequest{}, err
	}
	if len(b) < 4 {
		return ContextRequest{}, malformed("the list of queries is missing")
	}
	n := be.Uint32(b)
	b = b[4:]
	// A query takes at least its length field, so n cannot make us allocate
	// more than the message is long.
	if uint64(n)*4 > uint64(len(b)) {
		return ContextRequest{}, malformed("%d queries in %d bytes", n, len(b))
	}
	for ; n > 0; n-- {
		var q string
		if q, b, err = takeString(b, "query"); err != nil {
			return ContextRequest{}, err
		}
		r.Queries = append(r.Queries, q)
	}
	if len(b) != 0 {
		return ContextRequest{}, malformed("%d bytes after the last query", len(b))
	}
	return r, nil
}

// AppendInfoExport appends a RepInfo with the size and flags of an export.
func AppendInfoExport(b []byte, option uint32, size uint64, flags uint16) []byte {
	b = appendReplyHeader(b, option, RepInfo, 12)
	b = be.AppendUint16(b, InfoExport)
	b = be.AppendUint64(b, size)
	return be.AppendUint16(b, flags)
}

// AppendInfoBlockSize appends a RepInfo with the block sizes.
func AppendInfoBlockSize(b []byte, option, minimum, preferred, maximum uint32) []byte {
	b = appendReplyHeader(b, option, RepInfo, 14)
	b = be.AppendUint16(b, InfoBlockSize)
	b = be.AppendUint32(b, minimum)
	b = be.AppendUint32(b, preferred)
	return be.AppendUint32(b, maximum)
}

// AppendInfoText appends a RepInfo that carries text: a name or a description.
func AppendInfoText(b []byte, option uint32, info uint16, text string) []byte {
	b = appendReplyHeader(b, option, RepInfo, 2+len(text))
	b = be.AppendUint16(b, info)
	return append(b, text...)
}

// Info is the data of a RepInfo; which fields are set depends on Type.
type Info struct {
	Type                        uint16
	Size                        uint64 // InfoExport
	Flags                       uint16 // InfoExport
	Minimum, Preferred, Maximum uint32 // InfoBlockSize
	Text                        string // InfoName, InfoDescription
}

// DecodeInfo decodes the data of a RepInfo. Unknown types decode to their Type alone.
func DecodeInfo(b []byte) (Info, error) {
	if len(b) < 2 {
		return Info{}, malformed("information of %d bytes", len(b))
	}
	info := Info{Type: be.Uint16(b)}
	b = b[2:]
	switch info.Type {
	case InfoExport:
		if len(b) != 10 {
			return Info{}, malformed("export information of %d bytes", len(b))
		}
		info.Size, info.Flags = be.Uint64(b), be.Uint16(b[8:])
	case InfoBlockSize:
		if len(b) != 12 {
			return Info{}, malformed("block size information of %d bytes", len(b))
		}
		info.Minimum, info.Preferred, info.Maximum = be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:])
	case InfoName, InfoDescription:
		info.Text = string(b)
	}
	return info, nil
}

// AppendServer appends a RepServer: one export in the answer to LIST.
func AppendServer(b []byte, option uint32, name string) []byte {
	b = appendReplyHeader(b, option, RepServer, 4+len(name))
	return appendString(b, name)
}

// DecodeServer decodes the data of a RepServer.
func DecodeServer(b []byte) (name string, err error) {
	name, _, err = takeString(b, "export name") // what follows is for display only
	return name, err
}

// AppendMetaContext appends a RepMetaContext.
func AppendMetaContext(b []byte, option, id uint32, name string) []byte {
	b = appendReplyHeader(b, option, RepMetaContext, 4+len(name))
	b = be.AppendUint32(b, id)
	return append(b, name...)
}

// DecodeMetaContext decodes the data of a RepMetaContext.
func DecodeMetaContext(b []byte) (id uint32, name string, err error) {
	if len(b) < 4 {
		return 0, "", malformed("metadata context of %d bytes", len(b))
	}
	return be.Uint32(b), string(b[4:]), nil
}

// AppendExportNameReply appends the answer to EXPORT_NAME, which has no header.
func AppendExportNameReply(b []byte, size uint64, flags uint16, zeroes bool) []byte {
	b = be.AppendUint64(b, size)
	b = be.AppendUint16(b, flags)
	if zeroes {
		b = append(b, make([]byte, ExportNameZeroes)...)
	}
	return b
}

// DecodeExportNameReply decodes the answer to EXPORT_NAME, without its zeroes.
func DecodeExportNameReply(b []byte) (size uint64, flags uint16, err error) {
	if len(b) != ExportNameReplySize {
		return 0, 0, malformed("answer to EXPORT_NAME of %d bytes", len(b))
	}
	return be.Uint64(b), be.Uint16(b[8:]), nil
}

// CheckName says whether b can be a string of the protocol.
func CheckName(b []byte) error {
	switch {
	case len(b) > MaxString:
		return malformed("a string of %d bytes, more than %d", len(b), MaxString)
	case !utf8.Valid(b):
		return malformed("a string that is not UTF-8")
	}
	for _, c := range b {
		if c == 0 {
			return malformed("a string with a NUL in it")
		}
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	b = be.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// takeString takes a string behind its 32-bit length from the front of b.
func takeString(b []byte, what string) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, malformed("the length of the %s is missing", what)
	}
	n := be.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return "", nil, malformed("%s of %d bytes in a message with %d left", what, n, len(b))
	}
	if err := CheckName(b[:n]); err != nil {
		return "", nil, err
	}
	return string(b[:n]), b[n:], nil
}
