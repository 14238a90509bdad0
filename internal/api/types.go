package api

import (
	"context"
	"io"
	"time"
)

// Requests counts object-store requests by kind.
type Requests struct {
	Put    uint64 `json:"put"`
	Get    uint64 `json:"get"`
	List   uint64 `json:"list"`
	Head   uint64 `json:"head"`
	Delete uint64 `json:"delete"`
}

// Volume is what ls and show print.
type Volume struct {
	Name        string            `json:"name"`
	Tenant      string            `json:"tenant"` // "" for the default one, which is not printed
	ID          string            `json:"id"`
	Size        uint64            `json:"size"`
	BlockSize   uint64            `json:"block_size"`
	State       string            `json:"state"` // active, asleep, fenced, remote, failed, locked
	Reason      string            `json:"reason,omitempty"`
	Durability  string            `json:"durability"`
	RPOms       float64           `json:"rpo_ms"`
	Owner       string            `json:"owner"` // host id, "" if nobody's
	Epoch       uint64            `json:"epoch"`
	Generation  string            `json:"generation"` // "" if never published
	Parent      string            `json:"parent"`     // "" if it was not forked
	CreatedAt   time.Time         `json:"created_at"`
	DirtyBytes  int64             `json:"dirty_bytes"`
	Sequence    uint64            `json:"sequence"`           // number of the newest write
	PublishedTo uint64            `json:"published_sequence"` // of the newest one that the store holds with all before it
	Unpublished float64           `json:"unpublished_ms"`
	LocalBytes  int64             `json:"local_bytes"`
	StoreBytes  int64             `json:"store_bytes"`
	Exports     int               `json:"exports"`
	Device      string            `json:"device,omitempty"` // /dev/nbdN, if it is attached
	Labels      map[string]string `json:"labels"`
	IOPS        uint64            `json:"iops"`
	Bandwidth   uint64            `json:"bandwidth"`
	DirtyBudget uint64            `json:"dirty_budget"`
	Keep        string            `json:"keep"`                 // how old commits are thinned; "": they are not
	BootBlocks  int               `json:"boot_blocks"`          // in the boot list of its image; only Show tells
	BootUsed    int               `json:"boot_used"`            // of these, read by the last boot; only Show tells
	Encrypted   bool              `json:"encrypted"`            // what the store has of it is sealed with keys of its tenant
	Isolated    string            `json:"isolated,omitempty"`   // what its domain is called, if it was isolated: TENANT+DOMAIN
	VerifiedAt  time.Time         `json:"verified_at,omitzero"` // when glide verify --cold last found all of it whole; only Show tells
}

// Removed is a removed volume that can be restored, as ls --removed prints it.
type Removed struct {
	Name       string            `json:"name"`
	Tenant     string            `json:"tenant"` // "" for the default one, which is not printed
	ID         string            `json:"id"`     // of the removed volume; a restored one has another
	Size       uint64            `json:"size"`
	BlockSize  uint64            `json:"block_size"`
	Durability string            `json:"durability"`
	RPOms      float64           `json:"rpo_ms"`
	Owner      string            `json:"owner"`      // the host that removed it
	Generation string            `json:"generation"` // its last
	Parent     string            `json:"parent"`     // "" if it was not forked
	CreatedAt  time.Time         `json:"created_at"`
	StoreBytes int64             `json:"store_bytes"`
	Labels     map[string]string `json:"labels"`
	RemovedAt  time.Time         `json:"removed_at"`
	Until      time.Time         `json:"until,omitzero"` // when glide gc may take it at the earliest; left out: no round has flagged it
}

// States lists what the state of a Volume can be.
var States = []string{"active", "asleep", "fenced", "remote", "failed", "locked"}

// CreateRequest asks for a new, empty volume.
type CreateRequest struct {
	Name       string  `json:"name"`
	Size       uint64  `json:"size"`
	BlockSize  uint64  `json:"block_size,omitempty"` // 0: 128 KiB
	Durability string  `json:"durability,omitempty"` // "": local
	RPOms      float64 `json:"rpo_ms,omitempty"`     // 0: 5 s
	Isolate    bool    `json:"isolate,omitempty"`    // with keys of its own
}

// ForkRequest asks for a fork, or for Count of them (named NEW-1 …).
type ForkRequest struct {
	Source     string `json:"source"` // a volume or NAME@SNAPSHOT
	Name       string `json:"name"`
	Count      int    `json:"count,omitempty"`      // 0: one, named Name
	At         string `json:"at,omitempty"`         // snapshot, generation or time
	Durability string `json:"durability,omitempty"` // "": local
	Lazy       bool   `json:"lazy,omitempty"`
	Isolate    bool   `json:"isolate,omitempty"` // with keys of its own; only of another tenant's
}

// Fork is one fork that was made.
type Fork struct {
	Name       string   `json:"name"`
	ID         string   `json:"id"`
	Parent     string   `json:"parent"`
	Generation string   `json:"generation"`
	ElapsedMs  float64  `json:"elapsed_ms"`
	Requests   Requests `json:"store_requests"`
	AgeMs      float64  `json:"age_ms,omitempty"` // of a lazy fork: how old the commit is that was taken
}

// Flush is what a flush did.
type Flush struct {
	Generation    string   `json:"generation"`
	BlocksFolded  uint64   `json:"blocks_folded"`
	BlocksNew     uint64   `json:"blocks_new"`
	BytesUploaded uint64   `json:"bytes_uploaded"`
	Requests      Requests `json:"store_requests"`
	ElapsedMs     float64  `json:"elapsed_ms"`
}

// Import is what an import did.
type Import struct {
	Name          string   `json:"name"`
	ID            string   `json:"id"`
	Size          uint64   `json:"size"`
	Unchanged     bool     `json:"unchanged"` // the volume held this image already
	Generation    string   `json:"generation"`
	BytesRead     uint64   `json:"bytes_read"` // holes not counted
	BlocksFolded  uint64   `json:"blocks_folded"`
	BlocksNew     uint64   `json:"blocks_new"`
	BytesUploaded uint64   `json:"bytes_uploaded"`
	Requests      Requests `json:"store_requests"`
	ElapsedMs     float64  `json:"elapsed_ms"`
}

// Snapshot is one snapshot of a volume.
type Snapshot struct {
	Name       string    `json:"name"`
	Volume     string    `json:"volume"`
	Size       uint64    `json:"size"`
	Generation string    `json:"generation"` // "" while it is only on this host
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"` // when its owner removes it; left out: never
}

// Commit is one entry of a volume's history, newest first.
type Commit struct {
	Generation string    `json:"generation"`
	Time       time.Time `json:"time"`
	Kind       string    `json:"kind"`  // first, commit, seal, stub
	Cause      string    `json:"cause"` // create, import, flush, fork, snapshot, …
	Owner      string    `json:"owner"`
	Size       uint64    `json:"size"`  // of the volume, bytes
	Bytes      int64     `json:"bytes"` // of the commit object
}

// Range is a stretch of bytes that differs.
type Range struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
}

// Diff says how two volumes differ.
type Diff struct {
	A              string  `json:"a"`
	B              string  `json:"b"`
	Ranges         []Range `json:"ranges"`
	DifferentBytes uint64  `json:"different_bytes"`
	SharedBytes    uint64  `json:"shared_bytes"` // mapped in both, with the same content
}

// Space is what data takes up.
type Space struct {
	Logical          uint64  `json:"logical_bytes"`
	Dirty            int64   `json:"dirty_bytes"`
	Exclusive        uint64  `json:"exclusive_bytes"`
	Shared           uint64  `json:"shared_bytes"`
	FreedIfRemoved   uint64  `json:"freed_if_removed_bytes"`
	Stored           uint64  `json:"stored_bytes"`
	DedupRatio       float64 `json:"dedup_ratio"`
	CompressionRatio float64 `json:"compression_ratio"`
}

// Usage is what df prints: what a volume or a snapshot uses, or all of the host's
// volumes together.
type Usage struct {
	Space
	Volumes    []VolumeUsage   `json:"volumes,omitzero"`     // without a name: all, by name
	Snapshots  []SnapshotUsage `json:"snapshots,omitzero"`   // of a volume
	SharedWith []SharedWith    `json:"shared_with,omitzero"` // with a name: who shares data with it, the most first
}

// VolumeUsage is what one volume uses together with its snapshots.
type VolumeUsage struct {
	Name string `json:"name"`
	Space
	Snapshots []SnapshotUsage `json:"snapshots"` // by name
}

// SnapshotUsage is what a snapshot uses by itself: what it shares with its own volume is
// shared.
type SnapshotUsage struct {
	Name string `json:"name"`
	Space
}

// SharedWith says how much data a volume, with its snapshots, shares with what was asked for.
type SharedWith struct {
	Name  string `json:"name"`
	Bytes uint64 `json:"bytes"`
}

// Cost is what cost prints: the requests to the store by what they were made for.
type Cost struct {
	Since  time.Time            `json:"since"` // when the daemon began to count
	Causes map[string]CauseCost `json:"causes"`
	Money  *float64             `json:"money,omitempty"` // a month of 30 days, if prices are set: requests as since Since, what is stored now
}

// CauseCost is the requests of one cause, tries included, and the bytes of objects that
// they moved.
type CauseCost struct {
	Requests
	BytesUp   uint64 `json:"bytes_up"`
	BytesDown uint64 `json:"bytes_down"`
}

// Latency is the distribution of one operation's latency since the start.
type Latency struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
}

// Stats is what stats prints, for the host or for one volume.
type Stats struct {
	Requests  Requests `json:"store_requests"`
	BytesUp   uint64   `json:"store_bytes_up"`
	BytesDown uint64   `json:"store_bytes_down"`
	Cache     struct {
		Hits         uint64 `json:"hits"`
		Misses       uint64 `json:"misses"`
		FetchedBytes uint64 `json:"fetched_bytes"`
		ServedBytes  uint64 `json:"served_bytes"`
		DedupHits    uint64 `json:"dedup_hits"`
		LostBlocks   uint64 `json:"lost_blocks"` // reads of what the store should have and has not
	} `json:"cache"`
	Prefetch struct { // of the store, before a guest asked; bytes are neither used nor wasted at first
		FetchedBytes uint64 `json:"fetched_bytes"`
		UsedBytes    uint64 `json:"used_bytes"`   // a guest read them later
		WastedBytes  uint64 `json:"wasted_bytes"` // no guest did within a minute
		BadLists     uint64 `json:"bad_lists"`    // boot lists that could not be used
	} `json:"prefetch"`
	Peers struct { // blocks that went from one host's SSD to another's
		FetchedBytes uint64 `json:"fetched_bytes"` // from other hosts, verified
		ServedBytes  uint64 `json:"served_bytes"`  // to other hosts
		BadBlocks    uint64 `json:"bad_blocks"`    // from other hosts; they did not match their hashes
	} `json:"peers"`
	Scrub ScrubStats `json:"scrub"`
	WAL   struct {
		Syncs        uint64 `json:"syncs"`
		Bytes        uint64 `json:"bytes"`
		CleanedBytes uint64 `json:"cleaned_bytes"`
	} `json:"wal"`
	Latency map[string]Latency `json:"latency"` // read, write, flush, trim, zero
	Panics  uint64             `json:"panics"`  // requests that a bug ended
	Limits  map[string]Limit   `json:"limits"`  // of the system, by name: open_files, threads, memory
}

// Limit is a limit of the system for the daemon, and its use.
type Limit struct {
	Used  uint64 `json:"used"`
	Limit uint64 `json:"limit"` // 0: none is known
}

// Verify is what verify found.
type Verify struct {
	Name    string   `json:"name"`
	Blocks  uint64   `json:"blocks"` // checked
	Bytes   uint64   `json:"bytes"`
	Cold    bool     `json:"cold"` // read from the store, not from the cache
	Damaged []string `json:"damaged"`
}

// Hydrate is what hydrate brought to this host.
type Hydrate struct {
	Name      string  `json:"name"`
	Blocks    uint64  `json:"blocks"`         // of the volume, all on this host
	Fetched   uint64  `json:"blocks_fetched"` // of them from the store
	ElapsedMs float64 `json:"elapsed_ms"`
}

// Check is one check of doctor.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// Host describes the daemon.
type Host struct {
	ID        string   `json:"id"`
	Version   string   `json:"version"`
	Store     string   `json:"store"`
	Data      string   `json:"data"`
	Advertise string   `json:"advertise"`
	NBD       []string `json:"nbd"`
	API       []string `json:"api"`
	Volumes   int      `json:"volumes"`
}

// ReleaseRequest asks a volume's owner to release it to another host.
type ReleaseRequest struct {
	Host      string  `json:"host"`       // who asks
	Epoch     uint64  `json:"epoch"`      // the owner's epoch, as the asker saw it; another one has no effect
	WithinMs  float64 `json:"within_ms"`  // then the asker has given up, and the request has no effect any more
	FlushOnly bool    `json:"flush_only"` // a flush without a release, for a fork elsewhere
}

// Extent is a piece of an image; Data nil means a hole.
type Extent struct {
	Off  uint64
	Data []byte
}

// Source is an image being imported: size first, then extents in ascending
// order until io.EOF. A skipped range is a hole. Next's data is valid until the next call.
type Source interface {
	Size() uint64
	Next() (Extent, error)
}

// Settings is what `glide set` changes: key to value, both text, as on the
// command line (durability, rpo, iops, bandwidth, dirty-budget, label.KEY).
type Settings map[string]string

// Line is the event on one line.
func (e Event) Line() string {
	s := e.Time.Format(time.RFC3339) + " " + e.Kind
	if e.Volume != "" {
		s += " " + e.Volume
	}
	return s + ": " + e.Message
}

// StoreHost is a host that the store knows.
type StoreHost struct {
	ID         string    `json:"id"`
	Addresses  []string  `json:"addresses"` // where its API answered when it last committed
	Self       bool      `json:"self"`      // it is the one that was asked
	Twin       bool      `json:"twin"`      // another daemon has its identity
	Volumes    int       `json:"volumes"`   // that it holds
	Kept       int       `json:"kept"`      // volumes that were taken from it, and of which a state is kept for it
	Pins       int       `json:"pins"`
	LastCommit time.Time `json:"last_commit"` // by its own clock; zero if no newest commit is its
}

// ForgetRequest asks to release what is kept for a host.
type ForgetRequest struct {
	Force bool `json:"force,omitempty"` // even if it answers
}

// Forgotten describes what was released for a forgotten host.
type Forgotten struct {
	Host    string   `json:"host"`
	Pins    int      `json:"pins"`
	Volumes []string `json:"volumes"` // that keep nothing for it any more
	Left    []string `json:"left"`    // that other hosts hold: forget it there too
}

// Event is something that happened on a host.
type Event struct {
	Sequence uint64    `json:"sequence"` // grows from one to the next; its time, in microseconds since 1970
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // volume, store, disk or host
	Volume   string    `json:"volume,omitempty"`
	Message  string    `json:"message"`
}

// Backend is what the API serves: one method for each verb. Errors carry a
// errs.Kind. Names are as in the contract: [tenant/]name, with @SNAPSHOT
// where a volume is only read.
type Backend interface {
	Host(ctx context.Context) (Host, error)
	Create(ctx context.Context, r CreateRequest) (Volume, error)
	Import(ctx context.Context, name string, size uint64, src Source) (Import, error)
	// Export opens a cut of the volume for reading; Close releases it.
	Export(ctx context.Context, name string) (Exported, error)
	List(ctx context.Context, all bool) ([]Volume, error)
	Show(ctx context.Context, name string) (Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	Rename(ctx context.Context, name, to string) (Volume, error)
	Resize(ctx context.Context, name string, size uint64) (Volume, error)
	Set(ctx context.Context, name string, s Settings) (Volume, error)
	Fork(ctx context.Context, r ForkRequest) ([]Fork, error)
	Snapshot(ctx context.Context, name, snapshot, expires string) (Snapshot, error)
	Snapshots(ctx context.Context, name string) ([]Snapshot, error)
	Rollback(ctx context.Context, name, to string, force bool) (Volume, error)
	Restore(ctx context.Context, name, as string) (Volume, error) // as: its new name, or ""
	Removed(ctx context.Context) ([]Removed, error)
	Flush(ctx context.Context, name string) (Flush, error)
	Sleep(ctx context.Context, name string, portable, force bool) (Volume, error)
	Wake(ctx context.Context, name string, force bool, expect string) (Volume, error)
	// Log is a page of count commits, or a full one if that is less, the newest first, from
	// before a generation (or, if that is "", the newest). A shorter page is the last.
	Log(ctx context.Context, name, before string, count uint64) ([]Commit, error)
	Diff(ctx context.Context, a, b string) (Diff, error)
	Cost(ctx context.Context, name string) (Cost, error)   // name "": all requests
	Usage(ctx context.Context, name string) (Usage, error) // name "": all of this host's
	Verify(ctx context.Context, name string, cold bool) (Verify, error)
	// Hydrate brings every block to this host, at rate bytes a second; 0: as they come.
	Hydrate(ctx context.Context, name string, rate uint64) (Hydrate, error)
	URI(ctx context.Context, name string) (string, error)
	Stats(ctx context.Context, name string) (Stats, error) // name "": the host's
	Doctor(ctx context.Context) ([]Check, error)
	Release(ctx context.Context, name string, r ReleaseRequest) (Volume, error)
	// Blocks calls send with those of the blocks that the SSD tier has, and their numbers
	// in the request. send does not retain raw.
	Blocks(ctx context.Context, r BlocksRequest, send func(i int, raw []byte) error) error
	Attach(ctx context.Context, name string, r AttachRequest) (Attachment, error)
	Detach(ctx context.Context, r DetachRequest) (Attachment, error)
	Hosts(ctx context.Context) ([]StoreHost, error)
	ForgetHost(ctx context.Context, id string, force bool) (Forgotten, error)
	// Collect goes on with a round of garbage collection, or begins one.
	Collect(ctx context.Context, r CollectRequest) (Collection, error)
	CollectPlan(ctx context.Context) ([]Planned, error)
	CollectStatus(ctx context.Context) (CollectStatus, error)
	Undelete(ctx context.Context, keys []string) error
	Scrub(ctx context.Context, r ScrubRequest) (Scrub, error)
	// Events returns the events after a number. If there are none, it waits for one.
	Events(ctx context.Context, after uint64, wait time.Duration) ([]Event, error)
	// Barrier returns when the store holds a volume through a write.
	Barrier(ctx context.Context, name string, through uint64) (Flush, error)
	// Dump writes an object of the store, decoded, as text.
	Dump(ctx context.Context, key string, w io.Writer) error
}

// Exported is a cut of a volume that is being read.
type Exported interface {
	Size() uint64
	ReadAt(ctx context.Context, p []byte, off uint64) error
	// Extents calls fn for the maximal runs of data and of holes in the range.
	Extents(ctx context.Context, off, length uint64, fn func(length uint64, hole bool) error) error
	Close()
}
