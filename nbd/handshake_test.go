package nbd_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

const fixed = wire.FlagFixedNewstyle | wire.FlagNoZeroes

// Transmission flags as a client should see them.
const (
	flagsRO = wire.ExportHasFlags | wire.ExportSendFlush | wire.ExportSendFUA | wire.ExportCanMultiConn |
		wire.ExportSendCache | wire.ExportReadOnly
	flagsRW = flagsRO&^wire.ExportReadOnly | wire.ExportSendTrim | wire.ExportSendWriteZeroes | wire.ExportSendFastZero
)

// infos decodes the information in the replies to GO or INFO, by type.
func infos(t *testing.T, replies []reply) map[uint16]wire.Info {
	t.Helper()
	m := make(map[uint16]wire.Info)
	for _, r := range replies[:len(replies)-1] {
		info, err := wire.DecodeInfo(r.data)
		if err != nil || r.kind != wire.RepInfo {
			t.Fatalf("%s: %v", wire.ReplyName(r.kind), err)
		}
		m[info.Type] = info
	}
	if last := replies[len(replies)-1]; last.kind != wire.RepAck {
		t.Fatalf("%s: %s", wire.ReplyName(last.kind), last.data)
	}
	return m
}

func TestInfoAndGo(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.dial(t, fixed)
	all := wire.AppendInfoRequest(nil, wire.InfoRequest{
		Name: "ro", Infos: []uint16{wire.InfoName, wire.InfoDescription, wire.InfoBlockSize, 999},
	})
	got := infos(t, r.option(wire.OptInfo, all))
	want := map[uint16]wire.Info{
		wire.InfoExport:      {Type: wire.InfoExport, Size: 64 << 20, Flags: flagsRO},
		wire.InfoBlockSize:   {Type: wire.InfoBlockSize, Minimum: 1, Preferred: 4096, Maximum: 32 << 20},
		wire.InfoName:        {Type: wire.InfoName, Text: "ro"},
		wire.InfoDescription: {Type: wire.InfoDescription},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("INFO ro:\n got %v\nwant %v", got, want)
	}
	if n := s.exports.Connections("ro"); n != 0 {
		t.Errorf("INFO opened the export %d times", n)
	}

	none := wire.AppendInfoRequest(nil, wire.InfoRequest{})
	if got := infos(t, r.option(wire.OptInfo, none))[wire.InfoExport].Flags; got != flagsRW {
		t.Errorf("flags %#x, want %#x", got, flagsRW)
	}
	r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
	got = infos(t, r.option(wire.OptGo, none))
	if got[wire.InfoExport].Flags != flagsRW|wire.ExportSendDF || got[wire.InfoExport].Size != 64<<20 {
		t.Errorf("GO: %+v", got)
	}
	r.alive()
	if n := s.exports.Connections(""); n != 1 {
		t.Errorf("%d connections after GO", n)
	}
	r.request(wire.Request{Type: wire.CmdDisc}, nil)
	r.wantEnd()
	eventually(t, "Closed is called", func() bool { return s.exports.Connections("") == 0 })
}

func TestUnknownExport(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.dial(t, fixed)
	data := wire.AppendInfoRequest(nil, wire.InfoRequest{Name: "nix"})
	for _, opt := range []uint32{wire.OptInfo, wire.OptGo} {
		r.wantReply(opt, data, wire.RepErrUnknown, `there is no export "nix"`)
	}
	r.wantReply(wire.OptListMetaContext, wire.AppendContextRequest(nil, wire.ContextRequest{Name: "nix"}),
		wire.RepErrUnknown, "nix")
	r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
}

// errExporter fails with an error of its own.
type errExporter struct {
	*nbdtest.Exports
	err error
}

func (e errExporter) Open(string) (*nbd.Export, error) { return nil, e.err }

func TestExporterErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		kind uint32
	}{
		{errors.New("it sleeps"), wire.RepErrUnknown},
		{fmt.Errorf("not for you: %w", nbd.EPERM), wire.RepErrPolicy},
		{fmt.Errorf("good night: %w", nbd.ESHUTDOWN), wire.RepErrShutdown},
	} {
		s := &server{socket: t.TempDir() + "/s"}
		serveAt(t, "unix", s.socket, errExporter{nbdtest.NewExports(), c.err}, nbd.Options{})
		r := s.dial(t, fixed)
		r.wantReply(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{}), c.kind, c.err.Error())
	}
}

func TestExportName(t *testing.T) {
	s := serve(t, nbd.Options{})
	for _, flags := range []uint32{0, wire.FlagFixedNewstyle, wire.FlagNoZeroes, fixed} {
		r := s.dial(t, flags)
		r.send(wire.AppendOption(nil, wire.OptExportName, []byte("ro")))
		size, tflags, err := wire.DecodeExportNameReply(r.recv(wire.ExportNameReplySize))
		if err != nil || size != 64<<20 || tflags != flagsRO {
			t.Errorf("client flags %d: size %d, flags %#x, %v", flags, size, tflags, err)
		}
		if flags&wire.FlagNoZeroes == 0 {
			if zeroes := r.recv(wire.ExportNameZeroes); !bytes.Equal(zeroes, make([]byte, wire.ExportNameZeroes)) {
				t.Errorf("zeroes: %x", zeroes)
			}
		}
		r.alive()
	}
	for _, name := range []string{"nix", "\xff", strings.Repeat("x", 4097), strings.Repeat("x", 65537)} {
		r := s.dial(t, fixed)
		_, _ = r.Write(wire.AppendOption(nil, wire.OptExportName, []byte(name)))
		r.wantEnd()
	}
}

func TestList(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.dial(t, fixed)
	r.wantReply(wire.OptList, []byte("x"), wire.RepErrInvalid, "no data")
	var names []string
	for _, rep := range r.option(wire.OptList, nil) {
		if rep.kind == wire.RepServer {
			name, err := wire.DecodeServer(rep.data)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
	}
	if want := []string{"", "ro"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

func TestRefusedOptions(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.dial(t, fixed)
	r.wantReply(wire.OptExtendedHeaders, nil, wire.RepErrUnsup, "EXTENDED_HEADERS")
	r.wantReply(wire.OptPeekExport, nil, wire.RepErrUnsup, "PEEK_EXPORT")
	r.wantReply(77, []byte("data"), wire.RepErrUnsup, "option 77")
	r.wantReply(wire.OptStartTLS, nil, wire.RepErrPolicy, "turned off")
	r.wantReply(wire.OptStructuredReply, []byte{1}, wire.RepErrInvalid, "no data")
	r.wantReply(wire.OptGo, []byte{0, 0}, wire.RepErrInvalid, "export name")
	long := wire.AppendInfoRequest(nil, wire.InfoRequest{Name: strings.Repeat("x", 4097)})
	r.wantReply(wire.OptGo, long, wire.RepErrInvalid, "more than 4096")
	r.wantReply(wire.OptInfo, make([]byte, 65537), wire.RepErrTooBig, "65537")
	r.wantReply(wire.OptSetMetaContext, wire.AppendContextRequest(nil, wire.ContextRequest{}),
		wire.RepErrInvalid, "structured")
	r.wantReply(wire.OptAbort, []byte("ignored"), wire.RepAck, "")
	r.wantEnd()
}

// contexts decodes the contexts in the replies.
func contexts(t *testing.T, replies []reply) (names []string, ids []uint32) {
	t.Helper()
	for _, r := range replies[:len(replies)-1] {
		id, name, err := wire.DecodeMetaContext(r.data)
		if err != nil || r.kind != wire.RepMetaContext {
			t.Fatalf("%s: %v", wire.ReplyName(r.kind), err)
		}
		names, ids = append(names, name), append(ids, id)
	}
	if last := replies[len(replies)-1]; last.kind != wire.RepAck {
		t.Fatalf("%s: %s", wire.ReplyName(last.kind), last.data)
	}
	return names, ids
}

func TestMetaContexts(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.dial(t, fixed)
	r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
	const alloc, dirty = "base:allocation", "glide:dirty"
	for _, c := range []struct {
		option  uint32
		queries []string
		want    []string
	}{
		{wire.OptListMetaContext, nil, []string{alloc, dirty}},
		{wire.OptListMetaContext, []string{"base:"}, []string{alloc}},
		{wire.OptListMetaContext, []string{"glide:"}, []string{dirty}},
		{wire.OptListMetaContext, []string{"glide:", "base:", dirty}, []string{alloc, dirty}},
		{wire.OptListMetaContext, []string{alloc}, []string{alloc}},
		{wire.OptListMetaContext, []string{"base:nix", "qemu:", "x-y:z"}, nil},
		{wire.OptSetMetaContext, nil, nil},
		{wire.OptSetMetaContext, []string{"base:", "glide:"}, nil},
		{wire.OptSetMetaContext, []string{"base:nix", "qemu:dirty-bitmap:x"}, nil},
		{wire.OptSetMetaContext, []string{dirty}, []string{dirty}},
		{wire.OptSetMetaContext, []string{dirty, alloc, alloc}, []string{alloc, dirty}},
	} {
		data := wire.AppendContextRequest(nil, wire.ContextRequest{Queries: c.queries})
		names, ids := contexts(t, r.option(c.option, data))
		if !slices.Equal(names, c.want) {
			t.Errorf("%s %q: got %q, want %q", wire.OptionName(c.option), c.queries, names, c.want)
		}
		for i, id := range ids {
			if want := uint32(i + 1); c.option == wire.OptSetMetaContext && id != want || c.option == wire.OptListMetaContext && id != 0 {
				t.Errorf("%s %q: number %d for %s", wire.OptionName(c.option), c.queries, id, names[i])
			}
		}
	}
	for _, opt := range []uint32{wire.OptListMetaContext, wire.OptSetMetaContext} {
		r.wantReply(opt, wire.AppendContextRequest(nil, wire.ContextRequest{Queries: []string{"nocolon"}}),
			wire.RepErrInvalid, "colon")
		r.wantReply(opt, []byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, wire.RepErrInvalid, "queries")
	}
}

// TestContextsOfAnotherExport checks that contexts count only for the export
// that they were selected for, and only if the last selection succeeded.
func TestContextsOfAnotherExport(t *testing.T) {
	s := serve(t, nbd.Options{})
	good := wire.AppendContextRequest(nil, wire.ContextRequest{Queries: []string{"base:allocation"}})
	for name, spoil := range map[string]func(r *raw) (export string){
		"another export": func(*raw) string { return "ro" },
		"failed selection": func(r *raw) string {
			r.wantReply(wire.OptSetMetaContext, []byte{1}, wire.RepErrInvalid, "")
			return ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.dial(t, fixed)
			r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
			contexts(t, r.option(wire.OptSetMetaContext, good))
			export := spoil(r)
			infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{Name: export})))
			r.request(wire.Request{Type: wire.CmdBlockStatus, Cookie: 1, Length: 4096}, nil)
			r.wantError(1, nbd.EINVAL, "no metadata context")
			r.alive()
		})
	}
}

func TestGarbageHandshake(t *testing.T) {
	s := serve(t, nbd.Options{})
	for name, b := range map[string][]byte{
		"wrong magic":   []byte("GET / HTTP/1.1\r\nHost: glide\r\n\r\n"),
		"huge option":   wire.AppendOption(nil, wire.OptGo, nil)[:12],
		"endless noise": bytes.Repeat([]byte{0xa5}, 1<<20),
	} {
		if name == "huge option" {
			b = append(b, 0xff, 0xff, 0xff, 0xff)
		}
		t.Run(name, func(t *testing.T) {
			r := s.dial(t, fixed)
			_, _ = r.Write(b)
			r.wantEnd()
		})
	}
	t.Run("unknown client flags", func(t *testing.T) {
		r := s.dial(t, 1<<7)
		r.wantEnd()
	})
	t.Run("too many options", func(t *testing.T) {
		r := s.dial(t, fixed)
		go func() {
			opt := bytes.Repeat(wire.AppendOption(nil, 77, nil), 128)
			for range 64 {
				if _, err := r.Write(opt); err != nil {
					return
				}
			}
		}()
		n := 0
		for buf := make([]byte, 64<<10); ; {
			k, err := r.Read(buf)
			if n += k; err != nil {
				break
			}
		}
		if want := 4096 * len(wire.AppendOptionReply(nil, 77, wire.RepErrUnsup, "option 77 is not supported")); n != want {
			t.Errorf("the server sent %d bytes, want %d", n, want)
		}
	})
}

// TestSlowHandshake checks that a client cannot hold a connection by saying
// nothing, or little at a time; but that what the server itself takes is not
// held against it.
func TestSlowHandshake(t *testing.T) {
	s := serve(t, nbd.Options{HandshakeTimeout: 600 * time.Millisecond})
	for name, talk := range map[string]func(r *raw){
		"silent": func(*raw) {},
		"drip": func(r *raw) {
			for _, c := range wire.AppendOption(nil, wire.OptList, nil)[:12] {
				_, _ = r.Write([]byte{c})
				time.Sleep(60 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := s.dial(t, fixed)
			start := time.Now()
			go talk(r)
			r.wantEnd()
			if d := time.Since(start); d < 500*time.Millisecond || d > patience/2 {
				t.Errorf("closed after %v", d)
			}
		})
	}
	t.Run("slow exporter", func(t *testing.T) {
		t.Parallel()
		s := &server{socket: t.TempDir() + "/s"}
		slow := slowExporter{nbdtest.NewExports(nbd.Export{Device: nbdtest.NewMemory(1 << 20)})}
		serveAt(t, "unix", s.socket, slow, nbd.Options{HandshakeTimeout: 600 * time.Millisecond})
		c := s.client(t, nbdclient.Options{})
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
}

// slowExporter takes longer to open than a handshake may take.
type slowExporter struct{ *nbdtest.Exports }

func (e slowExporter) Open(name string) (*nbd.Export, error) {
	time.Sleep(800 * time.Millisecond)
	return e.Exports.Open(name)
}

// TestVanishInHandshake checks the accounting when the client is gone by the
// time that its export was opened.
func TestVanishInHandshake(t *testing.T) {
	t.Parallel()
	s := &server{socket: t.TempDir() + "/s", exports: nbdtest.NewExports(nbd.Export{Device: nbdtest.NewMemory(1 << 20)})}
	serveAt(t, "unix", s.socket, slowExporter{s.exports}, nbd.Options{})
	r := s.dial(t, fixed)
	r.send(wire.AppendOption(nil, wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
	_ = r.Close()
	eventually(t, "the export is opened", func() bool { return s.exports.Opened("") == 1 })
	eventually(t, "Closed is called", func() bool { return s.exports.Connections("") == 0 })
}

// TestPipe checks that a connection that is not a socket works too.
func TestPipe(t *testing.T) {
	l := newPipes()
	s := &nbd.Server{Exporter: nbdtest.NewExports(nbd.Export{Device: nbdtest.NewMemory(64 << 20)})}
	done := make(chan error)
	go func() { done <- s.Serve(t.Context(), l) }()
	a, b := net.Pipe()
	l.conns <- b
	c, err := nbdclient.New(t.Context(), a, nbdclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := pattern(3<<20, 1)
	if err := c.Write(want, 12345, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := c.Read(got, 12345); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v, same %v", err, bytes.Equal(got, want))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// pipes is a listener of connections that are handed to it.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }
