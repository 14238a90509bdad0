package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/fuzztest"
)

// golden checks bytes against hex, in which spaces do not count. The hex was
// written by hand from the protocol's text.
func golden(t *testing.T, name string, got []byte, want string) {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(want, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		t.Errorf("%s:\n got %x\nwant %x", name, got, b)
	}
}

func check(t *testing.T, name string, err error, got, want any) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", name, err)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", name, got, want)
	}
}

func TestGoldenOptions(t *testing.T) {
	b := AppendGreeting(nil, FlagFixedNewstyle|FlagNoZeroes)
	golden(t, "greeting", b, "4e42444d41474943 49484156454f5054 0003")
	flags, err := DecodeGreeting(b)
	check(t, "greeting", err, flags, uint16(3))

	b = AppendClientFlags(nil, 3)
	golden(t, "client flags", b, "00000003")
	cflags, err := DecodeClientFlags(b)
	check(t, "client flags", err, cflags, uint32(3))

	b = AppendOption(nil, OptExportName, []byte("vm"))
	golden(t, "option", b, "49484156454f5054 00000001 00000002 766d")
	opt, err := DecodeOption(b[:OptionHeaderSize])
	check(t, "option", err, opt, Option{OptExportName, 2})

	b = AppendOptionReply(nil, OptGo, RepErrUnknown, "no")
	golden(t, "option reply", b, "0003e889045565a9 00000007 80000006 00000002 6e6f")
	rep, err := DecodeOptionReply(b[:OptionReplyHeaderSize])
	check(t, "option reply", err, rep, OptionReply{OptGo, RepErrUnknown, 2})

	info := InfoRequest{Name: "vm", Infos: []uint16{InfoName, InfoBlockSize}}
	b = AppendInfoRequest(nil, info)
	golden(t, "info request", b, "00000002 766d 0002 0001 0003")
	gotInfo, err := DecodeInfoRequest(b)
	check(t, "info request", err, gotInfo, info)

	ctx := ContextRequest{Name: "vm", Queries: []string{"base:", "x-a:b"}}
	b = AppendContextRequest(nil, ctx)
	golden(t, "context request", b, "00000002 766d 00000002 00000005 626173653a 00000005 782d613a62")
	gotCtx, err := DecodeContextRequest(b)
	check(t, "context request", err, gotCtx, ctx)

	b = AppendInfoExport(nil, OptGo, 1<<40, 0x56d)
	golden(t, "info export", b, "0003e889045565a9 00000007 00000003 0000000c 0000 0000010000000000 056d")
	i, err := DecodeInfo(b[OptionReplyHeaderSize:])
	check(t, "info export", err, i, Info{Type: InfoExport, Size: 1 << 40, Flags: 0x56d})

	b = AppendInfoBlockSize(nil, OptInfo, 1, 4096, 32<<20)
	golden(t, "info block size", b, "0003e889045565a9 00000006 00000003 0000000e 0003 00000001 00001000 02000000")
	i, err = DecodeInfo(b[OptionReplyHeaderSize:])
	check(t, "info block size", err, i, Info{Type: InfoBlockSize, Minimum: 1, Preferred: 4096, Maximum: 32 << 20})

	b = AppendInfoText(nil, OptGo, InfoName, "vm")
	golden(t, "info name", b, "0003e889045565a9 00000007 00000003 00000004 0001 766d")
	i, err = DecodeInfo(b[OptionReplyHeaderSize:])
	check(t, "info name", err, i, Info{Type: InfoName, Text: "vm"})

	b = AppendServer(nil, OptList, "vm")
	golden(t, "server", b, "0003e889045565a9 00000003 00000002 00000006 00000002 766d")
	name, err := DecodeServer(b[OptionReplyHeaderSize:])
	check(t, "server", err, name, "vm")

	b = AppendMetaContext(nil, OptSetMetaContext, 1, "base:allocation")
	golden(t, "meta context", b, "0003e889045565a9 0000000a 00000004 00000013 00000001 626173653a616c6c6f636174696f6e")
	id, name, err := DecodeMetaContext(b[OptionReplyHeaderSize:])
	check(t, "meta context", err, []any{id, name}, []any{uint32(1), "base:allocation"})

	b = AppendExportNameReply(nil, 1<<40, 0x16d, false)
	golden(t, "export name reply", b, "0000010000000000 016d")
	size, tflags, err := DecodeExportNameReply(b)
	check(t, "export name reply", err, []any{size, tflags}, []any{uint64(1 << 40), uint16(0x16d)})
	golden(t, "export name reply", AppendExportNameReply(nil, 1<<40, 0x16d, true),
		"0000010000000000 016d"+strings.Repeat("00", ExportNameZeroes))
}

func TestGoldenTransmission(t *testing.T) {
	req := Request{Flags: CmdFlagFUA, Type: CmdWrite, Cookie: 0x0102030405060708, Offset: 4096, Length: 512}
	b := AppendRequest(nil, req)
	golden(t, "request", b, "25609513 0001 0001 0102030405060708 0000000000001000 00000200")
	gotReq, ok := DecodeRequest(append(b, 0xff))
	if !ok || gotReq != req {
		t.Errorf("request: got %+v, %v", gotReq, ok)
	}
	b[0] = 0
	if _, ok := DecodeRequest(b); ok {
		t.Error("a request with a wrong magic number was accepted")
	}

	b = AppendSimpleReply(nil, SimpleReply{Error: 28, Cookie: 9})
	golden(t, "simple reply", b, "67446698 0000001c 0000000000000009")
	r, err := DecodeSimpleReply(b)
	check(t, "simple reply", err, r, SimpleReply{28, 9})

	b = AppendOffsetData(nil, 9, 4096, 512)
	golden(t, "offset data", b, "668e33ef 0001 0001 0000000000000009 00000208 0000000000001000")
	c, err := DecodeChunk(b[:ChunkHeaderSize])
	check(t, "offset data", err, c, Chunk{Flags: ChunkFlagDone, Type: ChunkOffsetData, Cookie: 9, Length: 520})
	if off := Offset([8]byte(b[ChunkHeaderSize:])); off != 4096 {
		t.Errorf("offset data: offset %d", off)
	}

	b = AppendError(nil, 9, 5, "no")
	golden(t, "error", b, "668e33ef 0001 8001 0000000000000009 00000008 00000005 0002 6e6f")
	if len(b) != ErrorChunkSize(2) {
		t.Errorf("error: %d bytes, ErrorChunkSize says %d", len(b), ErrorChunkSize(2))
	}
	errno, msg, err := DecodeError(b[ChunkHeaderSize:])
	check(t, "error", err, []any{errno, msg}, []any{uint32(5), "no"})

	b = AppendBlockStatus(nil, ChunkFlagDone, 9, 2, 2)
	b = AppendDescriptor(b, Descriptor{4096, 3})
	b = AppendDescriptor(b, Descriptor{512, 0})
	golden(t, "block status", b,
		"668e33ef 0001 0005 0000000000000009 00000014 00000002 00001000 00000003 00000200 00000000")
	id, ds, err := DecodeBlockStatus(b[ChunkHeaderSize:])
	check(t, "block status", err, []any{id, ds}, []any{uint32(2), []Descriptor{{4096, 3}, {512, 0}}})

	off, n, err := DecodeHole([]byte{0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 2, 0})
	check(t, "hole", err, []any{off, n}, []any{uint64(4096), uint32(512)})
}

// TestMalformed has one message for each thing that a decoder must refuse.
func TestMalformed(t *testing.T) {
	info := func(b string) error { _, err := DecodeInfoRequest([]byte(b)); return err }
	ctx := func(b string) error { _, err := DecodeContextRequest([]byte(b)); return err }
	repInfo := func(b string) error { _, err := DecodeInfo([]byte(b)); return err }
	status := func(b string) error { _, _, err := DecodeBlockStatus([]byte(b)); return err }
	fail := func(b string) error { _, _, err := DecodeError([]byte(b)); return err }
	hole := func(b string) error { _, _, err := DecodeHole([]byte(b)); return err }
	for _, c := range []struct {
		name   string
		decode func(string) error
		in     string
	}{
		{"no name length", info, "\x00\x00\x00"},
		{"name beyond the end", info, "\x00\x00\x00\x03ab"},
		{"name length that overflows", info, "\xff\xff\xff\xffab"},
		{"name that is not UTF-8", info, "\x00\x00\x00\x01\xff\x00\x00"},
		{"name with NUL", info, "\x00\x00\x00\x01\x00\x00\x00"},
		{"name too long", info, "\x00\x00\x10\x01" + strings.Repeat("a", 4097) + "\x00\x00"},
		{"no count of infos", info, "\x00\x00\x00\x00\x00"},
		{"infos beyond the end", info, "\x00\x00\x00\x00\x00\x02\x00\x00"},
		{"bytes after the infos", info, "\x00\x00\x00\x00\x00\x00\x00"},
		{"no count of queries", ctx, "\x00\x00\x00\x00"},
		{"queries that cannot fit", ctx, "\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"},
		{"query beyond the end", ctx, "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01"},
		{"bytes after the queries", ctx, "\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"info without type", repInfo, "\x00"},
		{"info export too short", repInfo, "\x00\x00\x00"},
		{"info block size too long", repInfo, "\x00\x03" + strings.Repeat("\x00", 13)},
		{"block status without extents", status, "\x00\x00\x00\x01"},
		{"block status with half an extent", status, "\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00"},
		{"block status with an empty extent", status, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"error too short", fail, "\x00\x00\x00\x05\x00"},
		{"error message beyond the end", fail, "\x00\x00\x00\x05\x00\x02a"},
		{"error zero", fail, "\x00\x00\x00\x00\x00\x00"},
		{"hole too short", hole, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"},
		{"empty hole", hole, strings.Repeat("\x00", 12)},
	} {
		if err := c.decode(c.in); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestNames(t *testing.T) {
	if got := OptionName(OptGo); got != "GO" {
		t.Error(got)
	}
	if got := OptionName(99); got != "option 99" {
		t.Error(got)
	}
	if got := ReplyName(RepErrTLSReqd); got != "TLS is required" {
		t.Error(got)
	}
	if got := ReplyName(RepError + 77); got != "reply 0x8000004d" {
		t.Error(got)
	}
}

// FuzzDecode gives every decoder the same bytes. None may panic, and what one
// accepts must encode to the same bytes again.
func FuzzDecode(f *testing.F) {
	f.Add(AppendGreeting(nil, 3))
	f.Add(AppendOption(nil, OptGo, nil))
	f.Add(AppendOptionReply(nil, OptGo, RepAck, ""))
	f.Add(AppendInfoRequest(nil, InfoRequest{Name: "vm", Infos: []uint16{3}}))
	f.Add(AppendContextRequest(nil, ContextRequest{Name: "vm", Queries: []string{"base:allocation", "q"}}))
	f.Add(AppendInfoExport(nil, OptGo, 1, 1)[OptionReplyHeaderSize:])
	f.Add(AppendInfoBlockSize(nil, OptGo, 1, 2, 3)[OptionReplyHeaderSize:])
	f.Add(AppendMetaContext(nil, OptSetMetaContext, 1, "base:allocation")[OptionReplyHeaderSize:])
	f.Add(AppendServer(nil, OptList, "vm")[OptionReplyHeaderSize:])
	f.Add(AppendRequest(nil, Request{Type: CmdWrite, Length: 1}))
	f.Add(AppendSimpleReply(nil, SimpleReply{5, 1}))
	f.Add(AppendOffsetData(nil, 1, 2, 3))
	f.Add(AppendError(nil, 1, 5, "oh")[ChunkHeaderSize:])
	f.Add(AppendDescriptor(AppendBlockStatus(nil, 1, 1, 1, 1), Descriptor{1, 1})[ChunkHeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		// Every decoder, and what it decoded encoded again.
		fuzztest.Bound(t, len(b), 0, 256, func() { decodeAll(t, b) })
	})
}

// decodeAll gives b to every decoder.
func decodeAll(t *testing.T, b []byte) {
	same := func(what string, again []byte) {
		if !bytes.Equal(again, b) {
			t.Errorf("%s: %x became %x", what, b, again)
		}
	}
	if flags, err := DecodeGreeting(b); err == nil {
		same("greeting", AppendGreeting(nil, flags))
	}
	if flags, err := DecodeClientFlags(b); err == nil {
		same("client flags", AppendClientFlags(nil, flags))
	}
	if o, err := DecodeOption(b); err == nil && o.Length == 0 {
		same("option", AppendOption(nil, o.Option, nil))
	}
	if r, err := DecodeOptionReply(b); err == nil && r.Length == 0 {
		same("option reply", AppendOptionReply(nil, r.Option, r.Type, ""))
	}
	if r, err := DecodeInfoRequest(b); err == nil {
		same("info request", AppendInfoRequest(nil, r))
	}
	if r, err := DecodeContextRequest(b); err == nil {
		same("context request", AppendContextRequest(nil, r))
	}
	if i, err := DecodeInfo(b); err == nil {
		switch i.Type {
		case InfoExport:
			same("info", AppendInfoExport(nil, 0, i.Size, i.Flags)[OptionReplyHeaderSize:])
		case InfoBlockSize:
			same("info", AppendInfoBlockSize(nil, 0, i.Minimum, i.Preferred, i.Maximum)[OptionReplyHeaderSize:])
		case InfoName, InfoDescription:
			same("info", AppendInfoText(nil, 0, i.Type, i.Text)[OptionReplyHeaderSize:])
		}
	}
	_, _ = DecodeServer(b) // may be followed by anything
	if id, name, err := DecodeMetaContext(b); err == nil {
		same("context", AppendMetaContext(nil, 0, id, name)[OptionReplyHeaderSize:])
	}
	if size, flags, err := DecodeExportNameReply(b); err == nil {
		same("export name", AppendExportNameReply(nil, size, flags, false))
	}
	if len(b) >= RequestSize {
		if r, ok := DecodeRequest(b); ok {
			b := b[:RequestSize]
			if again := AppendRequest(nil, r); !bytes.Equal(again, b) {
				t.Errorf("request: %x became %x", b, again)
			}
		}
	}
	if r, err := DecodeSimpleReply(b); err == nil {
		same("simple reply", AppendSimpleReply(nil, r))
	}
	if c, err := DecodeChunk(b); err == nil {
		same("chunk", AppendChunk(nil, c))
	}
	if errno, msg, err := DecodeError(b); err == nil && len(b) == errorSize+len(msg) {
		same("error", AppendError(nil, 0, errno, msg)[ChunkHeaderSize:])
	}
	if id, ds, err := DecodeBlockStatus(b); err == nil {
		again := AppendBlockStatus(nil, 0, 0, id, len(ds))
		for _, d := range ds {
			again = AppendDescriptor(again, d)
		}
		same("block status", again[ChunkHeaderSize:])
	}
	_, _, _ = DecodeHole(b)
}
