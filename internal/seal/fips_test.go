package seal_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// TestFIPS runs a test of this binary in a process that may use nothing but the FIPS 140
// module: suite 1 works there, and suite 2 says why it does not.
func TestFIPS(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestInFIPSProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only", "GLIDE_TEST_FIPS=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestInFIPSProcess") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestInFIPSProcess(t *testing.T) {
	if os.Getenv("GLIDE_TEST_FIPS") == "" {
		return // TestFIPS runs it
	}
	d := open(t, seal.AES256GCM)
	for _, p := range places(seal.AES256GCM) {
		if got, err := p.open(d, p.seal(d, plaintext)); err != nil || string(got) != string(plaintext) {
			t.Errorf("%s: %v", p.name, err)
		}
	}
	if err := seal.XChaCha20Poly1305.Check(); !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "FIPS") {
		t.Errorf("suite 2: %v", err)
	}
	seg, err := d.Local(host).Segment(number, 1, 1, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	seg.XOR(make([]byte, 100), make([]byte, 100), seal.NewIV(), 3)
}
