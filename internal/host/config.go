package host

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/collect"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/export"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/limits"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/peers"
	"github.com/paraglide/glide/internal/seal"
)

// Config configures a Host. A zero value means the default that the field's comment
// gives.
type Config struct {
	Data      string         // data directory; required, must exist
	Store     objstore.Store // required
	StoreURL  string         // shown to users
	Counter   *objstore.Counter
	Ledger    *cost.Ledger // counts the requests to Store by cause; a new one
	Prices    cost.Prices  // of the store, for Cost; none
	FS        vfs.FS       // the file system; the machine's
	Advertise string       // the address at which other hosts reach this one's API
	NBD       []string     // listening addresses, unix:PATH or tcp:HOST:PORT; URIs use the first one
	NBDTLS    bool         // clients must use TLS
	API       []string
	Version   string

	Memory       int64            // bytes of the memory tier; 256 MiB
	Cache        Share            // SSD tier; 80 % of the disk
	WALLimit     Share            // log; 80 % of the disk
	DirtyBudget  uint64           // bytes per volume; 5 GiB
	Compression  pack.Compression // zstd
	PackBlocks   int              // 25
	Retention    time.Duration    // 72 h
	CollectEvery time.Duration    // between rounds of garbage collection that the host runs by itself; 0: it runs none
	CollectGrace time.Duration    // between flag and deletion; 24 h
	ScrubDisk    uint64           // bytes of this host's disk to check a second, in the background; none
	ScrubStore   uint64           // bytes of the store, the same
	FoldAfter    uint64           // data commits of a volume that trigger a fold into packs; 256
	NoPrefetch   bool             // fetch nothing that no guest has asked for
	BulkBytes    int64            // bytes of whole blocks from which on they go into packs at once; see durability.Options; 1 MiB
	Peers        bool             // exchange blocks with other hosts
	Keys         []keys.Provider  // that open the keyrings of sealed tenants
	SealedOnly   bool             // refuse plain tenants
	KeyTTL       time.Duration    // see tenants.Options.TTL
	OnRevoke     string           // of a tenant whose keys are denied then: RevokeRefuse, or RevokeStop; RevokeRefuse
	MoveBytes    int64            // what a tenant that is sealed stores again in one step; 128 MiB
	RoomWait     time.Duration    // how long a writer waits for room in the log before it gets an error; 20 s
	RollAt       uint64           // objects per epoch before a new epoch begins; commitlog's default

	// Local returns the keys with which the host, which has this ID, seals what it keeps on
	// its disk; nil keys: it is plain. It is called once the data directory is locked; nil:
	// it is plain.
	Local func(ctx context.Context, host string) (*seal.Local, error)

	// Starting reports the progress of Open. It may be called by several goroutines.
	Starting func(format string, args ...any)

	// Limits returns the system's limits that the host shows; limits.Read.
	Limits func() []limits.Use

	// Kernel creates the block devices of attached volumes; this machine's.
	Kernel export.Kernel
	// Dial returns a host, which a commit names, at the address that it advertises.
	Dial func(addr, id string) (Peer, error)
	// Now is the clock, Rand the source of randomness. Log gets errors that no caller
	// waits for. Uptime is a clock that is never set and that counts suspensions of the
	// machine.
	Now    func() time.Time
	Uptime func() time.Duration
	Rand   io.Reader
	Log    *slog.Logger
}

// What happens to the guests of a tenant that has lost its keys.
const (
	RevokeRefuse = "refuse" // they go on with what is on this host; new ones are refused
	RevokeStop   = "stop"   // they are disconnected
)

// Peer is another host, seen through its API.
type Peer interface {
	ownership.Peer
	peers.Peer
}

// Share is an amount of disk: a percentage of the disk if Percent is above 0, else bytes.
type Share struct {
	Bytes   int64
	Percent int
}

// of returns the share of a disk with this many bytes.
func (s Share) of(disk uint64) int64 {
	if s.Percent > 0 {
		return int64(disk / 100 * uint64(s.Percent))
	}
	return s.Bytes
}

func (s Share) isZero() bool { return s == Share{} }

// fill sets defaults and reports all violations.
func (c *Config) fill() error {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Memory == 0 {
		c.Memory = 256 << 20
	}
	if c.Cache.isZero() {
		c.Cache = Share{Percent: 80}
	}
	if c.WALLimit.isZero() {
		c.WALLimit = Share{Percent: 80}
	}
	if c.DirtyBudget == 0 {
		c.DirtyBudget = 5 << 30
	}
	if c.PackBlocks == 0 {
		c.PackBlocks = pack.DefaultBlocks
	}
	if c.Retention == 0 {
		c.Retention = collect.DefaultRetention
	}
	if c.CollectGrace == 0 {
		c.CollectGrace = gc.DefaultGrace
	}
	if c.FoldAfter == 0 {
		c.FoldAfter = 256
	}
	if c.BulkBytes == 0 {
		c.BulkBytes = 1 << 20
	}
	if c.RoomWait == 0 {
		c.RoomWait = 20 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Uptime == nil {
		c.Uptime = clock.BootTime
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Starting == nil {
		c.Starting = func(string, ...any) {}
	}
	if c.Limits == nil {
		c.Limits = limits.Read
	}
	if c.Kernel == nil {
		c.Kernel = kernelnbd.Kernel{}
	}
	if c.Ledger == nil && c.Store != nil {
		c.Ledger = cost.NewLedger(c.Now())
		c.Store = c.Ledger.Wrap(c.Store)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var wrong []error
	bad := func(format string, args ...any) {
		wrong = append(wrong, errs.New(errs.Invalid, format, args...))
	}
	if c.Data == "" || c.Store == nil {
		bad("a host needs a data directory and a store")
	}
	if c.Memory < 0 || c.Cache.Bytes < 0 || c.WALLimit.Bytes < 0 {
		bad("sizes of tiers and limits cannot be negative")
	}
	if c.Cache.Percent > 100 || c.WALLimit.Percent > 100 {
		bad("a share of the disk cannot be more than 100%%")
	}
	if err := (pack.Limits{Blocks: c.PackBlocks}).Validate(); err != nil {
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}
