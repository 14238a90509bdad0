package volume

import (
	"encoding/hex"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/wal"
)

// ID identifies a volume for ever, whatever its name: 16 random bytes, in hexadecimal as
// text.
type ID [16]byte

// String returns the ID in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText makes the ID a string in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText parses what String returns.
func (id *ID) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(id) {
		return errs.New(errs.Invalid, "%q is not a volume's id: 32 hexadecimal digits are wanted", b)
	}
	if _, err := hex.Decode(id[:], b); err != nil {
		return errs.New(errs.Invalid, "%q is not a volume's id: %w", b, err)
	}
	return nil
}

// Parent says what a volume was forked from.
type Parent struct {
	Name       string `json:"name"`
	ID         ID     `json:"id"`
	Generation string `json:"generation,omitempty"` // the parent's newest commit at the time, if it had one
	Root       string `json:"root,omitempty"`       // hash of the parent's block map, in hexadecimal
}

// Limits bound what a volume may use of its host; 0 means no limit of its own.
type Limits struct {
	IOPS        uint64 `json:"iops,omitempty"`         // requests per second
	Bandwidth   uint64 `json:"bandwidth,omitempty"`    // bytes per second
	DirtyBudget uint64 `json:"dirty_budget,omitempty"` // bytes not yet in the store
}

// Published is what a host knows of a volume's commit log: the newest commit that it made
// or saw.
type Published struct {
	Epoch  uint64 `json:"epoch"`
	Number uint64 `json:"number"`
	Mark   string `json:"mark,omitempty"` // of that commit
	Digest string `json:"digest,omitempty"`
}

// Mode is a volume's state on this host.
type Mode string

// Modes. A failed or fenced volume keeps its local data.
const (
	Active Mode = "active"
	Asleep Mode = "asleep"
	Fenced Mode = "fenced"
	Failed Mode = "failed"
)

// State is everything that a host keeps of a volume besides its log. Its JSON is the
// volume's record in the host's metadata.
type State struct {
	Version   int       `json:"version"` // of this record, 1
	ID        ID        `json:"id"`
	Tenant    string    `json:"tenant"`
	Name      string    `json:"name"`
	Isolated  uint32    `json:"isolated,omitempty"` // the domain of a volume that is not in its tenant's own
	CreatedAt time.Time `json:"created_at"`
	Size      uint64    `json:"size"`
	BlockSize uint32    `json:"block_size"`
	Mode      Mode      `json:"mode"`
	Reason    string    `json:"reason,omitempty"` // why the volume is failed or fenced

	Durability string            `json:"durability"`
	RPO        time.Duration     `json:"rpo"`
	Limits     Limits            `json:"limits"`
	Labels     map[string]string `json:"labels,omitempty"`
	Keep       string            `json:"keep,omitempty"` // how old commits are thinned; see package retention
	Parent     *Parent           `json:"parent,omitempty"`
	// ImportDigest is the digest of the image that the volume was imported from.
	ImportDigest string `json:"import_digest,omitempty"`

	// SnapshotOf makes this the record of a snapshot (named Snapshot) of the volume with
	// that ID. It is read-only, and not a volume of its own.
	SnapshotOf ID     `json:"snapshot_of,omitzero"`
	Snapshot   string `json:"snapshot,omitempty"`
	// Generation is the commit that has the snapshot.
	Generation string `json:"generation,omitempty"`
	// ExpiresAt is when the snapshot is removed; zero: never.
	ExpiresAt time.Time `json:"expires_at,omitzero"`

	// Root is the block map under the log's records. It holds all writes through Folded.
	Root blockmap.Root `json:"root"`
	// RootBlocks is the number of blocks of that map. It is less than the volume's if the
	// volume has grown since.
	RootBlocks uint64 `json:"root_blocks"`
	Folded     uint64 `json:"folded"`
	// Floor: the volume's own records have the numbers from Floor+1 on.
	Floor uint64 `json:"floor"`
	// Used: numbers up to this one have been given to writes, and are never given again.
	Used uint64 `json:"used"`
	// Segments of the log that still count. The volume's own are in the order of their
	// use.
	Segments []wal.Ref `json:"segments,omitempty"`

	// Shipped is the last write that is known to be in the store, in a data commit or
	// under Root, if the volume's policy ships. It may lag.
	Shipped uint64 `json:"shipped,omitempty"`
	// Rebase means that what the store has is not a prefix of the local history, because
	// the volume was rolled back. So the next commit cannot be a data commit.
	Rebase bool `json:"rebase,omitempty"`
	// Unsynced is the volume from which this one was forked, if its log was not known to
	// be durable through Floor when this was saved: see Counts.
	Unsynced ID `json:"unsynced,omitzero"`
	// Repairs counts how often the volume's log was rewritten after a failed sync.
	Repairs uint64 `json:"repairs,omitempty"`
	// Loading marks a record whose data commits are still being loaded. After a stop of
	// the host it is dropped.
	Loading bool `json:"loading,omitempty"`

	// Released means that the volume was, or may have been, released to the store.
	// Another host can wake it without asking, so nothing may be acknowledged here before
	// this host has claimed it again. It is asleep.
	Released bool `json:"released,omitempty"`

	// DirtyAtSleep and OldestAtSleep are the account of a sleeping volume.
	DirtyAtSleep  int64     `json:"dirty_at_sleep,omitempty"`
	OldestAtSleep time.Time `json:"oldest_at_sleep,omitzero"`

	// RolledBack: the volume was rolled back since the newest commit, which has the old
	// content.
	RolledBack bool `json:"rolled_back,omitempty"`
	// VerifiedAt is when all of the volume was last read from the store and found whole.
	VerifiedAt time.Time `json:"verified_at,omitzero"`
	// Unsaid: labels, limits, Keep or snapshots have changed since the newest commit.
	Unsaid bool `json:"unsaid,omitempty"`
	// ExpiredAt is when the first snapshot was removed that had expired and that the newest
	// commit still lists; zero if there is none.
	ExpiredAt time.Time `json:"expired_at,omitzero"`

	// Published is nil for a volume that the store does not know.
	Published *Published `json:"published,omitempty"`
}

// Payer returns the volume that the requests to the store are counted for.
func (s *State) Payer() cost.Volume {
	if s.SnapshotOf != (ID{}) {
		return cost.Volume(s.SnapshotOf)
	}
	return cost.Volume(s.ID)
}

// The durability policies.
const (
	Local      = "local"
	Continuous = "continuous"
	Sync       = "sync"
)

// Ships reports whether the volume's policy makes it send its changes to the store by
// itself.
func (s *State) Ships() bool {
	return s.SnapshotOf == ID{} && (s.Durability == Continuous || s.Durability == Sync)
}

// Counts reports, when a host starts, whether the volume exists. A fork syncs the log of
// its parent and its own record at the same time, and is acknowledged when both are
// durable. So if the parent's log does not reach the record's cut, the fork was never
// acknowledged, and the numbers of that cut will be used for other writes. The same holds
// if the parent's log was rewritten since the cut: it is no longer where the fork refers
// to it. parent is the volume st.Unsynced, or nil if it is not open. Then its log was
// damaged, which is no reason to drop a fork of it.
func (st *State) Counts(parent *Volume) bool {
	if st.Unsynced == (ID{}) || parent == nil {
		return true
	}
	p := parent.State()
	return parent.Last() >= st.Floor && p.Repairs == st.Repairs
}

// stateVersion is the newest version of State that this program writes and reads.
const stateVersion = 1

// Blocks returns the number of blocks of the volume. The last one may be partial.
func (s *State) Blocks() uint64 { return (s.Size + uint64(s.BlockSize) - 1) / uint64(s.BlockSize) }

// Validate reports whether this program can open the volume.
func (s *State) Validate() error {
	switch {
	case s.Version > stateVersion:
		return errs.New(errs.Unsupported, "the record of volume %q is of version %d, this program knows up to %d: use a newer glide", s.Name, s.Version, stateVersion)
	case s.BlockSize < 4096 || s.BlockSize > 1<<20 || s.BlockSize&(s.BlockSize-1) != 0:
		return errs.New(errs.Corrupt, "the record of volume %q gives a block size of %d", s.Name, s.BlockSize)
	case s.Size == 0 || s.Size%512 != 0 || s.Size > 1<<62:
		return errs.New(errs.Corrupt, "the record of volume %q gives a size of %d", s.Name, s.Size)
	}
	return nil
}
