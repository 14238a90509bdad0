package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp compares the help of every command with its golden text;
// GLIDE_UPDATE=1 writes them.
func TestHelp(t *testing.T) {
	golden, err := filepath.Glob("testdata/help/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, g := range golden {
		left[g] = true
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		path := filepath.Join("testdata", "help", strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".txt")
		delete(left, path)
		got := helpOf(t, strings.Fields(cmd.CommandPath())[1:]...)
		if os.Getenv("GLIDE_UPDATE") != "" {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		want, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: its help is not %s (%v; GLIDE_UPDATE=1 writes it):\n%s", cmd.CommandPath(), path, err, got)
		}
		for i, line := range strings.Split(cmd.Long, "\n") {
			if len([]rune(line)) > 100 {
				t.Errorf("%s: line %d of its help is long", cmd.CommandPath(), i+1)
			}
		}
		if cmd.Short == "" || cmd.Long == "" || cmd.HasParent() && cmd.Parent() == cmd.Root() && cmd.GroupID == "" {
			t.Errorf("%s is not described, or in no group", cmd.CommandPath())
		}
	}
	walk(newRoot(&app{}))
	for path := range left {
		t.Errorf("%s is the help of nothing", path)
	}
}

func helpOf(t *testing.T, path ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	a := &app{out: &out, err: &out}
	root := newRoot(a)
	root.SetArgs(append(path, "--help"))
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	b := &app{out: &again, err: &again}
	root = newRoot(b)
	root.SetArgs(append([]string{"help"}, path...))
	if err := root.Execute(); err != nil || again.String() != out.String() {
		t.Errorf("glide help %v (%v) differs from --help:\n%s\n%s", path, err, again.String(), out.String())
	}
	return out.Bytes()
}

// TestContract: the commands of the contract are all there.
func TestContract(t *testing.T) {
	root := newRoot(&app{})
	for _, name := range strings.Fields(`serve create import export ls show rm rename resize set fork snapshot snapshots rollback flush sleep wake
		log diff df cost gc scrub verify uri attach detach stats top events hosts host doctor debug version completion help`) {
		cmd, _, err := root.Find([]string{name})
		if err != nil || cmd.Name() != name {
			t.Errorf("no command %s: %v", name, err)
		}
	}
}
