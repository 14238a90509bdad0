package commitlog

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/invariants"
)

// Bounds on the sections of an object. They are enforced on every write, so that
// every written object can be read, and on every read, before memory is allocated.
const (
	maxState = 1 << 20  // bytes of JSON
	MaxData  = 32 << 20 // bytes, encoded as well as decoded
	maxAhead = 1024     // commits in flight at once
)

const (
	magic         = "GLDC"
	version       = 4 // of an object that names a pack of a domain other than 0
	versionBlocks = 3 // of any other data commit that names blocks
	versionAhead  = 2 // of a seal ahead
	versionOne    = 1 // of every other object
	headerSize    = 56
	crcAt         = headerSize - 4

	flagReleased  = 1 << 0
	flagTombstone = 1 << 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

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
type Mark [16]byte

// String is the mark in hexadecimal.
func (m Mark) String() string { return hex.EncodeToString(m[:]) }

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
	// Hash is the hash of the object's bytes, set in decoded and sent objects.
	Hash ObjectHash
}

// Carry is the state with which a successor of the object begins, be it a seal or a
// fork: State, with the object's own data, if any, added to the data commits.
func (o *Object) Carry() State {
	s := o.State.Clone()
	if len(o.Data) == 0 {
		return s
	}
	g, size := o.Generation, o.decodedSize()
	if n := len(s.DataCommits); n > 0 && s.DataCommits[n-1].Name == s.Name && s.DataCommits[n-1].Epoch == g.Epoch {
		run := &s.DataCommits[n-1]
		run.Last, run.Hash, run.Count, run.Bytes = g.Number, o.Hash, run.Count+1, run.Bytes+size
		return s
	}
	s.DataCommits = append(s.DataCommits, DataRun{Name: s.Name, Epoch: g.Epoch, First: g.Number, Last: g.Number, Hash: o.Hash, Count: 1, Bytes: size})
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
	seal.State.After = Generation{}
	return &seal
}

// Stub is the object with which a collector may replace a first object or a seal past
// retention: it fences as that object did, and is not a root.
func (o *Object) Stub() *Object {
	return &Object{
		Generation: o.Generation, Kind: Stub, Released: o.Released, Tombstone: o.Tombstone, Mark: o.Mark,
		State: State{Identity: o.State.Identity},
	}
}

// Encode returns the object's bytes. An object that Decode would refuse is errs.Invalid.
func (o *Object) Encode() ([]byte, error) {
	if wrong := o.check(); wrong != "" {
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
	if len(text) > maxState {
		return nil, errs.New(errs.Invalid, "commit %s of %s cannot be written: its state has %d bytes, at most %d are possible",
			o.Generation, o.State.Volume(), len(text), maxState)
	}
	raw := make([]byte, headerSize, headerSize+len(text)+len(o.Data))
	o.putHeader(raw, len(text))
	raw = append(append(raw, text...), o.Data...)
	binary.LittleEndian.PutUint32(raw[crcAt:], checksum(raw))
	if invariants.Enabled {
		back, err := Decode(raw)
		invariants.Check(err == nil, "an object was made at %s that cannot be read: %v", o.Generation, err)
		invariants.Check(back.Generation == o.Generation && back.Mark == o.Mark && back.Kind == o.Kind && back.State.Seq == o.State.Seq && back.State.DataSeq == o.State.DataSeq || o.Bare(),
			"the object at %s is read as that at %s", o.Generation, back.Generation)
	}
	return raw, nil
}

func (o *Object) putHeader(raw []byte, stateLen int) {
	copy(raw, magic)
	binary.LittleEndian.PutUint16(raw[4:], o.version())
	raw[6] = byte(o.Kind)
	if o.Released {
		raw[7] |= flagReleased
	}
	if o.Tombstone {
		raw[7] |= flagTombstone
	}
	binary.LittleEndian.PutUint64(raw[8:], o.Generation.Epoch)
	binary.LittleEndian.PutUint64(raw[16:], o.Generation.Number)
	copy(raw[24:], o.Mark[:])
	binary.LittleEndian.PutUint32(raw[40:], o.Ahead)
	binary.LittleEndian.PutUint32(raw[44:], uint32(stateLen))
	binary.LittleEndian.PutUint32(raw[48:], uint32(len(o.Data)))
}

func (o *Object) version() uint16 {
	switch {
	case o.SealAhead():
		return versionAhead
	case hasDomains(o.Data) || !o.Bare() && o.State.domains():
		return version
	case blockRanges(o.Data) > 0:
		return versionBlocks
	}
	return versionOne
}

// checksum covers everything but its own four bytes.
func checksum(raw []byte) uint32 {
	return crc32.Update(crc32.Checksum(raw[:crcAt], castagnoli), castagnoli, raw[headerSize:])
}

// Decode reads an object. A newer version is errs.Unsupported; anything else that
// Encode does not write is errs.Corrupt.
func Decode(raw []byte) (*Object, error) {
	if len(raw) < headerSize || string(raw[:4]) != magic {
		return nil, errs.New(errs.Corrupt, "not a commit (%d bytes)", len(raw))
	}
	v := binary.LittleEndian.Uint16(raw[4:])
	if v > version {
		return nil, errs.New(errs.Unsupported, "commit of version %d, this release reads up to %d; use a newer glide", v, version)
	}
	stateLen, dataLen := binary.LittleEndian.Uint32(raw[44:]), binary.LittleEndian.Uint32(raw[48:])
	if stateLen > maxState || dataLen > MaxData || len(raw) != headerSize+int(stateLen)+int(dataLen) {
		return nil, errs.New(errs.Corrupt, "commit of %d bytes with %d of state and %d of data", len(raw), stateLen, dataLen)
	}
	if sum := checksum(raw); sum != binary.LittleEndian.Uint32(raw[crcAt:]) {
		return nil, errs.New(errs.Corrupt, "commit with checksum %08x, its bytes have %08x", raw[crcAt:headerSize], sum)
	}
	o, err := decodeHeader(raw)
	if err != nil {
		return nil, err
	}
	o.Data = raw[headerSize+stateLen:]
	text := raw[headerSize : headerSize+stateLen]
	if o.State, err = decodeState(text, o.Bare()); err != nil {
		return nil, errs.New(errs.Corrupt, "commit with a bad state: %w", err)
	}
	if v != o.version() {
		return nil, errs.New(errs.Corrupt, "%s of version %d", o.Kind, v)
	}
	o.Hash = blake3.Sum256(raw)
	if wrong := o.check(); wrong != "" {
		return nil, errs.New(errs.Corrupt, "bad commit: %s", wrong)
	}
	return o, nil
}

func decodeHeader(raw []byte) (*Object, error) {
	flags := raw[7]
	if flags&^(flagReleased|flagTombstone) != 0 {
		return nil, errs.New(errs.Corrupt, "commit with flags %#x", flags)
	}
	return &Object{
		Generation: Generation{Epoch: binary.LittleEndian.Uint64(raw[8:]), Number: binary.LittleEndian.Uint64(raw[16:])},
		Kind:       Kind(raw[6]),
		Released:   flags&flagReleased != 0,
		Tombstone:  flags&flagTombstone != 0,
		Mark:       Mark(raw[24:40]),
		Ahead:      binary.LittleEndian.Uint32(raw[40:]),
	}, nil
}

// full tells whether a successor has no room to name the object's data.
func (o *Object) full() bool {
	count, _ := o.State.Unfolded()
	return len(o.Data) > 0 && (count >= maxDataCommits || len(o.State.DataCommits) >= maxDataCommits)
}

// check describes what is wrong with the object, "" if nothing is.
func (o *Object) check() string {
	switch {
	case !o.Generation.valid():
		return fmt.Sprintf("its generation is %s", o.Generation)
	case o.Kind < First || o.Kind > Stub:
		return fmt.Sprintf("it is of %s", o.Kind)
	case (o.Kind == First) != (o.Generation.Number == 1) && o.Kind != Stub:
		return fmt.Sprintf("a %s at %s", o.Kind, o.Generation)
	case o.Released && !o.Closes():
		return fmt.Sprintf("a %s that releases", o.Kind)
	case o.Tombstone && o.Kind == Commit:
		return "a commit that removes"
	case !o.State.After.IsZero() && (o.Generation.Number > 1 || o.State.After.Epoch != o.Generation.Epoch-1):
		return fmt.Sprintf("it comes after %s", o.State.After)
	case uint64(o.Ahead) > min(maxAhead, o.Generation.Number-1):
		return fmt.Sprintf("it is %d objects ahead", o.Ahead)
	case len(o.Data) > MaxData || len(o.Data) > 0 && o.Kind != Commit:
		return fmt.Sprintf("a %s with %d bytes of data", o.Kind, len(o.Data))
	case o.full():
		return fmt.Sprintf("data after %d runs of data commits that are not folded", len(o.State.DataCommits))
	case o.Bare():
		return o.State.Identity.check()
	}
	return o.State.check()
}
