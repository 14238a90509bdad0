package sim

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var faultsFlag = flag.String("sim.faults", "", "plant these faults, by name, one at a time: A,B or all")

// faults are the deliberate faults in production code (package fault), each a
// step of a protocol that is left out.
var faults = []string{
	"flush-without-sync", "rotate-without-sync", "failed-sync-is-success", "torn-record-counts", "half-a-write-counts",
	"cleaning-forgets-order", "cleaning-without-sync", "cleaning-drops-zeros", "recycled-before-recorded",
	"cut-without-sync", "early-fork-counts", "fold-forgets-later-writes", "segment-not-recorded",
	"collision-believed-ours", "number-sent-twice", "claim-without-seal", "former-owner-not-kept", "data-commits-forgotten",
	"children-not-pinned", "late-release-counts", "released-before-flushed", "first-publication-not-withdrawn", "published-before-synced", "commit-before-packs",
	"cache-not-verified", "store-not-verified", "rpo-not-kept", "sync-without-store",
	"repair-unnoticed-by-fold", "released-not-recorded", "writes-not-drained", "flights-forgotten", "fold-forgets-later-zeros",
	"owner-does-not-yield", "yields-forever", "acknowledges-while-yielding", "seal-ahead-counts-at-once", "seal-ahead-with-old-state",
	"gc-one-mark", "gc-ignores-pins", "gc-logs-before-pins", "gc-forgets-snapshots", "gc-forgets-former-owners", "gc-forgets-data-commits",
	"gc-forgets-forwards", "gc-collects-what-commits-name", "gc-collects-the-tip", "gc-trusts-a-host's-clock", "gc-compacts-before-the-flag",
	"gc-closes-before-it-deletes", "gc-deletes-before-it-forwards", "gc-deletes-seals", "flags-not-looked-at",
	"no-pins-of-kind-session", "no-pins-of-kind-packs", "no-pins-of-kind-fork", "pins-dropped-before-the-commit", "former-pins-dropped-at-start",
	"data-commit-before-packs", "block-of-a-later-cut", "bytes-overtake-blocks", "blocks-after-bytes", "older-data-over-newer-fold",
}

// slice are those of them that few seeds catch: `make test` plants them.
var slice = []string{"flush-without-sync", "claim-without-seal", "commit-before-packs"}

var violated = regexp.MustCompile(`([a-z-]+) is violated at step \d+ of seed (\d+)`)

// TestFaults plants faults and runs seeds until each is caught. It prints how
// many seeds that took, and which invariant named it.
func TestFaults(t *testing.T) {
	if os.Getenv(child) != "" {
		return
	}
	bin := build(t, "faults")
	names, most := slice, 300
	switch *faultsFlag {
	case "":
	case "all":
		names, most = faults, 10000
	default:
		names, most = strings.Split(*faultsFlag, ","), 10000
	}
	caught := 0
	for _, name := range names {
		if !slices.Contains(faults, name) {
			t.Errorf("there is no fault %q", name)
			continue
		}
		began := time.Now()
		seed, invariant := catch(t, bin, name, most)
		if seed == 0 {
			fmt.Printf("| %s | not caught | in %d seeds, %v |\n", name, most, time.Since(began).Round(time.Second))
			t.Errorf("%s is not caught by %d seeds", name, most)
			continue
		}
		caught++
		fmt.Printf("| %s | %d | %s |\n", name, seed, invariant)
	}
	fmt.Printf("%d of %d faults caught\n", caught, len(names))
}

// catch runs seeds from 1 on until one catches the fault; 0 if none does. A seed
// that fails without the fault catches nothing.
func catch(t *testing.T, bin, name string, most int) (seed int, invariant string) {
	const batch = 50
	for from, to := 1, 0; from <= most; from = to + 1 {
		to = min((from-1)/batch*batch+batch, most)
		seed, invariant := runFaulty(t, bin, name, from, to)
		if strings.HasPrefix(invariant, unnamed) { // which of them, and does it alone?
			for seed, invariant = 0, ""; seed == 0 && from <= to; from++ {
				seed, invariant = runFaulty(t, bin, name, from, from)
			}
		}
		if seed == 0 {
			continue
		}
		if other, _ := runFaulty(t, bin, "none", seed, seed); other == 0 {
			return seed, invariant
		}
		t.Errorf("seed %d fails without a fault", seed)
		to = seed
	}
	return 0, ""
}

// unnamed begins what no invariant names: the engine found the fault itself, and said so by
// a panic; or it went round for ever.
const unnamed = "a panic, or no end: "

// runFaulty runs seeds with a fault, and returns the first that fails; 0 if none does. The
// limits are on what it uses, not on the time it takes: other programs may have the machine.
func runFaulty(t *testing.T, bin, name string, from, to int) (seed int, invariant string) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := command(bin, "-test.run=^TestSim$", "-test.v", "-sim.shrink=false", fmt.Sprintf("-sim.seed=%d-%d", from, to))
	// A fault may make the engine go round for ever: that must not take the machine.
	run := exec.CommandContext(ctx, "sh", append([]string{"-c", `ulimit -v 6000000; ulimit -t 90; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)...)
	run.Env = append(cmd.Env, "GLIDE_FAULT="+name, "GOMEMLIMIT=2GiB")
	out, err := run.CombinedOutput()
	if m := violated.FindSubmatch(out); m != nil {
		n, _ := strconv.Atoi(string(m[2]))
		return n, string(m[1])
	}
	if err != nil {
		return from, unnamed + lastLine(out)
	}
	return 0, ""
}

func lastLine(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return strings.TrimSpace(line)
		}
	}
	return "killed"
}
