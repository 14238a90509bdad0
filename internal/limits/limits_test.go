package limits

import (
	"os"
	"testing"
)

func TestRead(t *testing.T) {
	seen := map[string]Use{}
	for _, u := range Read() {
		seen[u.Name] = u
		if u.Used == 0 || u.Fix == "" {
			t.Errorf("%+v", u)
		}
		if u.Limit > 0 && u.Used > u.Limit {
			t.Errorf("more than the limit is in use: %+v", u)
		}
	}
	before := seen["open_files"].Used
	for range 10 {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
	}
	if n := openFiles(); n < before+10 {
		t.Errorf("%d files are open, and were %d before ten more", n, before)
	}
	if seen["open_files"].Limit != MaxFiles() || MaxFiles() == 0 {
		t.Errorf("%+v", seen["open_files"])
	}
}

func TestNear(t *testing.T) {
	for _, c := range []struct {
		used, limit uint64
		want        bool
	}{{0, 0, false}, {1 << 40, 0, false}, {80, 100, false}, {81, 100, true}, {100, 100, true}} {
		if got := (Use{Used: c.used, Limit: c.limit}).Near(); got != c.want {
			t.Errorf("%d of %d: %v", c.used, c.limit, got)
		}
	}
	for _, c := range [][3]uint64{{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {3, 5, 3}, {5, 3, 3}} {
		if got := least(c[0], c[1]); got != c[2] {
			t.Errorf("least(%d, %d) = %d", c[0], c[1], got)
		}
	}
}
