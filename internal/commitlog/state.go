package commitlog

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog/internal/id"
	"github.com/paraglide/glide/internal/commitlog/internal/place"
	"github.com/paraglide/glide/internal/errs"
)

// Bounds of a state. They keep its JSON below maxState, so that every state that can
// be written can be read.
const (
	MaxSnapshots   = 1024
	maxDataCommits = 1024
	MaxLabels      = 64
	maxAddresses   = 16
	maxSealedFrom  = 256
	maxDomains     = 64
	MaxText        = 256     // bytes of a label's value, an address, a digest
	maxSize        = 1 << 62 // bytes of a volume
	maxCount       = 1 << 62 // of writes, bytes, blocks: sums do not overflow
	maxRPO         = math.MaxInt64 / int64(time.Millisecond)
	maxRun         = 2 * listPage // objects of a run of data commits, those without data included
	minBlockSize   = 4 << 10
	maxBlockSize   = 1 << 20
	sectorSize     = 512
)

// VolumeID identifies a volume for ever, whatever its name. It is random.
type VolumeID = id.Volume

// ObjectHash is the BLAKE3 hash of a whole log object. It is not keyed: anyone who can
// read a commit may know its hash.
type ObjectHash = id.Hash

// Unhex fills dst from its hexadecimal digits. Text of any other form or length is
// errs.Corrupt; what says what it was to be.
func Unhex(dst, text []byte, what string) error { return id.Unhex(dst, text, what) }

// Cause says why a commit was made.
type Cause string

// The causes.
const (
	CauseCreate   Cause = "create"
	CauseImport   Cause = "import"
	CauseFork     Cause = "fork"
	CauseRestore  Cause = "restore" // a removed volume came back
	CauseFlush    Cause = "flush"
	CauseSnapshot Cause = "snapshot"
	CauseRollback Cause = "rollback"
	CauseResize   Cause = "resize"
	CauseSet      Cause = "set"
	CauseData     Cause = "data"   // changed pages, by the volume's durability policy
	CauseFold     Cause = "fold"   // data commits became blocks
	CauseMove     Cause = "move"   // the tenant was sealed: what was plain is in its domain
	CauseForget   Cause = "forget" // an operator released what was kept for a former owner
	CauseRename   Cause = "rename"
	CauseRemove   Cause = "remove"
	CauseWithdraw Cause = "withdraw" // the call that created the volume failed
	CauseRelease  Cause = "release"
	CauseOpen     Cause = "open"     // a process began an epoch for its own volume
	CauseWake     Cause = "wake"     // a host began an epoch for a volume that its owner released
	CauseTakeover Cause = "takeover" // a host began an epoch by force
	CauseSeal     Cause = "seal"
	CauseRoll     Cause = "roll" // the owner began another epoch, about every thousand commits
)

// Host identifies the sender of a commit: its data directory's identity and its API
// addresses.
type Host struct {
	ID        string   `json:"host"`
	Addresses []string `json:"addresses,omitempty"`
	// Process identifies one process of the host's daemon. A host uses it to tell
	// its own commits from those of a copy of its data directory. "": not given.
	Process string `json:"process,omitempty"`
}

// Identity is the part of a state that a tombstone or a stub keeps.
type Identity struct {
	ID     VolumeID `json:"id"`
	Tenant string   `json:"tenant"`
	Name   string   `json:"name"`
	// Isolated is the domain of a volume that is not in its tenant's own.
	Isolated uint32 `json:"isolated,omitempty"`
	// Owner is the owner of the epoch; in a seal, of the closed epoch.
	Owner Host `json:"owner"`
	// SealedBy is, in a seal, the host that closed the epoch.
	SealedBy string `json:"sealed_by,omitempty"`
	// Time is when the object was created, by its creator's clock. For people only.
	Time  time.Time `json:"time"`
	Cause Cause     `json:"cause"`
	// RenamedTo is, in a tombstone, the volume's new name.
	RenamedTo string `json:"renamed_to,omitempty"`
	// After is, in the first object of every epoch except the first, the seal of the
	// previous epoch: its end, whatever objects follow it.
	After Generation `json:"after,omitzero"`
	// Prev is, in a sealed object, the hash of the object before it: of the seal of the
	// previous epoch in a first object. Zero: its sender could not know it.
	Prev ObjectHash `json:"prev,omitzero"`
	// Keyring is, in a sealed object, the number of the keyring that its sender had.
	Keyring uint64 `json:"keyring,omitempty"`
}

// State is the whole small state of a volume, as each of its commits carries it.
// The owner fills in Tenant, Name, Owner, SealedBy and Time.
type State struct {
	Identity

	Size       uint64            `json:"size"`       // bytes
	BlockSize  uint32            `json:"block_size"` // bytes
	Durability string            `json:"durability"` // local, continuous or sync
	RPOMillis  int64             `json:"rpo_ms"`
	Labels     map[string]string `json:"labels,omitempty"`
	Limits     Limits            `json:"limits,omitzero"`
	CreatedAt  time.Time         `json:"created_at"`
	Parent     *Parent           `json:"parent,omitempty"`
	// Keep is the rule by which a collector thins the history, as package retention
	// reads it; "": none.
	Keep string `json:"keep,omitempty"`

	// Root is the block map and Seq the last write that it holds: together they are
	// the cut. Size determines the map's height, so a resize that needs another level
	// publishes a new map.
	Root blockmap.Root `json:"root"`
	Seq  uint64        `json:"seq"`
	// DataCommits are the data commits on top of Root, oldest first. The object's own
	// data comes last and is not named. DataSeq is the last write that they hold,
	// including the object's own data; 0 if there is none.
	DataCommits []DataRun  `json:"data_commits,omitempty"`
	DataSeq     uint64     `json:"data_seq,omitempty"`
	Snapshots   []Snapshot `json:"snapshots,omitempty"` // oldest first

	// ImportDigest identifies the imported image, as long as nothing else was
	// written.
	ImportDigest string `json:"import_digest,omitempty"`
	BlocksMapped uint64 `json:"blocks_mapped"` // for people only
	StoredBytes  uint64 `json:"stored_bytes"`  // for people only

	// RenamedFrom is the volume's previous name. While Reserved is true, the rename is
	// in progress: the new name belongs to the volume only if the old name's log ends
	// in a tombstone that names it.
	RenamedFrom string `json:"renamed_from,omitempty"`
	Reserved    bool   `json:"reserved,omitempty"`
	// SealedFrom lists the cuts that former owners may still need (rule 12).
	SealedFrom []SealedFrom `json:"sealed_from,omitempty"`
	// Domains are, in a sealed object, all domains of packs that Root, Snapshots and data
	// may name, in order; 0 among them if plain packs are.
	Domains []uint32 `json:"domains,omitempty"`
}

// Limits bound what a volume may use; 0 is no limit.
type Limits struct {
	IOPS        uint64 `json:"iops,omitempty"`         // requests per second
	Bandwidth   uint64 `json:"bandwidth,omitempty"`    // bytes per second
	DirtyBudget uint64 `json:"dirty_budget,omitempty"` // bytes
}

// Parent says what a volume was forked from. Generation is zero if the cut was
// never published.
type Parent struct {
	Tenant     string     `json:"tenant,omitempty"` // if it is not the fork's own
	Name       string     `json:"name"`
	ID         VolumeID   `json:"id"`
	Generation Generation `json:"generation,omitzero"`
	Root       string     `json:"root,omitempty"` // hash of the root of the block map, in hexadecimal
}

// Snapshot is a cut with a name.
type Snapshot struct {
	Name       string        `json:"name"`
	Root       blockmap.Root `json:"root"`
	Size       uint64        `json:"size"` // bytes
	Seq        uint64        `json:"seq"`
	Generation Generation    `json:"generation,omitzero"` // the commit that made it
	CreatedAt  time.Time     `json:"created_at"`
	ExpiresAt  time.Time     `json:"expires_at,omitzero"` // when its owner removes it; zero: never
}

// DataRun refers to the unfolded data commits among the objects First to Last of one
// epoch. It names the log, because forks and renamed volumes refer to other logs. Each
// data commit's own state names the previous one, so the last one's hash proves all.
type DataRun struct {
	Name  string     `json:"name"`
	Epoch uint64     `json:"epoch"`
	First uint64     `json:"first"`
	Last  uint64     `json:"last"`
	Hash  ObjectHash `json:"hash"`  // of the object Last, which is a data commit
	Count uint64     `json:"count"` // of the data commits
	Bytes uint64     `json:"bytes"` // of their data sections, decoded: what opening the volume writes to the log
}

// SealedFrom pins the state before a seal, for the host whose epoch another host
// sealed: that host's forks, overlay and rescue volume need it. It stays until that
// host publishes its release or an operator forgets the host.
type SealedFrom struct {
	Host       string     `json:"host"`
	Generation Generation `json:"generation"`
}

// Volume names the log that the state belongs to.
func (id *Identity) Volume() Volume { return Volume{id.Tenant, id.Name} }

// DomainName is how the domain is called whose keys seal the log and what it names.
func (id *Identity) DomainName() string { return DomainName(id.Tenant, id.Isolated) }

// Clone returns a copy that shares nothing with s.
func (s *State) Clone() State {
	c := *s
	c.Owner.Addresses = slices.Clone(s.Owner.Addresses)
	c.Labels = maps.Clone(s.Labels)
	c.DataCommits = slices.Clone(s.DataCommits)
	c.Snapshots = slices.Clone(s.Snapshots)
	c.SealedFrom = slices.Clone(s.SealedFrom)
	c.Domains = slices.Clone(s.Domains)
	if s.Parent != nil {
		parent := *s.Parent
		c.Parent = &parent
	}
	return c
}

// Fork is the state of a new volume that begins with the content of s. from is the
// generation of s in its log, zero if the cut was never published. A fork starts
// local, without limits, labels or snapshots.
func (s *State) Fork(name string, id VolumeID, from Generation, now time.Time) State {
	c := s.Clone()
	c.Identity = Identity{ID: id, Tenant: s.Tenant, Name: name, Isolated: s.Isolated, Cause: CauseFork}
	c.Parent = &Parent{Name: s.Name, ID: s.ID, Generation: from}
	if !s.Root.IsHole() {
		c.Parent.Root = s.Root.Ref.Hash.String()
	}
	c.CreatedAt = now
	c.Durability, c.RPOMillis, c.Limits = "local", 0, Limits{}
	c.Labels, c.Keep, c.Snapshots, c.SealedFrom = nil, "", nil, nil
	c.ImportDigest, c.RenamedFrom, c.Reserved = "", "", false
	return c
}

// domains tells whether the state names a pack of a domain other than 0.
func (s *State) domains() bool {
	return s.Root.Ref.Pack.Domain != 0 || slices.ContainsFunc(s.Snapshots, func(n Snapshot) bool { return n.Root.Ref.Pack.Domain != 0 })
}

// Through is the last write that the state holds, including its object's own data.
func (s *State) Through() uint64 { return max(s.Seq, s.DataSeq) }

// Unfolded is the number and decoded size in bytes of the data commits that the state names.
func (s *State) Unfolded() (count, bytes uint64) {
	for i := range s.DataCommits {
		count += s.DataCommits[i].Count
		bytes += s.DataCommits[i].Bytes
	}
	return count, bytes
}

// Blocks is the number of blocks of the volume.
func (s *State) Blocks() uint64 { return blocks(s.Size, s.BlockSize) }

func blocks(size uint64, blockSize uint32) uint64 {
	return (size + uint64(blockSize) - 1) / uint64(blockSize)
}

// check describes what is wrong with the identity, "" if nothing is.
func (id *Identity) check() string {
	switch {
	case id.ID.IsZero():
		return "it has no volume ID"
	case id.Volume().Check() != nil:
		return fmt.Sprintf("its volume is %.210q", id.Volume())
	case id.Owner.Process != "" && !ValidName(id.Owner.Process):
		return fmt.Sprintf("its owner's process is %.110q", id.Owner.Process)
	case !ValidName(id.Owner.ID):
		return fmt.Sprintf("its owner is %.110q", id.Owner.ID)
	case id.SealedBy != "" && !ValidName(id.SealedBy):
		return fmt.Sprintf("it was sealed by %.110q", id.SealedBy)
	case id.RenamedTo != "" && !ValidName(id.RenamedTo):
		return fmt.Sprintf("it was renamed to %.110q", id.RenamedTo)
	case len(id.Cause) > MaxText || !ValidName(string(id.Cause)):
		return fmt.Sprintf("its cause is %.110q", id.Cause)
	case !id.After.IsZero() && !id.After.Valid():
		return fmt.Sprintf("it comes after %s", id.After)
	case len(id.Owner.Addresses) > maxAddresses || slices.ContainsFunc(id.Owner.Addresses, badText):
		return fmt.Sprintf("its owner has %d addresses, at most %d of %d bytes each are possible",
			len(id.Owner.Addresses), maxAddresses, MaxText)
	}
	return ""
}

// check describes what is wrong with the state, "" if nothing is. It runs before every
// write and after every read.
func (s *State) check() string {
	if wrong := s.Identity.check(); wrong != "" {
		return wrong
	}
	switch {
	case s.Size == 0 || s.Size > maxSize || s.Size%sectorSize != 0:
		return fmt.Sprintf("its size is %d bytes", s.Size)
	case s.BlockSize < minBlockSize || s.BlockSize > maxBlockSize || bits.OnesCount32(s.BlockSize) != 1:
		return fmt.Sprintf("its block size is %d bytes", s.BlockSize)
	case s.Durability != "local" && s.Durability != "continuous" && s.Durability != "sync":
		return fmt.Sprintf("its durability is %.40q", s.Durability)
	case s.RPOMillis < 0 || s.RPOMillis > maxRPO:
		return fmt.Sprintf("its rpo is %d ms", s.RPOMillis)
	case !s.fits(s.Root, s.Size):
		return fmt.Sprintf("its root of height %d does not fit its size of %d bytes", s.Root.Height, s.Size)
	case max(s.Seq, s.DataSeq, s.BlocksMapped, s.StoredBytes) > maxCount:
		return fmt.Sprintf("it has %d and %d writes, %d blocks, %d bytes", s.Seq, s.DataSeq, s.BlocksMapped, s.StoredBytes)
	case max(s.Limits.IOPS, s.Limits.Bandwidth, s.Limits.DirtyBudget) > maxCount:
		return fmt.Sprintf("its limits are %+v", s.Limits)
	case badText(s.Keep):
		return fmt.Sprintf("its rule for old commits is %.80q", s.Keep)
	case badText(s.ImportDigest):
		return fmt.Sprintf("its import digest is %.80q", s.ImportDigest)
	case s.Parent != nil && len(s.Parent.Root) > 2*len(ObjectHash{}):
		return fmt.Sprintf("its parent's root is %.80q", s.Parent.Root)
	case s.Parent != nil && (!ValidName(s.Parent.Name) || s.Parent.Tenant != "" && !ValidName(s.Parent.Tenant)):
		return fmt.Sprintf("its parent is %.110q", s.Parent.Name)
	case s.RenamedFrom != "" && !ValidName(s.RenamedFrom):
		return fmt.Sprintf("it was renamed from %.110q", s.RenamedFrom)
	}
	return s.checkLists()
}

// fits tells whether the root has the height for a volume of size bytes.
func (s *State) fits(root blockmap.Root, size uint64) bool {
	return root.IsHole() || root.Height == blockmap.HeightFor(blocks(size, s.BlockSize))
}

func (s *State) checkLists() string {
	switch {
	case len(s.Labels) > MaxLabels:
		return fmt.Sprintf("it has %d labels, at most %d are possible", len(s.Labels), MaxLabels)
	case len(s.Snapshots) > MaxSnapshots:
		return fmt.Sprintf("it has %d snapshots, at most %d are possible: remove some", len(s.Snapshots), MaxSnapshots)
	case len(s.DataCommits) > maxDataCommits:
		return fmt.Sprintf("it has %d runs of data commits to fold, at most %d are possible", len(s.DataCommits), maxDataCommits)
	case len(s.SealedFrom) > maxSealedFrom:
		return fmt.Sprintf("it is kept for %d former owners, at most %d are possible: `glide host forget` the dead ones",
			len(s.SealedFrom), maxSealedFrom)
	}
	for key, value := range s.Labels {
		if !ValidName(key) || badText(value) {
			return fmt.Sprintf("its label %.110q is %.80q", key, value)
		}
	}
	for _, snap := range s.Snapshots {
		if !ValidName(snap.Name) || snap.Size == 0 || snap.Size > maxSize || snap.Size%sectorSize != 0 || snap.Seq > maxCount || !s.fits(snap.Root, snap.Size) {
			return fmt.Sprintf("its snapshot %.110q has %d bytes and a root of height %d", snap.Name, snap.Size, snap.Root.Height)
		}
	}
	var count uint64
	for _, d := range s.DataCommits {
		if !place.ValidLog(d.Name) || d.Epoch == 0 || d.First < 2 || d.Last < d.First || d.Last > maxNumber || d.Last-d.First >= maxRun || d.Count == 0 || d.Count > d.Last-d.First+1 || d.Bytes > d.Count*MaxData {
			return fmt.Sprintf("it names %d data commits from %d.%d to %d of %.110q", d.Count, d.Epoch, d.First, d.Last, d.Name)
		}
		count += d.Count
	}
	if count > maxDataCommits {
		return fmt.Sprintf("it has %d data commits to fold, at most %d are possible", count, maxDataCommits)
	}
	for _, from := range s.SealedFrom {
		if !ValidName(from.Host) || !from.Generation.Valid() {
			return fmt.Sprintf("it was sealed from %.110q at %s", from.Host, from.Generation)
		}
	}
	return ""
}

func badText(s string) bool { return len(s) > MaxText || !utf8.ValidString(s) }

// decodeState reads the state section. It ignores unknown fields: a release whose
// fields must not be ignored increments the version of the object.
func decodeState(text []byte, bare bool) (s State, err error) {
	if bare {
		return s, json.Unmarshal(text, &s.Identity)
	}
	// A missing root must not look like a volume full of holes.
	wire := struct {
		*State
		Root *blockmap.Root `json:"root"`
	}{State: &s}
	if err := json.Unmarshal(text, &wire); err != nil {
		return State{}, err
	}
	if wire.Root == nil {
		return State{}, errs.New(errs.Corrupt, "it has no root")
	}
	s.Root = *wire.Root
	return s, nil
}
