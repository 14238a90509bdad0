// Package wire encodes and decodes the messages of the NBD protocol. It is pure:
// bytes in, values out, no I/O and no state; the server and the client share it.
//
// Every Append function appends one message to b and returns the longer slice,
// which does not allocate when b has room. Every Decode function takes exactly
// the bytes of one message (headers have a fixed size, payloads the length that
// their header announced), keeps none of them, and never panics.
//
// All integers are big-endian. Option-phase messages are in options.go, those
// of the transmission phase in transmission.go.
package wire

import (
	"errors"
	"fmt"
)

// The magic numbers that begin each kind of message.
const (
	MagicServer          uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	MagicOption          uint64 = 0x49484156454f5054 // "IHAVEOPT"
	MagicOptionReply     uint64 = 0x0003e889045565a9
	MagicRequest         uint32 = 0x25609513
	MagicSimpleReply     uint32 = 0x67446698
	MagicStructuredReply uint32 = 0x668e33ef
)

// MaxString is the longest string (export name, context, message) that the
// protocol permits, in bytes.
const MaxString = 4096

// Handshake flags of the server, and the client's answers at the same bits.
const (
	FlagFixedNewstyle = 1 << 0
	FlagNoZeroes      = 1 << 1
)

// Options.
const (
	OptExportName      uint32 = 1
	OptAbort           uint32 = 2
	OptList            uint32 = 3
	OptPeekExport      uint32 = 4
	OptStartTLS        uint32 = 5
	OptInfo            uint32 = 6
	OptGo              uint32 = 7
	OptStructuredReply uint32 = 8
	OptListMetaContext uint32 = 9
	OptSetMetaContext  uint32 = 10
	OptExtendedHeaders uint32 = 11
)

// Option replies. RepError is set in those that refuse.
const (
	RepAck         uint32 = 1
	RepServer      uint32 = 2
	RepInfo        uint32 = 3
	RepMetaContext uint32 = 4

	RepError       uint32 = 1 << 31
	RepErrUnsup    uint32 = RepError + 1
	RepErrPolicy   uint32 = RepError + 2
	RepErrInvalid  uint32 = RepError + 3
	RepErrPlatform uint32 = RepError + 4
	RepErrTLSReqd  uint32 = RepError + 5
	RepErrUnknown  uint32 = RepError + 6
	RepErrShutdown uint32 = RepError + 7
	RepErrTooBig   uint32 = RepError + 9
)

// Kinds of information in a RepInfo.
const (
	InfoExport      uint16 = 0
	InfoName        uint16 = 1
	InfoDescription uint16 = 2
	InfoBlockSize   uint16 = 3
)

// Transmission flags: what an export can do.
const (
	ExportHasFlags        uint16 = 1 << 0
	ExportReadOnly        uint16 = 1 << 1
	ExportSendFlush       uint16 = 1 << 2
	ExportSendFUA         uint16 = 1 << 3
	ExportSendTrim        uint16 = 1 << 5
	ExportSendWriteZeroes uint16 = 1 << 6
	ExportSendDF          uint16 = 1 << 7
	ExportCanMultiConn    uint16 = 1 << 8
	ExportSendCache       uint16 = 1 << 10
	ExportSendFastZero    uint16 = 1 << 11
)

// Commands.
const (
	CmdRead        uint16 = 0
	CmdWrite       uint16 = 1
	CmdDisc        uint16 = 2
	CmdFlush       uint16 = 3
	CmdTrim        uint16 = 4
	CmdCache       uint16 = 5
	CmdWriteZeroes uint16 = 6
	CmdBlockStatus uint16 = 7
)

// Command flags.
const (
	CmdFlagFUA      uint16 = 1 << 0
	CmdFlagNoHole   uint16 = 1 << 1
	CmdFlagDF       uint16 = 1 << 2
	CmdFlagReqOne   uint16 = 1 << 3
	CmdFlagFastZero uint16 = 1 << 4
)

// Types and flags of structured reply chunks.
const (
	ChunkNone        uint16 = 0
	ChunkOffsetData  uint16 = 1
	ChunkOffsetHole  uint16 = 2
	ChunkBlockStatus uint16 = 5
	ChunkErrorBit    uint16 = 1 << 15
	ChunkError       uint16 = ChunkErrorBit + 1
	ChunkErrorOffset uint16 = ChunkErrorBit + 2

	ChunkFlagDone uint16 = 1 << 0
)

// ErrMalformed is wrapped by every error that a Decode function returns.
var ErrMalformed = errors.New("malformed NBD message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

var optionNames = map[uint32]string{
	OptExportName:      "EXPORT_NAME",
	OptAbort:           "ABORT",
	OptList:            "LIST",
	OptPeekExport:      "PEEK_EXPORT",
	OptStartTLS:        "STARTTLS",
	OptInfo:            "INFO",
	OptGo:              "GO",
	OptStructuredReply: "STRUCTURED_REPLY",
	OptListMetaContext: "LIST_META_CONTEXT",
	OptSetMetaContext:  "SET_META_CONTEXT",
	OptExtendedHeaders: "EXTENDED_HEADERS",
}

// OptionName returns the protocol's name for an option, for people.
func OptionName(option uint32) string {
	if name, ok := optionNames[option]; ok {
		return name
	}
	return fmt.Sprintf("option %d", option)
}

var replyNames = map[uint32]string{
	RepAck:         "ACK",
	RepServer:      "SERVER",
	RepInfo:        "INFO",
	RepMetaContext: "META_CONTEXT",
	RepErrUnsup:    "not supported",
	RepErrPolicy:   "refused by policy",
	RepErrInvalid:  "invalid",
	RepErrPlatform: "not supported on this platform",
	RepErrTLSReqd:  "TLS is required",
	RepErrUnknown:  "unknown export",
	RepErrShutdown: "shutting down",
	RepErrTooBig:   "too big",
}

// ReplyName says in words what an option reply type means.
func ReplyName(reply uint32) string {
	if name, ok := replyNames[reply]; ok {
		return name
	}
	return fmt.Sprintf("reply %#x", reply)
}
