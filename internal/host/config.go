package host

import (
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/export"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/limits"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pack"
)

// Config configures a Host. Zero values mean the defaults given.
type Config struct {
	Data      string         // data directory; required, must exist
	Store     objstore.Store // required
	StoreURL  string         // for people
	Counter   *objstore.Counter
	FS        vfs.FS   // the machine's
	Advertise string   // where other hosts find this one's API
	NBD       []string // addresses, unix:PATH or tcp:HOST:PORT; the first one is in URIs
	NBDTLS    bool     // clients must use TLS
	API       []string
	Version   string

	Memory      int64            // bytes of the memory tier; 256 MiB
	Cache       Share            // SSD tier; 80 % of the disk
	WALLimit    Share            // log; 80 % of the disk
	DirtyBudget uint64           // bytes a volume; 5 GiB
	Compression pack.Compression // zstd
	PackBlocks  int              // 25
	Retention   time.Duration    // 72 h
	FoldAfter   uint64           // data commits of a volume before they are folded into packs; 256
	RoomWait    time.Duration    // how long a writer waits for room in the log before it gets an error; 20 s
	RollAt      uint64           // objects of an epoch before the next begins; commitlog's default

	// Starting is told what Open is at. It may be called by several goroutines.
	Starting func(format string, args ...any)

	// Limits are those of the system that the host shows; limits.Read.
	Limits func() []limits.Use

	// Kernel is where volumes are attached; this machine's.
	Kernel export.Kernel
	// Dial returns the peer at an advertised address.
	Dial func(addr string) ownership.Peer
	// Now is the clock, Rand the source of randomness, Log where faults are told that nobody waits for.
	// Uptime is a clock that is never set and runs while the machine is suspended.
	Now    func() time.Time
	Uptime func() time.Duration
	Rand   io.Reader
	Log    *slog.Logger
}

// Share is an amount of disk: bytes, or percent of the disk if it is below 0.
type Share struct {
	Bytes   int64
	Percent int
}

// of is the share of a disk of so many bytes.
func (s Share) of(disk uint64) int64 {
	if s.Percent > 0 {
		return int64(disk / 100 * uint64(s.Percent))
	}
	return s.Bytes
}

func (s Share) isZero() bool { return s == Share{} }

// fill sets defaults and reports everything that is wrong.
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
		c.Retention = 72 * time.Hour
	}
	if c.FoldAfter == 0 {
		c.FoldAfter = 256
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
