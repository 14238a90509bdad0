package size

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "1": 1, "512": 512, "1K": 1024, "1k": 1024, "1KiB": 1024, "1KB": 1024, "7B": 7,
		"20G": 20 << 30, "3T": 3 << 40, "2m": 2 << 20, "4194304T": 1 << 62, "9223372036854775807": 1<<63 - 1,
	} {
		n, err := Parse(s)
		if err != nil || n != want {
			t.Errorf("Parse(%q) = %d, %v, want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "-1", "-5G", "G", "1X", "1Gi", "1 G", "1GiBs", "1.5G", ".5G", "1.G", "0.3", "8388608T", "4E",
		"9223372036854775808", "99999999999999999999", "1e3", "0x10", "+1", "１", "NaN"} {
		if n, err := Parse(s); !errors.Is(err, errs.Invalid) {
			t.Errorf("Parse(%q) = %d, %v, want a errs.Invalid", s, n, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, s := range []string{"512", "1M", "4194304T"} {
		if _, err := ParseVolume(s); err != nil {
			t.Errorf("ParseVolume(%q): %v", s, err)
		}
	}
	for _, s := range []string{"0", "511", "513", "4611686018427388416"} {
		if _, err := ParseVolume(s); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseVolume(%q): %v, want a errs.Invalid", s, err)
		}
	}
	for s, ok := range map[string]bool{"4K": true, "128K": true, "1M": true, "2K": false, "2M": false, "96K": false, "x": false} {
		if _, err := ParseBlock(s); (err == nil) != ok {
			t.Errorf("ParseBlock(%q): %v", s, err)
		}
	}
}

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "0.98 KiB", 1024: "1 KiB", 1536: "1.50 KiB", 10 << 10: "10 KiB", 1<<20 - 1: "1 MiB",
		20 << 30: "20 GiB", 5<<30 + 1<<28: "5.25 GiB", 1 << 62: "4 EiB", -1536: "-1.50 KiB", 123456789: "118 MiB",
	} {
		if got := Human(n); got != want {
			t.Errorf("Human(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"15G", "4T", "999999999999999999K", "1KiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if err != nil {
			if !errors.Is(err, errs.Invalid) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("Parse(%q): %v", s, err)
			}
			return
		}
		if n >= 1<<63 {
			t.Fatalf("Parse(%q) = %d", s, n)
		}
		if again, err := Parse(strconv.FormatUint(n, 10)); err != nil || again != n {
			t.Fatalf("Parse(%d) = %d, %v", n, again, err)
		}
		_ = Human(n)
	})
}
