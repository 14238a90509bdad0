package commitlog

import (
	"encoding/json"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/commitlog/internal/frame"
	"github.com/paraglide/glide/internal/commitlog/internal/id"
	"github.com/paraglide/glide/internal/commitlog/internal/section"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/seal"
)

// Bounds of an object. They are enforced on every write, so that every written object can
// be read, and on every read, before memory is allocated.
const (
	MaxData  = frame.MaxData // bytes, encoded as well as decoded
	maxAhead = 1024          // commits in flight at once
)

// The versions of objects that are not sealed.
const (
	versionDomains = 4 // of an object that names a pack of a domain other than 0
	versionBlocks  = 3 // of any other data commit that names blocks
	versionAhead   = 2 // of a seal ahead
	versionOne     = 1 // of every other object
)

// Kind is what an object does in a log.
type Kind uint8

// The kinds.
const (
	First  Kind = 1 // opens its epoch and names its owner; always number 1
	Commit Kind = 2 // a state that the owner published
	Seal   Kind = 3 // closes its epoch
	Stub   Kind = 4 // replaces a first object or a seal that was collected
)

// String is the kind's name.
func (k Kind) String() string {
	switch k {
	case First:
		return "first"
	case Commit:
		return "commit"
	case Seal:
		return "seal"
	case Stub:
		return "stub"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Mark is unique to an object: a host uses it to recognize its own object even if
// another has the same key and content. Sixteen random bytes.
type Mark = id.Mark

// Object is one object of a commit log.
type Object struct {
	Generation Generation
	Kind       Kind
	// Released marks the owner's own seal after its last flush: another host
	// may wake the volume without asking.
	Released bool
	// Tombstone marks the first object that removed the volume, and objects that
	// follow it in its epoch.
	Tombstone bool
	Mark      Mark
	// Ahead is how many objects before this one its sender had not yet seen take
	// effect. If one of them is a seal, this object is not part of the log. Zero
	// without pipelining. A seal with Ahead > 0 is a seal ahead.
	Ahead uint32
	// State is the volume's state; only its Identity in tombstones, stubs and
	// seals ahead.
	State State
	// Data is the data section of a data commit, as EncodeData made it; empty in others.
	Data []byte
	// Domain is the domain in which the object is sealed; 0: it is plain.
	Domain uint32
	log    Volume // that it was read from or is sent to; zero: its volume's
	// Hash and Size are of the object's bytes, set in decoded and sent objects.
	Hash ObjectHash
	Size int
}

// Carry is the state with which a successor of the object begins, be it a seal or a
// fork: State, with the object's own data, if any, added to the data commits.
func (o *Object) Carry() State {
	s := o.State.Clone()
	if len(o.Data) == 0 {
		return s
	}
	log, g, size := o.Log().Name, o.Generation, o.decodedSize()
	if n := len(s.DataCommits); n > 0 && s.DataCommits[n-1].Name == log && s.DataCommits[n-1].Epoch == g.Epoch {
		run := &s.DataCommits[n-1]
		run.Last, run.Hash, run.Count, run.Bytes = g.Number, o.Hash, run.Count+1, run.Bytes+size
		return s
	}
	s.DataCommits = append(s.DataCommits, DataRun{Name: log, Epoch: g.Epoch, First: g.Number, Last: g.Number, Hash: o.Hash, Count: 1, Bytes: size})
	return s
}

// Closes tells whether the object ends its epoch.
func (o *Object) Closes() bool {
	return o.Kind == Seal || o.Kind == Stub && o.Generation.Number > 1
}

// SealAhead tells whether the object is a seal placed beyond the tip (rule 13). It
// cannot carry the state of objects that did not exist yet.
func (o *Object) SealAhead() bool { return o.Kind == Seal && o.Ahead > 0 }

// Bare tells whether the object carries only the identity of its volume.
func (o *Object) Bare() bool { return o.Tombstone || o.Kind == Stub || o.SealAhead() }

// closing returns the seal ahead with the state of the object before it, which is the
// end of the log.
func (o *Object) closing(last *Object) *Object {
	seal := *o
	seal.Ahead, seal.Tombstone = 0, last.Tombstone
	if last.Bare() {
		seal.State = State{Identity: last.State.Identity}
	} else {
		seal.State = last.Carry()
	}
	seal.State.Cause, seal.State.SealedBy, seal.State.Time = o.State.Cause, o.State.SealedBy, o.State.Time
	seal.State.After, seal.State.Prev = Generation{}, o.State.Prev
	return &seal
}

// Stub is the object with which a collector may replace a first object or a seal past
// retention: it fences as that object did, and is not a root.
func (o *Object) Stub() *Object {
	return &Object{
		Generation: o.Generation, Kind: Stub, Released: o.Released, Tombstone: o.Tombstone, Mark: o.Mark, Domain: o.Domain, log: o.log,
		State: State{Identity: o.State.Identity},
	}
}

// Encode is EncodeFor without a domain: it returns the bytes of a plain object.
func (o *Object) Encode() ([]byte, error) { return o.EncodeFor(nil) }

// EncodeFor returns the object's bytes, sealed in a domain and for its place in the store
// if d is not nil. An object that DecodeFor would refuse is errs.Invalid; so is one that
// names keys, if it is not to be sealed (sealed-home).
func (o *Object) EncodeFor(d *seal.Domain) ([]byte, error) {
	if d != nil && o.Domain == 0 {
		c := *o
		c.Domain, o = d.ID(), &c
	}
	wrong := o.check()
	if d == nil && o.Domain != 0 || d != nil && d.ID() != o.Domain {
		wrong = fmt.Sprintf("it is to be sealed in domain %08x", o.Domain)
	}
	if wrong != "" {
		return nil, errs.New(errs.Invalid, "commit %s of %s cannot be written: %s", o.Generation, o.State.Volume(), wrong)
	}
	var state any = &o.State
	if o.Bare() {
		state = &o.State.Identity
	}
	text, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", o.Generation, o.State.Volume(), err)
	}
	if len(text) > frame.MaxState {
		return nil, errs.New(errs.Invalid, "commit %s of %s cannot be written: its state has %d bytes, at most %d are possible",
			o.Generation, o.State.Volume(), len(text), frame.MaxState)
	}
	h, key := o.header(), o.Log().Key(o.Generation)
	var raw []byte
	if d == nil {
		raw = h.Encode(text, o.Data)
	} else {
		raw = h.EncodeSealed(d, key, text, o.Data)
	}
	if invariants.Enabled {
		back, err := DecodeFor(raw, key, d)
		invariants.Check(err == nil, "an object was made at %s that cannot be read: %v", o.Generation, err)
		invariants.Check(back.Generation == o.Generation && back.Mark == o.Mark && back.Kind == o.Kind && back.State.Seq == o.State.Seq && back.State.DataSeq == o.State.DataSeq || o.Bare(),
			"the object at %s is read as that at %s", o.Generation, back.Generation)
	}
	return raw, nil
}

func (o *Object) header() *frame.Header {
	return &frame.Header{
		Version: o.version(), Kind: uint8(o.Kind), Released: o.Released, Tombstone: o.Tombstone,
		Epoch: o.Generation.Epoch, Number: o.Generation.Number, Mark: o.Mark, Ahead: o.Ahead, Domain: o.State.Isolated,
	}
}

func (o *Object) version() uint16 {
	switch {
	case o.State.Isolated != 0:
		return frame.Isolated
	case o.Domain != 0:
		return frame.Sealed
	case o.SealAhead():
		return versionAhead
	case section.HasDomains(o.Data) || !o.Bare() && o.State.domains():
		return versionDomains
	case section.Blocks(o.Data) > 0:
		return versionBlocks
	}
	return versionOne
}

// Decode is DecodeFor without keys: it reads plain objects.
func Decode(raw []byte) (*Object, error) { return DecodeFor(raw, "", nil) }

// DecodeFor reads the object that has this key in the store: a sealed one, of the domain,
// or a plain one if d is nil. A newer version is errs.Unsupported. A sealed object that
// cannot be opened is seal.ErrTag (corrupt), seal.ErrNoRoot or, without d, seal.ErrLocked
// (both unavailable). Anything else that EncodeFor does not write is errs.Corrupt: with d,
// every plain object.
func DecodeFor(raw []byte, key string, d *seal.Domain) (*Object, error) {
	f, err := frame.Decode(raw)
	if err != nil {
		return nil, err
	}
	if err := f.Open(d, key); err != nil {
		return nil, err
	}
	o := objectOf(f, raw)
	if d != nil {
		o.Domain = d.ID()
	}
	o.Data = f.Data
	if o.State, err = decodeState(f.State, o.Bare()); err != nil {
		return nil, errs.New(errs.Corrupt, "commit with a bad state: %w", err)
	}
	if f.Version != o.version() { // it is isolated if, and only if, its header says so
		return nil, errs.New(errs.Corrupt, "%s of version %d", o.Kind, f.Version)
	}
	if wrong := o.check(); wrong != "" {
		return nil, errs.New(errs.Corrupt, "bad commit: %s", wrong)
	}
	return o, nil
}

// DecodeHeader reads what every object says in clear, without Data, and of State only
// Isolated: place, kind and mark are enough for fencing and listing. Of a sealed object nothing proves
// that its owner wrote it.
func DecodeHeader(raw []byte) (*Object, error) {
	f, err := frame.Decode(raw)
	if err != nil {
		return nil, err
	}
	o := objectOf(f, raw)
	if wrong := o.checkHeader(); wrong != "" {
		return nil, errs.New(errs.Corrupt, "bad commit: %s", wrong)
	}
	return o, nil
}

// OldestRoot returns the smallest number of a root with which an object says that it is
// sealed; 0: it is plain, or not sealed in this domain: 0 is the tenant's own, others are
// those of isolated volumes. It needs no keys.
func OldestRoot(raw []byte, isolated uint32) (uint32, error) {
	f, err := frame.Decode(raw)
	if err != nil || f.Domain != isolated {
		return 0, err
	}
	return f.OldestRoot(), nil
}

// objectOf is the object without its sections.
func objectOf(f *frame.Frame, raw []byte) *Object {
	return &Object{
		Generation: Generation{Epoch: f.Epoch, Number: f.Number}, Kind: Kind(f.Kind),
		Released: f.Released, Tombstone: f.Tombstone, Mark: f.Mark, Ahead: f.Ahead,
		State: State{Identity: Identity{Isolated: f.Domain}}, Hash: blake3.Sum256(raw), Size: len(raw),
	}
}

// full tells whether a successor has no room to name the object's data.
func (o *Object) full() bool {
	count, _ := o.State.Unfolded()
	return len(o.Data) > 0 && (count >= maxDataCommits || len(o.State.DataCommits) >= maxDataCommits)
}

// checkHeader describes what is wrong with the object's header, "" if nothing is.
func (o *Object) checkHeader() string {
	switch {
	case !o.Generation.Valid():
		return fmt.Sprintf("its generation is %s", o.Generation)
	case o.Kind < First || o.Kind > Stub:
		return fmt.Sprintf("it is of %s", o.Kind)
	case (o.Kind == First) != (o.Generation.Number == 1) && o.Kind != Stub:
		return fmt.Sprintf("a %s at %s", o.Kind, o.Generation)
	case o.Released && !o.Closes():
		return fmt.Sprintf("a %s that releases", o.Kind)
	case o.Tombstone && o.Kind == Commit:
		return "a commit that removes"
	case uint64(o.Ahead) > min(maxAhead, o.Generation.Number-1):
		return fmt.Sprintf("it is %d objects ahead", o.Ahead)
	}
	return ""
}

// check describes what is wrong with the object, "" if nothing is.
func (o *Object) check() string {
	if wrong := o.checkHeader(); wrong != "" {
		return wrong
	}
	switch {
	case !o.State.After.IsZero() && (o.Generation.Number > 1 || o.State.After.Epoch != o.Generation.Epoch-1):
		return fmt.Sprintf("it comes after %s", o.State.After)
	case len(o.Data) > MaxData || len(o.Data) > 0 && o.Kind != Commit:
		return fmt.Sprintf("a %s with %d bytes of data", o.Kind, len(o.Data))
	case o.full():
		return fmt.Sprintf("data after %d runs of data commits that are not folded", len(o.State.DataCommits))
	case o.Domain == 0 && o.State.names():
		return "it names keys, and is not sealed"
	case o.State.Isolated != 0 && o.State.Isolated != o.Domain:
		return fmt.Sprintf("it is to be isolated in domain %08x", o.State.Isolated)
	case o.Bare():
		return o.State.Identity.check()
	case o.Domain != 0 && !o.State.allNamed():
		return fmt.Sprintf("it has a root in a domain that is none of %x", o.State.Domains)
	}
	return o.State.check()
}
