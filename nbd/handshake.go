package nbd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/paraglide/glide/nbd/internal/wire"
)

// Bounds on the handshake. A client that exceeds one of the latter two is
// disconnected.
const (
	maxOptionData = 64 << 10 // of an option that is looked at, in bytes
	maxOptionSkip = 1 << 20  // of one that is refused for its length
	maxOptions    = 4096
)

// Block sizes that clients are told, in bytes.
const (
	minimumBlock   = 1
	preferredBlock = 4096
)

// handshake is the option phase of a connection. It reads exactly what belongs
// to each message, so that nothing the client sends in plain text can be taken
// for something it said under TLS.
type handshake struct {
	*conn
	until       time.Time
	mine        Exporter // the client's own; nil: not asked for yet
	zeroes      bool     // the answer to EXPORT_NAME ends in zeroes
	contextName string   // the export that the contexts were selected for
	data        []byte   // of the current option, reused
	replies     []byte   // to it, reused
}

// handshake negotiates until the client chose an export or the connection is over.
func (c *conn) handshake() error {
	h := &handshake{conn: c}
	allowed := c.srv.opt.HandshakeTimeout
	if c.refuseWhy != "" {
		allowed = min(allowed, rejectTime)
	}
	h.setDeadline(time.Now().Add(allowed))
	if err := h.greet(); err != nil {
		return err
	}
	for range maxOptions {
		head, err := h.read(wire.OptionHeaderSize)
		if err != nil {
			return err
		}
		opt, err := wire.DecodeOption(head)
		if err != nil {
			return err
		}
		if err := h.option(opt); err != nil {
			return err
		}
		if err := h.flushReplies(); err != nil {
			return err
		}
		if c.export != nil {
			c.deadline.Store(0)
			c.readDeadline(time.Time{})
			return nil
		}
	}
	return fmt.Errorf("more than %d options", maxOptions)
}

// greet exchanges the first messages.
func (h *handshake) greet() error {
	h.replies = wire.AppendGreeting(h.replies, wire.FlagFixedNewstyle|wire.FlagNoZeroes)
	if err := h.flushReplies(); err != nil {
		return err
	}
	b, err := h.read(wire.ClientFlagsSize)
	if err != nil {
		return err
	}
	flags, err := wire.DecodeClientFlags(b)
	if err != nil {
		return err
	}
	if unknown := flags &^ (wire.FlagFixedNewstyle | wire.FlagNoZeroes); unknown != 0 {
		return fmt.Errorf("unknown client flags %#x", unknown)
	}
	h.zeroes = flags&wire.FlagNoZeroes == 0
	// Clients that do not claim to speak fixed newstyle may send EXPORT_NAME
	// only. Those that send more nevertheless understand the answers.
	return nil
}

// read returns the next n bytes from the client, valid until the next call.
func (h *handshake) read(n int) ([]byte, error) {
	if cap(h.data) < n {
		h.data = make([]byte, n)
	}
	b := h.data[:n]
	_, err := io.ReadFull(h.in, b)
	switch {
	case err == nil:
		return b, nil
	case h.srv.stopping.Load():
		return nil, errStopped
	case err == io.EOF:
		return nil, errVanished
	}
	return nil, err
}

// flushReplies sends the replies to an option, and waits until the socket has
// them: who does not read gets no more to read.
func (h *handshake) flushReplies() error {
	if len(h.replies) == 0 {
		return nil
	}
	var w io.Writer = h.out
	if h.tls != nil {
		w = h.tls
	}
	if _, err := w.Write(h.replies); err != nil {
		return err
	}
	h.replies = h.replies[:0]
	return h.out.settled()
}

// option handles one option. An error ends the connection.
func (h *handshake) option(opt wire.Option) error {
	if opt.Length > maxOptionData {
		if opt.Length > maxOptionSkip || opt.Option == wire.OptExportName {
			return fmt.Errorf("%s with %d bytes of data", wire.OptionName(opt.Option), opt.Length)
		}
		if _, err := io.CopyN(io.Discard, h.in, int64(opt.Length)); err != nil {
			return err
		}
		h.reply(opt, wire.RepErrTooBig, fmt.Sprintf("%d bytes of data, more than %d", opt.Length, maxOptionData))
		return nil
	}
	data, err := h.read(int(opt.Length))
	if err != nil {
		return err
	}
	if h.refuseWhy != "" && opt.Option != wire.OptAbort {
		if opt.Option == wire.OptExportName {
			return errors.New(h.refuseWhy)
		}
		h.reply(opt, wire.RepErrPolicy, h.refuseWhy)
		return nil
	}
	if h.srv.opt.TLS == TLSRequire && h.tls == nil {
		switch opt.Option {
		case wire.OptStartTLS, wire.OptAbort:
		case wire.OptExportName:
			return errors.New("EXPORT_NAME without TLS")
		default:
			h.reply(opt, wire.RepErrTLSReqd, "this server requires TLS")
			return nil
		}
	}
	switch opt.Option {
	case wire.OptExportName:
		return h.exportName(data)
	case wire.OptAbort:
		h.reply(opt, wire.RepAck, "")
		if err := h.flushReplies(); err != nil {
			return err
		}
		if h.tls != nil {
			_ = h.tls.Close()
		}
		return errDisconnect
	case wire.OptStartTLS:
		return h.startTLS(opt)
	case wire.OptInfo, wire.OptGo:
		h.info(opt, data)
	case wire.OptList:
		h.list(opt)
	case wire.OptStructuredReply:
		if h.empty(opt) {
			h.structured = true
			h.reply(opt, wire.RepAck, "")
		}
	case wire.OptListMetaContext, wire.OptSetMetaContext:
		h.metaContext(opt, data)
	default:
		h.reply(opt, wire.RepErrUnsup, wire.OptionName(opt.Option)+" is not supported")
	}
	return nil
}

// reply adds a reply; an error's data is its text.
func (h *handshake) reply(opt wire.Option, reply uint32, data string) {
	h.replies = wire.AppendOptionReply(h.replies, opt.Option, reply, message(data))
}

// empty refuses an option that has data and should not.
func (h *handshake) empty(opt wire.Option) bool {
	if opt.Length != 0 {
		h.reply(opt, wire.RepErrInvalid, wire.OptionName(opt.Option)+" has no data")
	}
	return opt.Length == 0
}

// startTLS turns the connection into a TLS connection.
func (h *handshake) startTLS(opt wire.Option) error {
	switch {
	case h.tls != nil:
		h.reply(opt, wire.RepErrInvalid, "TLS is in use already")
		return nil
	case !h.empty(opt):
		return nil
	case h.srv.opt.TLS == TLSOff:
		h.reply(opt, wire.RepErrPolicy, "TLS is turned off")
		return nil
	}
	h.reply(opt, wire.RepAck, "")
	if err := h.flushReplies(); err != nil {
		return err
	}
	// What was negotiated in plain text may have been forged.
	h.structured, h.contexts, h.contextName = false, nil, ""
	h.tls = tls.Server(h.out, h.srv.opt.TLSConfig)
	h.in, h.mine = h.tls, nil
	if err := h.tls.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	return nil
}

// list answers with the names of all exports.
func (h *handshake) list(opt wire.Option) {
	if !h.empty(opt) {
		return
	}
	names, err := protect(h.srv, func() ([]string, error) {
		e, err := h.exporter()
		if err != nil {
			return nil, err
		}
		return e.List(), nil
	})
	if err != nil {
		h.reply(opt, reasonOf(err), err.Error())
		return
	}
	for _, name := range names {
		if wire.CheckName([]byte(name)) == nil {
			h.replies = wire.AppendServer(h.replies, opt.Option, name)
		}
	}
	h.reply(opt, wire.RepAck, "")
}

// info answers INFO, and GO, after which the handshake is over.
func (h *handshake) info(opt wire.Option, data []byte) {
	req, err := wire.DecodeInfoRequest(data)
	if err != nil {
		h.reply(opt, wire.RepErrInvalid, err.Error())
		return
	}
	var export *Export
	if opt.Option == wire.OptGo {
		export, err = h.open(req.Name)
	} else {
		export, err = h.describe(req.Name)
	}
	size := uint64(0)
	if err == nil {
		size, err = newGuard(export.Device, h.srv).size()
	}
	if err != nil {
		h.reply(opt, reasonOf(err), err.Error())
		return
	}
	h.replies = wire.AppendInfoExport(h.replies, opt.Option, size, h.exportFlags(export))
	h.replies = wire.AppendInfoBlockSize(h.replies, opt.Option, minimumBlock, preferredBlock, maxRequest)
	for _, info := range req.Infos {
		switch info {
		case wire.InfoName:
			h.replies = wire.AppendInfoText(h.replies, opt.Option, info, export.Name)
		case wire.InfoDescription:
			h.replies = wire.AppendInfoText(h.replies, opt.Option, info, message(export.Description))
		}
	}
	h.reply(opt, wire.RepAck, "")
}

// exportName answers EXPORT_NAME, which cannot be refused but by disconnecting.
func (h *handshake) exportName(name []byte) error {
	if err := wire.CheckName(name); err != nil {
		return err
	}
	export, err := h.open(string(name))
	if err != nil {
		return err
	}
	size, err := h.dev.size()
	if err != nil {
		return err
	}
	h.replies = wire.AppendExportNameReply(h.replies, size, h.exportFlags(export), h.zeroes)
	return nil
}

// exporter returns what the client may ask for.
func (h *handshake) exporter() (Exporter, error) {
	if h.mine != nil {
		return h.mine, nil
	}
	per, ok := h.exp.(PerPeer)
	if !ok {
		h.mine = h.exp
		return h.mine, nil
	}
	p := Peer{Conn: h.out.Conn, End: h.abort}
	if h.tls != nil {
		st := h.tls.ConnectionState()
		p.TLS = &st
	}
	var err error
	h.mine, err = per.For(p)
	return h.mine, err
}

// open opens the export for this connection.
func (h *handshake) open(name string) (*Export, error) {
	defer h.extend(time.Now())
	h.deadline.Store(0)
	export, err := protect(h.srv, func() (*Export, error) {
		e, err := h.exporter()
		if err != nil {
			return nil, err
		}
		return e.Open(name)
	})
	if err != nil {
		return nil, err
	}
	if h.contextName != name {
		h.contexts = nil // they were another export's
	}
	h.export, h.dev = export, newGuard(export.Device, h.srv)
	return export, nil
}

func (h *handshake) describe(name string) (*Export, error) {
	defer h.extend(time.Now())
	h.deadline.Store(0)
	return protect(h.srv, func() (*Export, error) {
		e, err := h.exporter()
		if err != nil {
			return nil, err
		}
		return e.Describe(name)
	})
}

// extend gives the client back the time that we have taken.
func (h *handshake) extend(since time.Time) {
	h.setDeadline(h.until.Add(time.Since(since)))
}

// setDeadline says when the handshake has to be over, for what is read and what
// is written.
func (h *handshake) setDeadline(t time.Time) {
	h.until = t
	h.deadline.Store(t.UnixNano())
	h.readDeadline(t)
}

// exportFlags returns what the client may do with the export.
func (h *handshake) exportFlags(export *Export) uint16 {
	flags := wire.ExportHasFlags | wire.ExportSendFlush | wire.ExportSendFUA |
		wire.ExportCanMultiConn | wire.ExportSendCache
	if h.structured {
		flags |= wire.ExportSendDF
	}
	if export.ReadOnly {
		return flags | wire.ExportReadOnly
	}
	return flags | wire.ExportSendTrim | wire.ExportSendWriteZeroes | wire.ExportSendFastZero
}

// metaContext answers SET_META_CONTEXT and LIST_META_CONTEXT.
func (h *handshake) metaContext(opt wire.Option, data []byte) {
	set := opt.Option == wire.OptSetMetaContext
	if set {
		h.contexts, h.contextName = nil, "" // even if it fails
		if !h.structured {
			h.reply(opt, wire.RepErrInvalid, "structured replies were not negotiated")
			return
		}
	}
	req, err := wire.DecodeContextRequest(data)
	if err != nil {
		h.reply(opt, wire.RepErrInvalid, err.Error())
		return
	}
	for _, query := range req.Queries {
		if !strings.Contains(query, ":") {
			h.reply(opt, wire.RepErrInvalid, fmt.Sprintf("query %q has no colon", query))
			return
		}
	}
	export, err := h.describe(req.Name)
	if err != nil {
		h.reply(opt, reasonOf(err), err.Error())
		return
	}
	for _, context := range append([]string{baseAllocation}, export.Contexts...) {
		if !wanted(context, req.Queries, set) {
			continue
		}
		id := 0
		if set {
			h.contexts, h.contextName = append(h.contexts, context), req.Name
			id = len(h.contexts)
		}
		h.replies = wire.AppendMetaContext(h.replies, opt.Option, uint32(id), context)
	}
	h.reply(opt, wire.RepAck, "")
}

// wanted tells whether one of the queries is for the context. A listing may ask
// for a whole namespace ("base:"), or, without queries, for everything.
func wanted(context string, queries []string, set bool) bool {
	if len(queries) == 0 {
		return !set
	}
	namespace := context[:strings.Index(context, ":")+1]
	for _, q := range queries {
		if q == context || !set && q == namespace {
			return true
		}
	}
	return false
}

// reasonOf returns the reply type for an Exporter's error.
func reasonOf(err error) uint32 {
	switch errnoOf(err) {
	case EPERM:
		return wire.RepErrPolicy
	case ESHUTDOWN:
		return wire.RepErrShutdown
	}
	return wire.RepErrUnknown
}
