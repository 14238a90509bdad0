package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// TestUsage: what is wrong with the command line is exit 2, one line, and needs
// no daemon.
func TestUsage(t *testing.T) {
	long := "unix:/" + strings.Repeat("x", 107)
	for _, c := range []struct {
		args  []string
		words string
	}{
		{[]string{"frobnicate"}, `"frobnicate"`},
		{[]string{"shw", "vm1"}, "did you mean show"},
		{[]string{"ls", "extra"}, "one argument too many"},
		{[]string{"flush", "v", "--through", "x"}, `"x" is not a number for --through`},
		{[]string{"fork", "v", "w", "-n", "-1x"}, `"-1x" is not a number for -n`},
		{[]string{"ls", "--all=maybe"}, `--all is on or off, not "maybe"`},
		{[]string{"show"}, "an argument is missing: glide show NAME"},
		{[]string{"ls", "--al"}, `did you mean "all"?`},
		{[]string{"create", "vm1"}, "--size"},
		{[]string{"create", "vm1", "--size"}, "--size"},
		{[]string{"create", "vm1", "--size", "0"}, "zero"},
		{[]string{"create", "vm1", "--size", "-1G"}, "negative"},
		{[]string{"create", "vm1", "--size", "1000"}, "multiple of 512"},
		{[]string{"create", "vm1", "--size", "4611686018427388416"}, "2^62"},
		{[]string{"create", "vm1", "--size", "9999999999999T"}, "too large"},
		{[]string{"create", "vm1", "--size", "1.5G"}, "not a size"},
		{[]string{"create", "vm1", "--size", "1G", "--block-size", "96K"}, "power of two"},
		{[]string{"create", "vm1", "--size", "1G", "--rpo", "fast"}, "--rpo"},
		{[]string{"create", "vm1", "--size", "1G", "--durability", "some"}, "durability"},
		{[]string{"create", "vm 1", "--size", "1G"}, "name"},
		{[]string{"create", "", "--size", "1G"}, "name"},
		{[]string{"create", "a/b/c", "--size", "1G"}, "name"},
		{[]string{"create", "vm1@s", "--size", "1G"}, "snapshot"},
		{[]string{"create", strings.Repeat("x", 101), "--size", "1G"}, "name"},
		{[]string{"show", "vm1@"}, "name"},
		{[]string{"rename", "vm1", "a@b"}, "snapshot"},
		{[]string{"resize", "vm1", "big"}, "not a size"},
		{[]string{"set", "vm1", "iops"}, "KEY=VALUE"},
		{[]string{"set", "vm1", "iop=1"}, `did you mean "iops"?`},
		{[]string{"set", "vm1", "iops=many"}, "iops"},
		{[]string{"set", "vm1", "rpo=0s"}, "rpo"},
		{[]string{"set", "vm1", "durability="}, "local, continuous or sync"},
		{[]string{"set", "vm1", "bandwidth=-1"}, "negative"},
		{[]string{"set", "vm1", "label.=x"}, "label."},
		{[]string{"set", "vm1", "iops=1", "iops=2"}, "twice"},
		{[]string{"fork", "vm1", "vm2", "-n", "0"}, "-n 0"},
		{[]string{"fork", "vm1", "vm2", "-n", "x"}, "-n"},
		{[]string{"fork", "vm1", "vm2", "-n", "100000000"}, "10000"},
		{[]string{"fork", "vm1", "vm2@s"}, "snapshot"},
		{[]string{"fork", "vm1", "vm2", "--at", ""}, "--at"},
		{[]string{"snapshot", "vm1", "a b"}, "snapshot"},
		{[]string{"wake", "vm1", "--expect-generation", "3"}, "generation"},
		{[]string{"wake", "vm1", "--expect-generation", ""}, "--expect-generation has no value"},
		{[]string{"import", "x", "vm1", "--store", ""}, "--store has no value"},
		{[]string{"create", "vm1", "--size", "1G", "--rpo="}, "--rpo has no value"},
		{[]string{"wake", "vm1", "--expect-generation", "3.010"}, "generation"},
		{[]string{"rollback", "vm1", ""}, "missing"},
		{[]string{"export", "vm1", "-", "--json"}, "standard output"},
		{[]string{"export", "vm1", "x", "--format", "vmdk"}, "vmdk"},
		{[]string{"import", "x", "vm1", "--size", "1"}, "multiple of 512"},
		{[]string{"import", "x", "vm1", "--format", "vmdk"}, "vmdk"},
		{[]string{"attach", "vm1", "--timeout", "1500ms"}, "whole seconds"},
		{[]string{"attach", "vm1", "--dead-timeout", "0s"}, "whole seconds"},
		{[]string{"attach", "vm 1"}, "name"},
		{[]string{"detach"}, "NAME|/dev/nbdN"},
		{[]string{"completion", "tcsh"}, "tcsh"},
		{[]string{"help", "frobnicate"}, "frobnicate"},
		{[]string{"debug", "frobnicate"}, "frobnicate"},
		{[]string{"ls", "--api", "http://x"}, "unix:PATH"},
		{[]string{"ls", "--api", long}, "at most 107"},
		{[]string{"ls", "--token-file", "/proc/none"}, "/proc/none"},
		{[]string{"serve", "--nbd", long}, "at most 107"},
		{[]string{"serve", "--wal-limt", "1G"}, `did you mean "wal-limit"?`},
		{[]string{"serve", "--memory", "lots"}, "--memory"},
		{[]string{"serve", "--api", "tcp:0.0.0.0:0"}, "--token-file"},
		{[]string{"serve", "--data", "", "--store", "ftp://x"}, "--data"},
	} {
		refused(t, run(t, glide(t, c.args...)), 2, c.words)
	}
}

// TestLater: verbs of later releases say so, whatever their arguments.
func TestLater(t *testing.T) {
	for _, args := range []string{"top"} {
		o := run(t, glide(t, strings.Fields(args)...))
		refused(t, o, 1, "this release of glide does not")
		if verb := "glide " + strings.Fields(args)[0]; !strings.Contains(o.Err, verb) {
			t.Errorf("%s: %s", args, o.Err)
		}
	}
}

// TestExitStatus: the kinds of errors that a daemon reports become the exit statuses of the contract.
func TestExitStatus(t *testing.T) {
	f := newFake(t, api.Options{})
	for k := errs.Kind(0); !strings.HasPrefix(k.String(), "kind("); k++ {
		f.Fail("Show", errs.New(k, "it failed\nin two lines"))
		refused(t, f.try(t, "show", "vm1"), k.ExitCode(), "it failed; in two lines")
	}
	f.must(t, "create", "lost", "--size", "1G")
	refused(t, f.try(t, "wake", "lost"), 3, "--force")
	f.must(t, "wake", "lost", "--force")
	f.Connect("lost", 2)
	refused(t, f.try(t, "sleep", "lost"), 1, "2 open connections")
	f.must(t, "sleep", "lost", "--force")
	refused(t, f.try(t, "create", "c", "--size", "1G", "--durability", "continuous"), 1, "release")
	refused(t, f.try(t, "set", "lost", "durability=sync"), 1, "release")
	refused(t, run(t, glide(t, "ls")), 1, "glide serve is not running")
}

func TestDamage(t *testing.T) {
	f := newFake(t, api.Options{})
	f.must(t, "create", "bad", "--size", "1G")
	for _, args := range [][]string{{"verify", "bad"}, {"verify", "bad", "--json"}} {
		o := f.try(t, args...)
		if o.Code != 1 || !strings.Contains(o.Out, "slot 3") || strings.Count(o.Err, "\n") != 1 {
			t.Errorf("%v: %+v", args, o)
		}
	}
	v := decode[api.Verify](t, f.try(t, "verify", "bad", "--cold", "--json").Out)
	if !v.Cold || len(v.Damaged) != 1 {
		t.Errorf("%+v", v)
	}
}

// TestRm: one volume that cannot be removed does not keep the others.
func TestRm(t *testing.T) {
	f := newFake(t, api.Options{})
	for _, n := range []string{"a", "b", "c"} {
		f.must(t, "create", n, "--size", "1M")
	}
	f.must(t, "snapshot", "c", "s")
	f.Connect("b", 1)
	o := f.try(t, "rm", "a", "none", "b", "c@s")
	if o.Code != 1 || o.Out != "" || strings.Count(o.Err, "glide: ") != 2 || !strings.Contains(o.Err, "none") || !strings.Contains(o.Err, "b has 1 open") {
		t.Errorf("%+v", o)
	}
	if out := f.must(t, "rm", "b", "--force", "--json"); decode[[]string](t, out)[0] != "b" {
		t.Error(out)
	}
	if list := decode[[]api.Volume](t, f.must(t, "ls", "--json")); len(list) != 1 || list[0].Name != "c" {
		t.Errorf("left: %+v", list)
	}
	f.Fail("Remove", errs.New(errs.WouldLose, "it would lose data"))
	if o := f.try(t, "rm", "c", "none"); o.Code != 3 {
		t.Errorf("exit %d, want the worst", o.Code)
	}
}

// fieldsIn lists the fields of a JSON object, those of objects within as a.b.
func fieldsIn(t *testing.T, text string) []string {
	t.Helper()
	v := decode[any](t, text)
	if list, ok := v.([]any); ok {
		v = list[0]
	}
	var all []string
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		m, ok := v.(map[string]any)
		if !ok || len(m) == 0 {
			all = append(all, prefix)
			return
		}
		for k, e := range m {
			walk(strings.TrimPrefix(prefix+"."+k, "."), e)
		}
	}
	walk("", v)
	slices.Sort(all)
	return all
}

// TestJSON: every field that the contract promises is printed.
func TestJSON(t *testing.T) {
	f := newFake(t, api.Options{})
	f.must(t, "create", "vm1", "--size", "1G")
	requests := " store_requests.put store_requests.get store_requests.list store_requests.head store_requests.delete"
	volume := `name tenant id size block_size state durability rpo_ms owner epoch generation parent created_at dirty_bytes unpublished_ms local_bytes
		store_bytes exports labels`
	for _, c := range []struct{ args, fields string }{
		{"ls", volume}, {"ls --all", volume}, {"show vm1", volume}, {"create vm2 --size 1M", volume}, {"resize vm2 2M", volume}, {"set vm2 label.a=b", strings.ReplaceAll(volume, "labels", "labels.a")},
		{"fork vm1 vm3", "name id parent generation elapsed_ms" + requests}, {"fork vm1 vm4 -n 2", "name id parent generation elapsed_ms" + requests},
		{"flush vm1", "generation blocks_folded blocks_new bytes_uploaded elapsed_ms" + requests},
		{"stats", `store_bytes_up store_bytes_down cache.hits cache.misses cache.fetched_bytes cache.served_bytes cache.dedup_hits prefetch.fetched_bytes prefetch.used_bytes prefetch.wasted_bytes prefetch.bad_lists peers.fetched_bytes peers.served_bytes peers.bad_blocks wal.syncs wal.bytes wal.cleaned_bytes
			latency.read.p50_us latency.read.p99_us latency.read.p999_us latency.read.max_us` + requests},
		{"df", "logical_bytes dirty_bytes exclusive_bytes shared_bytes freed_if_removed_bytes stored_bytes dedup_ratio compression_ratio"},
		{"df", "volumes"}, {"df vm1", "snapshots shared_with"},
		{"cost", "since causes.flush.put causes.flush.get causes.flush.list causes.flush.head causes.flush.delete causes.flush.bytes_up causes.flush.bytes_down money"}, {"cost vm1", "since causes.read.get"},
		{"df vm1", "logical_bytes"}, {"stats vm1", "store_bytes_up"}, {"uri vm1", "uri"}, {"version", "version go formats.wal"},
		{"snapshot vm1 s", "name volume generation created_at"}, {"snapshots vm1", "name volume generation created_at"},
		{"log vm1", "generation time kind cause owner"}, {"diff vm1 vm3", "ranges different_bytes shared_bytes"}, {"verify vm1", "name blocks bytes damaged"},
		{"sleep vm1", "state"}, {"wake vm1", "state"}, {"rename vm2 vm9", "name"}, {"rollback vm1 s", "name"}, {"doctor", "name ok detail"},
		{"hosts", "id addresses self volumes kept pins last_commit"}, {"host forget host-2", "host pins volumes left"}, {"events", "sequence time kind volume message"},
		{"show vm1", "sequence published_sequence boot_blocks boot_used"}, {"flush vm1 --through 0", "generation"},
	} {
		have := fieldsIn(t, f.must(t, append(strings.Fields(c.args), "--json")...))
		for _, want := range strings.Fields(c.fields) {
			if !slices.Contains(have, want) {
				t.Errorf("glide %s --json has no %s among %v", c.args, want, have)
			}
		}
	}
	// One fork is an object, several are a list; empty lists are [].
	if out := f.must(t, "fork", "vm1", "x", "--json"); out[0] != '{' {
		t.Errorf("fork: %s", out)
	}
	if out := f.must(t, "fork", "vm1", "y", "-n", "1", "--json"); out[0] != '[' || !strings.Contains(out, `"y-1"`) {
		t.Errorf("fork -n 1: %s", out)
	}
	empty := newFake(t, api.Options{})
	if out := empty.must(t, "ls", "--json"); out != "[]\n" {
		t.Errorf("ls: %s", out)
	}
	empty.must(t, "create", "v", "--size", "1M")
	for _, verb := range []string{"snapshots", "log"} {
		if out := empty.must(t, verb, "v", "--json"); out != "[]\n" {
			t.Errorf("%s: %s", verb, out)
		}
	}
}

// TestArguments: what is typed arrives at the daemon.
func TestArguments(t *testing.T) {
	f := newFake(t, api.Options{})
	f.must(t, "create", "acme/vm1", "--size", "1G", "--block-size", "4K", "--durability", "local", "--rpo", "1m")
	f.must(t, "set", "acme/vm1", "label.a=x=y", "label.b=")
	f.must(t, "fork", "acme/vm1", "vm2", "--at", "30s", "--lazy")
	f.must(t, "wake", "vm2", "--expect-generation", "3.10")
	f.must(t, "sleep", "vm2", "--portable")
	f.must(t, "verify", "acme/vm1", "--cold")
	f.must(t, "hydrate", "acme/vm1", "--rate", "100M")
	for _, rate := range []string{"0", "-1", "x", "100MB/s"} {
		if o := f.try(t, "hydrate", "acme/vm1", "--rate", rate); o.Code != 2 || !strings.Contains(o.Err, "100M") {
			t.Errorf("--rate %s: %+v", rate, o)
		}
	}
	f.must(t, "rm", "--", "vm2")
	calls := strings.Join(f.Calls(), "\n") + "\n"
	for _, want := range []string{
		"Create acme/vm1 1073741824 4096 local 60000", "Set acme/vm1 map[label.a:x=y label.b:]", "Fork acme/vm1 vm2 0 30s true",
		"Wake vm2 false 3.10", "Sleep vm2 true false", "Verify acme/vm1 true", "Hydrate acme/vm1 104857600", "Remove vm2 false",
	} {
		if !strings.Contains(calls, want+"\n") {
			t.Errorf("no call %q among\n%s", want, calls)
		}
	}
	o := f.try(t, "set", "acme/vm1", "bandwidth=1M", "dirty-budget=2G", "iops=007", "rpo=90s")
	if calls := f.Calls(); o.Code != 1 || calls[len(calls)-1] != "Set acme/vm1 map[bandwidth:1048576 dirty-budget:2147483648 iops:7 rpo:1m30s]" {
		t.Errorf("%+v, %s", o, calls[len(calls)-1])
	}
}

func TestTables(t *testing.T) {
	f := newFake(t, api.Options{})
	if out := f.must(t, "create", "vm1", "--size", "20G"); out != "created vm1, 20 GiB\n" {
		t.Error(out)
	}
	f.must(t, "create", "acme/database", "--size", "1T")
	if out, want := f.must(t, "ls"), ""+
		"NAME           STATE   SIZE    DIRTY  UNPUBLISHED  GENERATION  EXPORTS  PARENT\n"+
		"acme/database  active  1 TiB   0 B    -            -           0        -\n"+
		"vm1            active  20 GiB  0 B    -            -           0        -\n"; out != want {
		t.Errorf("ls prints\n%s, want\n%s", out, want)
	}
	if out, want := f.must(t, "snapshot", "vm1", "s")+f.must(t, "snapshots", "vm1"), ""+
		"kept vm1@s\n"+
		"SNAPSHOT  CREATED              SIZE    GENERATION  EXPIRES\n"+
		"s         2026-11-22 12:00:00  20 GiB  -           -\n"; out != want {
		t.Errorf("snapshots prints\n%s, want\n%s", out, want)
	}
	if out := f.must(t, "uri", "vm1"); out != "nbd+unix:///vm1?socket=/data/nbd.sock\n" {
		t.Error(out)
	}
	if out := f.must(t, "fork", "vm1", "f", "-n", "2"); out != "forked vm1 to f-1 in 0.25 ms\nforked vm1 to f-2 in 0.25 ms\n" {
		t.Error(out)
	}
	// Text of others does not control the terminal.
	f.must(t, "set", "vm1", "label.x=\x1b[2Jgone\n")
	if out := f.must(t, "show", "vm1"); strings.ContainsAny(out, "\x1b") || !strings.Contains(out, "label x") {
		t.Errorf("%q", out)
	}
}

func TestWhereTheDaemonIs(t *testing.T) {
	f := newFake(t, api.Options{})
	cmd := glide(t, "ls", "--json")
	cmd.Env = append(cmd.Env, "GLIDE_API="+f.addr)
	if o := run(t, cmd); o.Out != "[]\n" {
		t.Errorf("$GLIDE_API: %+v", o)
	}
	cmd = glide(t, "ls", "--api", f.addr)
	cmd.Env = append(cmd.Env, "GLIDE_API=unix:/proc/none")
	if o := run(t, cmd); o.Code != 0 {
		t.Errorf("--api goes before $GLIDE_API: %+v", o)
	}
	cmd = glide(t, "ls")
	cmd.Env = append(cmd.Env, "GLIDE_DATA="+strings.TrimSuffix(strings.TrimPrefix(f.addr, "unix:"), "/api.sock"))
	if o := run(t, cmd); o.Code != 0 {
		t.Errorf("$GLIDE_DATA: %+v", o)
	}
}

func TestCompletion(t *testing.T) {
	f := newFake(t, api.Options{})
	f.must(t, "create", "vm1", "--size", "1M")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := run(t, glide(t, "completion", shell)); out.Code != 0 || !strings.Contains(out.Out, "glide") {
			t.Errorf("%s: %+v", shell, out)
		}
	}
	if o := f.try(t, "__complete", "--api", f.addr, "show", ""); !strings.HasPrefix(o.Out, "vm1\n") {
		t.Errorf("names: %+v", o)
	}
	if o := run(t, glide(t, "__complete", "show", "")); o.Code != 0 || strings.Contains(o.Out, "vm1") {
		t.Errorf("without a daemon: %+v", o)
	}
}

func TestVersion(t *testing.T) {
	o := run(t, glide(t, "version", "--json"))
	v := decode[versionInfo](t, o.Out)
	if v.Version == "" || !strings.HasPrefix(v.Go, "go1.") || len(v.Formats) != len(formats) {
		t.Errorf("%+v", v)
	}
}

func TestDoctorWithDaemon(t *testing.T) {
	f := newFake(t, api.Options{})
	checks := decode[[]api.Check](t, f.must(t, "doctor", "--json"))
	if !slices.ContainsFunc(checks, func(c api.Check) bool { return c.Detail == "mem:// answers" }) {
		t.Errorf("the daemon's own checks are missing: %+v", checks)
	}
	f.Fail("Doctor", fmt.Errorf("no"))
	if o := f.try(t, "doctor"); o.Code != 1 {
		t.Errorf("%+v", o)
	}
}
