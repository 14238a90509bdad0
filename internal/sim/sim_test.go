package sim

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sim/overlay"
)

var (
	seedFlag   = flag.String("sim.seed", "", "run this seed, or these: FROM-TO")
	stepsFlag  = flag.String("sim.steps", "", "of the schedule, only these: 3,5-9")
	calmFlag   = flag.Bool("sim.calm", false, "requests meet no trouble but that of the steps")
	shrinkFlag = flag.Bool("sim.shrink", true, "shrink the schedule of a seed that fails")
	logFlag    = flag.Bool("sim.v", false, "tell everything that happens")
)

// child is set in the binary that the tests build and run: the one that has the overlay.
const child = "GLIDE_SIM_CHILD"

// build makes that binary. It checks invariants if the tests do.
func build(t *testing.T, tags ...string) string {
	t.Helper()
	if invariants.Enabled {
		tags = append(tags, "invariants")
	}
	dir := filepath.Join(os.TempDir(), "glide-sim-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := overlay.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "sim.test")
	cmd := exec.Command("go", "test", "-c", "-overlay", list, "-tags", strings.Join(tags, ","), "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=norandomizedheapbase64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the simulator: %v\n%s", err, out)
	}
	return bin
}

// command runs the binary, as every run has to be.
func command(bin string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), child+"=1", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1,memprofilerate=0", "GOGC=off")
	return cmd
}

// TestSim runs seeds: one, with -sim.seed; else a slice of them.
func TestSim(t *testing.T) {
	if os.Getenv(child) != "" {
		runSeeds(t)
		return
	}
	bin := build(t)
	args := []string{"-test.run=^TestSim$", "-test.v", "-test.timeout=" + strconv.Itoa(24) + "h", "-sim.seed=" + *seedFlag, "-sim.steps=" + *stepsFlag, "-sim.v=" + strconv.FormatBool(*logFlag),
		"-sim.calm=" + strconv.FormatBool(*calmFlag), "-sim.shrink=" + strconv.FormatBool(*shrinkFlag)}
	if p := os.Getenv("GLIDE_SIM_PROFILE"); p != "" {
		args = append(args, "-test.cpuprofile="+p)
	}
	cmd := command(bin, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

func seeds(t *testing.T) (from, to uint64) {
	if *seedFlag == "" {
		return 1, 300
	}
	a, b, both := strings.Cut(*seedFlag, "-")
	from, err := strconv.ParseUint(a, 10, 64)
	if to = from; both && err == nil {
		to, err = strconv.ParseUint(b, 10, 64)
	}
	if err != nil || to < from {
		t.Fatalf("-sim.seed=%s is no seed and no range of seeds, like 1-300: %v", *seedFlag, err)
	}
	return from, to
}

func parseSteps(t *testing.T) (out []int) {
	if *stepsFlag == "" {
		return nil
	}
	out = []int{}
	for _, part := range strings.Split(*stepsFlag, ",") {
		a, b, both := strings.Cut(part, "-")
		from, err := strconv.Atoi(a)
		to := from
		if both && err == nil {
			to, err = strconv.Atoi(b)
		}
		if err != nil {
			t.Fatalf("-sim.steps=%s: %v", *stepsFlag, err)
		}
		for i := from; i <= to; i++ {
			out = append(out, i)
		}
	}
	return out
}

// one runs one seed in a bubble of its own, and collects the garbage: twice, so
// that what pools keep, channels of this bubble among it, is gone too.
func one(t *testing.T, o options) (r result) {
	warm.Do(warmUp)
	defer func() {
		runtime.GC()
		runtime.GC()
		if p := recover(); p != nil && r.Violation == nil {
			panic(p)
		}
	}()
	cryptotest.SetGlobalRandom(t, o.Seed)
	synctest.Test(t, func(t *testing.T) { runSeed(o, &r) })
	return r
}

var warm sync.Once

// warmUp makes what the engine makes once in a process: it would belong to the
// first bubble.
func warmUp() {
	debug.SetGCPercent(-1)
	raw := bytes.Repeat([]byte("warm"), 4<<10)
	data, err := commitlog.EncodeData([]commitlog.Range{{Len: uint64(len(raw)), Data: raw}})
	if err == nil {
		_, err = commitlog.DecodeData(data)
	}
	if err == nil {
		_, err = pack.DecodeSlot(nil, pack.EncodeSlot(nil, pack.KindBlock, raw, pack.CompressionZstd), 1<<20)
	}
	if err != nil {
		panic(err)
	}
}

// report tells what a seed found, and how to see it again.
func report(t *testing.T, o options, r result) {
	o.Out = nil
	if o.Steps == nil {
		for i := range r.Steps {
			o.Steps = append(o.Steps, i)
		}
	}
	if *shrinkFlag && !(r.Endless && *seedFlag != strconv.FormatUint(o.Seed, 10)) {
		same := func(o options) bool {
			v := one(t, o).Violation
			return v != nil && v.Invariant == r.Violation.Invariant
		}
		if calm := o; !o.Calm {
			calm.Calm = true
			if same(calm) {
				o = calm
			}
		}
		o.Steps = shrinkSteps(o.Steps, func(steps []int) bool {
			o.Steps = steps
			return same(o)
		})
		if v := one(t, o).Violation; v != nil {
			r.Violation = v
		}
	}
	replay := fmt.Sprintf("go test ./internal/sim -run 'TestSim$' -v -sim.v -sim.shrink=false -sim.seed=%d -sim.steps=%s", o.Seed, joinSteps(o.Steps))
	if o.Calm {
		replay += " -sim.calm"
	}
	fmt.Printf("%v\nreplay: %s\n", r.Violation, replay)
	t.Fail()
}

// joinSteps is what parseSteps reads.
func joinSteps(steps []int) string {
	var parts []string
	for i := 0; i < len(steps); {
		k := i
		for k+1 < len(steps) && steps[k+1] == steps[k]+1 {
			k++
		}
		if k > i {
			parts = append(parts, fmt.Sprintf("%d-%d", steps[i], steps[k]))
		} else {
			parts = append(parts, strconv.Itoa(steps[i]))
		}
		i = k + 1
	}
	return strings.Join(parts, ",")
}

const failedBefore = "GLIDE_SIM_FAILED"

// goOn runs the seeds that are left in a process of their own.
func goOn(t *testing.T, from, to uint64) {
	args := []string{os.Args[0]}
	for _, a := range os.Args[1:] {
		if !strings.Contains(a, "sim.seed=") {
			args = append(args, a)
		}
	}
	args = append(args, fmt.Sprintf("-sim.seed=%d-%d", from, to))
	fmt.Printf("the seeds before %d are done\n", from)
	t.Fatal(syscall.Exec("/proc/self/exe", args, append(os.Environ(), failedBefore+"=1")))
}

func runSeeds(t *testing.T) {
	from, to := seeds(t)
	steps := parseSteps(t)
	began := time.Now()
	for seed := from; seed <= to; seed++ {
		var log bytes.Buffer
		o := options{Seed: seed, Steps: steps, Calm: *calmFlag, Out: &log}
		if *logFlag {
			o.Out = os.Stdout
		}
		start := time.Now()
		r := one(t, o)
		if took := time.Since(start); took > 500*time.Millisecond {
			fmt.Printf("seed %d took %v\n", seed, took)
		}
		if *logFlag || from == to || os.Getenv("GLIDE_SIM_HASH") != "" {
			fmt.Printf("seed %d: trace %016x of %d events, %v\n", seed, r.Trace, r.Events, r.Stats)
		}
		if r.Violation != nil {
			report(t, o, r)
		}
		if r.Endless && seed < to {
			goOn(t, seed+1, to) // what hangs in that bubble would stay for ever
		}
	}
	if os.Getenv(failedBefore) != "" {
		t.Fail()
	}
	n := to - from + 1
	fmt.Printf("%d seeds in %v, %.1f a second\n", n, time.Since(began).Round(time.Millisecond), float64(n)/time.Since(began).Seconds())
}
