package nbd

import (
	"fmt"
	"strings"

	"github.com/paraglide/glide/nbd/internal/wire"
)

// maxRequest is the most data that one READ or WRITE may carry, in bytes.
const maxRequest = 32 << 20

// maxMessage is how much of an error's text is sent, in bytes. The protocol
// recommends not to send more.
const maxMessage = 256

// maxRefusal is the size of the largest reply without data.
var maxRefusal = wire.ErrorChunkSize(maxMessage)

// A request header is the headroom that a device may use.
var _ [Headroom]byte = [wire.RequestSize]byte{}

// command is what there is to know about a command before looking at a request.
type command struct {
	op     Op
	flags  uint16 // that it knows; FUA is legal everywhere and means nothing where nothing is written
	writes bool
	ranged bool  // has an offset and a length
	beyond Errno // for a range beyond the end of the device
}

var commands = [...]command{
	wire.CmdRead:        {OpRead, wire.CmdFlagFUA | wire.CmdFlagDF, false, true, EINVAL},
	wire.CmdWrite:       {OpWrite, wire.CmdFlagFUA, true, true, ENOSPC},
	wire.CmdDisc:        {}, // never gets here
	wire.CmdFlush:       {OpFlush, wire.CmdFlagFUA, false, false, 0},
	wire.CmdTrim:        {OpTrim, wire.CmdFlagFUA, true, true, EINVAL},
	wire.CmdCache:       {OpCache, wire.CmdFlagFUA, false, true, EINVAL},
	wire.CmdWriteZeroes: {OpZero, wire.CmdFlagFUA | wire.CmdFlagNoHole | wire.CmdFlagFastZero, true, true, ENOSPC},
	wire.CmdBlockStatus: {OpStatus, wire.CmdFlagFUA | wire.CmdFlagReqOne, false, true, EINVAL},
}

// check tells whether a request must be refused, and why.
func (c *conn) check(req wire.Request) (no refusal, bad bool) {
	refuse := func(errno Errno, format string, args ...any) (refusal, bool) {
		return refusal{req.Cookie, errno, fmt.Sprintf(format, args...)}, true
	}
	if int(req.Type) >= len(commands) {
		return refuse(EINVAL, "unknown command %d", req.Type)
	}
	cmd := &commands[req.Type]
	if unknown := req.Flags &^ cmd.flags; unknown != 0 {
		return refuse(EINVAL, "flags %#x do not belong to %v", unknown, cmd.op)
	}
	if cmd.writes && c.export.ReadOnly {
		return refuse(EPERM, "%q is read-only", c.export.Name)
	}
	if cmd.ranged {
		size, err := c.dev.size()
		if err != nil {
			return refusalOf(req.Cookie, cmd.op, err), true
		}
		if req.Offset > size || uint64(req.Length) > size-req.Offset {
			return refuse(cmd.beyond, "%v of %d bytes at %d is beyond the end at %d", cmd.op, req.Length, req.Offset, size)
		}
	}
	switch req.Type {
	case wire.CmdRead, wire.CmdWrite:
		switch {
		case req.Flags&wire.CmdFlagDF != 0 && !c.structured:
			return refuse(EINVAL, "DF without structured replies")
		case req.Length > maxRequest && req.Flags&wire.CmdFlagDF != 0:
			return refuse(EOVERFLOW, "%v of %d bytes, more than %d", cmd.op, req.Length, maxRequest)
		case req.Length > maxRequest:
			return refuse(EINVAL, "%v of %d bytes, more than %d", cmd.op, req.Length, maxRequest)
		}
	case wire.CmdBlockStatus:
		switch {
		case len(c.contexts) == 0:
			return refuse(EINVAL, "no metadata context was selected")
		case req.Length == 0:
			return refuse(EINVAL, "block status of an empty range")
		}
	}
	return refusal{}, false
}

// handle handles any request but WRITE and DISC.
func (c *conn) handle(req wire.Request) {
	c.writeBatch() // what follows a write sees it
	if no, bad := c.check(req); bad {
		c.refuse(no)
		return
	}
	if err := c.admit(req); err != nil {
		c.refuse(refusalOf(req.Cookie, commands[req.Type].op, err))
		return
	}
	p := pending{
		cookie: req.Cookie, op: commands[req.Type].op, fua: req.Flags&wire.CmdFlagFUA != 0,
		bytes: int(req.Length), start: c.now(),
	}
	switch {
	case req.Type == wire.CmdFlush:
		p.bytes = 0
		c.awaitFlush(p)
	case req.Type == wire.CmdRead:
		c.read(req, p)
	case req.Length == 0:
		c.accept(req.Cookie)
	case req.Type == wire.CmdBlockStatus:
		c.submit(job{req: req, owed: len(c.contexts) * maxStatusChunk, start: p.start})
	case req.Type == wire.CmdCache:
		c.answer(p, c.dev.prefetch(req.Offset, uint64(req.Length)))
	default: // TRIM, WRITE_ZEROES
		err := c.dev.zero(req.Offset, uint64(req.Length), req.Flags&wire.CmdFlagNoHole == 0)
		switch {
		case err != nil:
			c.answer(p, err)
		case p.fua:
			c.awaitFlush(p)
		default:
			c.written(p)
		}
	}
}

// read answers a READ at once if the device can, and otherwise leaves it to the
// readers. They get large ones in any case, for which copying takes longer than
// handing over.
func (c *conn) read(req wire.Request, p pending) {
	head, n := c.readHeader(), int(req.Length)
	if n == 0 {
		c.reserve(wire.ChunkHeaderSize)
		if c.structured {
			c.reply = wire.AppendChunk(c.reply, wire.Chunk{Flags: wire.ChunkFlagDone, Cookie: req.Cookie})
		} else {
			c.reply = wire.AppendSimpleReply(c.reply, wire.SimpleReply{Cookie: req.Cookie})
		}
		return
	}
	if head+n <= largeOutput {
		c.reserve(head + n)
		at := len(c.reply)
		if c.dev.tryReadAt(c.reply[at+head:at+head+n], req.Offset) {
			c.reply = c.appendReadHeader(c.reply, req)[:at+head+n]
			c.observe(p.op, p.bytes, p.start)
			return
		}
	}
	c.submit(job{req: req, owed: head + n, start: p.start})
}

// readHeader is the size of what precedes the data of a READ's reply.
func (c *conn) readHeader() int {
	if c.structured {
		return wire.OffsetDataSize
	}
	return wire.SimpleReplySize
}

func (c *conn) appendReadHeader(b []byte, req wire.Request) []byte {
	if c.structured {
		return wire.AppendOffsetData(b, req.Cookie, req.Offset, req.Length)
	}
	return wire.AppendSimpleReply(b, wire.SimpleReply{Cookie: req.Cookie})
}

// submit gives a job to the readers, if need be after a wait until less is owed.
func (c *conn) submit(j job) {
	if !c.out.tryPromise(1, j.owed) {
		c.send() // what the client waits for must not wait for it
		if c.lost = c.out.promise(1, j.owed); c.lost != nil {
			return
		}
	}
	c.srv.readers.submit(c, j)
}

// perform does a job, in one of the readers.
func (c *conn) perform(j job) {
	defer c.rescue()
	if c.out.failed() != nil {
		c.out.keep(1, j.owed)
		return
	}
	var buf *buffer
	var reply []byte
	var err error
	op := commands[j.req.Type].op
	if j.req.Type == wire.CmdRead {
		head, n := c.readHeader(), int(j.req.Length)
		buf = getBuffer(max(head+n, maxRefusal))
		err = c.dev.readAt(buf.b[head:head+n], j.req.Offset)
		reply = c.appendReadHeader(buf.b[:0], j.req)[:head+n]
	} else {
		buf, reply, err = c.blockStatus(j.req)
	}
	if err != nil {
		reply = c.appendRefusal(buf.b[:0], refusalOf(j.req.Cookie, op, err))
	}
	c.observe(op, int(j.req.Length), j.start)
	c.deliver(buf, len(reply), 1, j.owed)
}

// addWrite adds a WRITE to the batch. frame is its header and its data.
func (c *conn) addWrite(req wire.Request, frame []byte) {
	if req.Length == 0 {
		c.writeBatch()
		c.accept(req.Cookie)
		return
	}
	c.offs = append(c.offs, req.Offset)
	c.frames = append(c.frames, frame)
	c.writes = append(c.writes, pending{
		cookie: req.Cookie, op: OpWrite, fua: req.Flags&wire.CmdFlagFUA != 0, bytes: int(req.Length),
	})
	if len(c.offs) == maxBatch {
		c.writeBatch()
	}
}

// writeBatch gives the collected writes to the device, and answers those that
// need no flush.
func (c *conn) writeBatch() {
	if len(c.offs) == 0 {
		return
	}
	start := c.now()
	good := len(c.writes) // so many, from the first, were written
	err := c.dev.writeFrames(c.offs, c.frames)
	switch {
	case err == nil:
	case good == 1:
		good = 0
	default:
		// Some may have been written. Write again one by one, which is the same
		// as once, so that only those fail that did, and those behind.
		for good, err = 0, nil; good < len(c.writes); good++ {
			if err = c.dev.writeFrames(c.offs[good:good+1], c.frames[good:good+1]); err != nil {
				break
			}
		}
	}
	for i, p := range c.writes {
		p.start = start
		switch {
		case i >= good:
			c.answer(p, err)
		case p.fua:
			c.awaitFlush(p)
		default:
			c.written(p)
		}
	}
	clear(c.frames)
	c.offs, c.frames, c.writes = c.offs[:0], c.frames[:0], c.writes[:0]
}

// answer replies to a request that the device has dealt with.
func (c *conn) answer(p pending, err error) {
	c.observe(p.op, p.bytes, p.start)
	if err != nil {
		c.refuse(refusalOf(p.cookie, p.op, err))
		return
	}
	c.accept(p.cookie)
}

// accept replies that a request without data succeeded.
func (c *conn) accept(cookie uint64) {
	c.reserve(wire.SimpleReplySize)
	c.reply = wire.AppendSimpleReply(c.reply, wire.SimpleReply{Cookie: cookie})
}

// refuse replies with an error.
func (c *conn) refuse(no refusal) {
	c.reserve(maxRefusal)
	c.reply = c.appendRefusal(c.reply, no)
}

func (c *conn) appendRefusal(b []byte, no refusal) []byte {
	if c.structured {
		return wire.AppendError(b, no.cookie, uint32(no.errno), message(no.why))
	}
	return wire.AppendSimpleReply(b, wire.SimpleReply{Error: uint32(no.errno), Cookie: no.cookie})
}

// refusalOf makes the reply for a device's error.
func refusalOf(cookie uint64, op Op, err error) refusal {
	return refusal{cookie, errnoOf(err), fmt.Sprintf("%v: %v", op, err)}
}

// oneLine takes out of an error's text what does not belong into a message.
// Errors that were joined are lines.
var oneLine = strings.NewReplacer("\n", ": ", "\x00", "")

// message returns the part of an error's text that is sent.
func message(s string) string {
	s = oneLine.Replace(s)
	return strings.ToValidUTF8(s[:min(len(s), maxMessage)], "")
}

// admit waits until the device's limits let a request begin. What the connection asked
// for before it is done and answered first. An error is the request's.
func (c *conn) admit(req wire.Request) error {
	if c.dev.limits == nil || req.Type == wire.CmdFlush {
		return nil
	}
	bytes := 0
	if req.Type == wire.CmdRead || req.Type == wire.CmdWrite {
		bytes = int(req.Length)
	}
	if c.dev.tryAdmit(bytes) {
		return nil
	}
	c.settle()
	return c.dev.admit(bytes)
}

// settle deals with all that was collected, and sends the replies.
func (c *conn) settle() {
	c.writeBatch()
	c.settleAcks()
	c.settleFlushes()
	c.send()
}
