package nbdclient

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paraglide/glide/internal/programs"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNbdkit uses the client with another implementation's server.
func TestNbdkit(t *testing.T) {
	socket := t.TempDir() + "/s"
	cmd := exec.Command(programs.Need(t, "nbdkit"), "-f", "-U", socket, "memory", "64M")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for _, simple := range []bool{false, true} {
		o := Options{Simple: simple}
		if !simple {
			o.Contexts = []string{"base:allocation"}
		}
		var c *Client
		var err error
		for range 200 {
			if c, err = Dial(t.Context(), "unix", socket, o); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.Size() != 64<<20 || c.ReadOnly() || c.TransmissionFlags()&wire.ExportSendFUA == 0 {
			t.Errorf("size %d, flags %#x", c.Size(), c.TransmissionFlags())
		}
		want, got := bytes.Repeat([]byte("glide"), 50_000), make([]byte, 250_000)
		err = errors.Join(
			c.Write(want, 1000, FUA), c.Flush(), c.Read(got, 1000), c.Zero(40<<20, 1<<20, NoHole),
			c.Trim(0, 4096, 0), c.Cache(0, 1), c.Read(make([]byte, 10), 64<<20-10),
		)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v; same %v", err, bytes.Equal(got, want))
		}
		if !simple {
			ext, err := c.BlockStatus(8<<20, 1<<20, ReqOne)
			if err != nil || len(ext["base:allocation"]) != 1 || ext["base:allocation"][0] != (nbd.Extent{Length: 1 << 20, Flags: 3}) {
				t.Errorf("block status: %v, %v", ext, err)
			}
		}
		var remote *Error
		if err := c.Read(got, 64<<20); !errors.As(err, &remote) || remote.Errno != nbd.EINVAL || !errors.Is(err, nbd.EINVAL) {
			t.Errorf("read beyond the end: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Flush(); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	}
}

// fake is a server that answers the handshake and then says what it is told,
// once the first request is there.
func fake(t *testing.T, answer []byte) *Client {
	t.Helper()
	a, b := net.Pipe()
	go func() {
		defer func() { _ = b.Close() }()
		_, _ = b.Write(wire.AppendGreeting(nil, 3))
		buf := make([]byte, 4096)
		_, _ = b.Read(buf) // client flags
		_, _ = b.Read(buf) // STRUCTURED_REPLY
		_, _ = b.Write(wire.AppendOptionReply(nil, wire.OptStructuredReply, wire.RepAck, ""))
		_, _ = b.Read(buf) // GO
		out := wire.AppendInfoExport(nil, wire.OptGo, 1<<20, 1)
		_, _ = b.Write(wire.AppendOptionReply(out, wire.OptGo, wire.RepAck, ""))
		if _, err := b.Read(buf); err == nil {
			_, _ = b.Write(answer)
		}
	}()
	c, err := New(t.Context(), a, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestBadServer checks that an answer which breaks the protocol is an error, and
// never data.
func TestBadServer(t *testing.T) {
	chunk := func(typ, flags uint16, cookie uint64, payload ...byte) []byte {
		return append(wire.AppendChunk(nil, wire.Chunk{Flags: flags, Type: typ, Cookie: cookie, Length: uint32(len(payload))}), payload...)
	}
	data := func(off byte, n int) []byte { return append([]byte{0, 0, 0, 0, 0, 0, 0, off}, make([]byte, n)...) }
	hole := func(off, n byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, off, 0, 0, 0, n} }
	for _, c := range []struct {
		name   string
		answer []byte
		text   string
	}{
		{"nothing", nil, "EOF"},
		{"noise", bytes.Repeat([]byte{0xa5}, 64), "magic"},
		{"simple reply", wire.AppendSimpleReply(nil, wire.SimpleReply{Cookie: 1}), "simple reply to a read"},
		{"unknown cookie", chunk(wire.ChunkNone, wire.ChunkFlagDone, 2), "unknown cookie"},
		{"no data", chunk(wire.ChunkNone, wire.ChunkFlagDone, 1), "answered with 0"},
		{"too little data", chunk(wire.ChunkOffsetData, wire.ChunkFlagDone, 1, data(0, 15)...), "answered with 15"},
		{"too much data", chunk(wire.ChunkOffsetData, wire.ChunkFlagDone, 1, data(0, 17)...), "17 bytes of data"},
		{"data elsewhere", chunk(wire.ChunkOffsetData, wire.ChunkFlagDone, 1, data(1, 16)...), "data at 1"},
		{"hole elsewhere", chunk(wire.ChunkOffsetHole, wire.ChunkFlagDone, 1, hole(1, 16)...), "hole of 16"},
		{"none that goes on", chunk(wire.ChunkNone, 0, 1), "chunk of type 0"},
		{"block status", chunk(wire.ChunkBlockStatus, wire.ChunkFlagDone, 1, make([]byte, 12)...), "chunk of type 5"},
		{"unknown type", chunk(77, wire.ChunkFlagDone, 1), "chunk of type 77"},
		{"huge chunk", wire.AppendChunk(nil, wire.Chunk{Type: wire.ChunkError, Cookie: 1, Length: 1 << 31}), "chunk of type"},
		{"error without error", chunk(wire.ChunkError, wire.ChunkFlagDone, 1, make([]byte, 6)...), "without an error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := fake(t, c.answer).Read(make([]byte, 16), 0)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
	t.Run("good", func(t *testing.T) {
		answer := append(chunk(wire.ChunkOffsetHole, 0, 1, hole(8, 8)...), chunk(wire.ChunkOffsetData, 0, 1, data(0, 8)...)...)
		answer = append(answer, chunk(wire.ChunkNone, wire.ChunkFlagDone, 1)...)
		if err := fake(t, answer).Read(bytes.Repeat([]byte{1}, 16), 0); err != nil {
			t.Error(err)
		}
	})
}

func TestBadHandshake(t *testing.T) {
	greeting := wire.AppendGreeting(nil, 3)
	for name, answer := range map[string][]byte{
		"nothing":       nil,
		"not NBD":       []byte("SSH-2.0-OpenSSH_9.2p1 Debian"),
		"old newstyle":  wire.AppendGreeting(nil, 0),
		"refusal":       wire.AppendOptionReply(bytes.Clone(greeting), wire.OptStructuredReply, wire.RepErrPolicy, "no"),
		"wrong option":  wire.AppendOptionReply(bytes.Clone(greeting), wire.OptList, wire.RepAck, ""),
		"odd reply":     wire.AppendServer(bytes.Clone(greeting), wire.OptStructuredReply, "x"),
		"no size":       wire.AppendOptionReply(wire.AppendOptionReply(bytes.Clone(greeting), wire.OptStructuredReply, wire.RepAck, ""), wire.OptGo, wire.RepAck, ""),
		"ends too soon": append(bytes.Clone(greeting), 1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				_, _ = b.Write(answer)
				_, _ = b.Read(make([]byte, 4096))
				_, _ = b.Read(make([]byte, 4096))
				_, _ = b.Read(make([]byte, 4096))
				_ = b.Close()
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if c, err := New(ctx, a, Options{}); err == nil {
				_ = c.Close()
				t.Error("the client is content")
			}
		})
	}
}
