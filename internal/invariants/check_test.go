package invariants

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

func TestCheck(t *testing.T) {
	Check(true, "x")
	defer func() {
		r := recover()
		if !Enabled && r != nil {
			t.Errorf("it panics without the tag: %v", r)
		}
		if Enabled && r != "invariant does not hold: 3 is less than 4" {
			t.Errorf("it panics with %v", r)
		}
	}()
	Check(false, "%d is less than %d", 3, 4)
}

func TestSum(t *testing.T) {
	b := []byte("abc")
	s := SumOf(b)
	if !s.Matches(b) {
		t.Error("it does not match what it is of")
	}
	b[1] = 'x'
	if s.Matches(b) == Enabled {
		t.Error("it matches something else")
	}
}

// TestFreeWithoutTheTag builds a program whose check calls a function: without
// the tag, neither that function nor the check's text is in it.
func TestFreeWithoutTheTag(t *testing.T) {
	build := func(args ...string) []byte {
		exe := t.TempDir() + "/checked"
		args = append(append([]string{"build", "-o", exe}, args...), "./testdata/checked")
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	with, without := build("-tags", "invariants"), build()
	for _, text := range []string{"main.costly", "invariant does not hold", "no arguments"} {
		if !bytes.Contains(with, []byte(text)) {
			t.Errorf("with the tag, the program has no %q", text)
		}
		if bytes.Contains(without, []byte(text)) {
			t.Errorf("without the tag, the program has %q", text)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	n := 0
	for b.Loop() {
		if Enabled {
			Check(n >= 0, "n is %d", n)
		}
		n++
	}
}
