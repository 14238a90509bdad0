package nbdclient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/paraglide/glide/nbd/internal/wire"
)

// maxPayload bounds what is received at once beside data, in bytes.
const maxPayload = 16 << 20

// Options say what to open, and how.
type Options struct {
	// Export is the name of the export, "" for the default.
	Export string
	// TLS, if set, makes encryption obligatory.
	TLS *tls.Config
	// Contexts are the metadata contexts to select. It is an error if the
	// server does not have one.
	Contexts []string
	// Simple leaves structured replies alone.
	Simple bool
}

// ErrRefused is wrapped by the error for an option that the server refused.
var ErrRefused = errors.New("refused by the server")

// negotiate does the handshake.
func (c *Client) negotiate(nc net.Conn, o Options) error {
	c.nc = nc
	b := make([]byte, wire.GreetingSize)
	if _, err := io.ReadFull(nc, b); err != nil {
		return err
	}
	flags, err := wire.DecodeGreeting(b)
	if err != nil {
		return err
	}
	if flags&wire.FlagFixedNewstyle == 0 {
		return errors.New("the server does not speak fixed newstyle")
	}
	if _, err := nc.Write(wire.AppendClientFlags(nil, uint32(flags)&(wire.FlagFixedNewstyle|wire.FlagNoZeroes))); err != nil {
		return err
	}
	if o.TLS != nil {
		if err := c.option(wire.OptStartTLS, nil, nil); err != nil {
			return err
		}
		t := tls.Client(nc, o.TLS)
		if err := t.Handshake(); err != nil {
			return err
		}
		c.nc = t
	}
	if !o.Simple {
		if err := c.option(wire.OptStructuredReply, nil, nil); err != nil {
			return err
		}
		c.structured = true
	}
	if len(o.Contexts) > 0 {
		data := wire.AppendContextRequest(nil, wire.ContextRequest{Name: o.Export, Queries: o.Contexts})
		err := c.option(wire.OptSetMetaContext, data, func(data []byte) error {
			id, name, err := wire.DecodeMetaContext(data)
			c.contexts[id] = name
			return err
		})
		if err != nil {
			return err
		}
		if len(c.contexts) != len(o.Contexts) {
			return fmt.Errorf("of the contexts %q the server has only %v", o.Contexts, c.contexts)
		}
	}
	known := false
	data := wire.AppendInfoRequest(nil, wire.InfoRequest{Name: o.Export, Infos: []uint16{wire.InfoBlockSize}})
	err = c.option(wire.OptGo, data, func(data []byte) error {
		info, err := wire.DecodeInfo(data)
		if err == nil && info.Type == wire.InfoExport {
			c.size, c.flags, known = info.Size, info.Flags, true
		}
		return err
	})
	if err == nil && !known {
		err = errors.New("the server did not tell the export's size")
	}
	return err
}

// option sends an option and gives each of its replies but the last to each.
func (c *Client) option(option uint32, data []byte, each func(data []byte) error) error {
	if _, err := c.nc.Write(wire.AppendOption(nil, option, data)); err != nil {
		return err
	}
	for {
		head := make([]byte, wire.OptionReplyHeaderSize)
		if _, err := io.ReadFull(c.nc, head); err != nil {
			return fmt.Errorf("%s: %w", wire.OptionName(option), err)
		}
		r, err := wire.DecodeOptionReply(head)
		if err != nil {
			return err
		}
		if r.Option != option || r.Length > maxPayload {
			return fmt.Errorf("reply of %d bytes to %s instead of %s", r.Length, wire.OptionName(r.Option), wire.OptionName(option))
		}
		data := make([]byte, r.Length)
		if _, err := io.ReadFull(c.nc, data); err != nil {
			return err
		}
		switch {
		case r.Type == wire.RepAck:
			return nil
		case r.Type&wire.RepError != 0:
			return fmt.Errorf("%s: %w: %s: %s", wire.OptionName(option), ErrRefused, wire.ReplyName(r.Type), data)
		case each == nil:
			return fmt.Errorf("unexpected reply %s to %s", wire.ReplyName(r.Type), wire.OptionName(option))
		}
		if err := each(data); err != nil {
			return err
		}
	}
}
