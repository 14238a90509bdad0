// Package sealtest has keys of a host for tests, and runs a package's tests with and
// without them.
package sealtest

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/paraglide/glide/internal/seal"
)

// Local returns the keys of a host. They are the same in every process.
func Local(host string) *seal.Local { return domain(0x1a2b3c4d).Local(host) }

// Other returns the keys of another data directory of a host.
func Other(host string) *seal.Local { return domain(0x2b3c4d5e).Local(host) }

func domain(id uint32) *seal.Domain {
	key := func(b byte) seal.Key {
		k, err := seal.KeyOf(bytes.Repeat([]byte{b}, seal.KeySize))
		if err != nil {
			panic(err)
		}
		return k
	}
	d, err := seal.New(seal.Secrets{Domain: id, Suite: seal.AES256GCM, Current: 1, Roots: map[uint32]seal.Key{1: key(byte(id))}, Conv: key(2), Name: key(3)})
	if err != nil {
		panic(err)
	}
	return d
}

// Both runs the tests of a package twice: without keys, and then with *local set to some.
// Benchmarks and fuzzing run once: with keys if the flag -sealed is given.
func Both(m *testing.M, local **seal.Local) int {
	sealed := flag.Bool("sealed", false, "seal what the host keeps on its disk")
	flag.Parse()
	if *sealed {
		*local = Local("host-1")
		return m.Run()
	}
	if code := m.Run(); code != 0 || set("test.bench") || set("test.fuzz") || set("test.fuzzworker") || set("test.list") {
		return code
	}
	_, _ = os.Stdout.WriteString("again, sealed\n")
	*local = Local("host-1")
	return m.Run()
}

// set reports whether a flag of the tests is in use.
func set(name string) bool {
	f := flag.Lookup(name)
	return f != nil && f.Value.String() != "" && f.Value.String() != "false"
}
