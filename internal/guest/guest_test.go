package guest

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMirrorIsTheMachines(t *testing.T) {
	list := `
# deb http://commented.example/debian bookworm main
deb-src http://src.example/debian bookworm main
deb http://other.example/debian bookworm-updates main
deb [arch=amd64 signed-by=/k.gpg] http://right.example/debian bookworm contrib main # yes
`
	if m, ok := parseList(list, "bookworm"); !ok || m != (mirror{"http://right.example/debian", "bookworm", "/k.gpg"}) {
		t.Errorf("one-line format: %+v %v", m, ok)
	}
	stanzas := `Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src deb
# a comment
URIs: cdrom:[x]/ https://right.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/k.gpg
`
	if m, ok := parseDeb822(stanzas, "bookworm"); !ok || m != (mirror{"https://right.example/debian", "bookworm", "/usr/share/keyrings/k.gpg"}) {
		t.Errorf("stanzas: %+v %v", m, ok)
	}
	if _, ok := parseDeb822(stanzas, "trixie"); ok {
		t.Error("found a suite that is not there")
	}
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	deps := `kernel/net/virtio_net.ko.xz: kernel/net/net_failover.ko.xz kernel/virtio/virtio-ring.ko.xz
kernel/net/net_failover.ko.xz: kernel/net/failover.ko.xz
kernel/net/failover.ko.xz:
kernel/virtio/virtio-ring.ko.xz:
`
	got, err := loadOrder(deps, "kernel/fs/ext4/ext4.ko\n", []string{"ext4", "virtio_net", "failover"})
	want := []string{
		"kernel/net/failover.ko.xz", "kernel/net/net_failover.ko.xz", "kernel/virtio/virtio-ring.ko.xz", "kernel/net/virtio_net.ko.xz",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := loadOrder(deps, "", []string{"nothing"}); err == nil {
		t.Error("a module that is missing is no error")
	}
}

func TestListenTellsMarkersFromOutput(t *testing.T) {
	said := "noise\r\n@glide init\r\nfirst\r\nsecond, no end of line\n@glide exit 3\n@glide off\n"
	r, off, dead := listen(strings.NewReader(said), time.Now().Add(-time.Second), nil)
	if r.Exit != 3 || !off || dead != "" || r.Init < time.Second || r.Output != "first\nsecond, no end of line\n" {
		t.Errorf("%+v %v %q", r, off, dead)
	}
	if _, _, dead := listen(strings.NewReader("@glide dead no disk\n"), time.Now(), nil); dead != "no disk" {
		t.Errorf("dead: %q", dead)
	}
}

func TestLabel(t *testing.T) {
	head := make([]byte, 4096)
	if HasLabel(head) || HasLabel(nil) {
		t.Error("zeros have the label")
	}
	copy(head[1024+0x38:], "\x53\xef")
	copy(head[1024+0x78:], fsLabel)
	if !HasLabel(head) {
		t.Error("the label is not found")
	}
}

func TestDiskOptions(t *testing.T) {
	for _, c := range []struct {
		vm   VM
		want string
	}{
		{VM{Disk: "/a,b", Snapshot: true}, "-drive if=none,id=root,format=raw,cache=writeback,discard=unmap,file=/a,,b,snapshot=on -device virtio-blk-pci,drive=root"},
		{
			VM{Disk: "nbd+unix:///t/v?socket=/run/x.sock", Reconnect: time.Minute},
			"-blockdev driver=nbd,node-name=net,server.type=unix,server.path=/run/x.sock,export=t/v,reconnect-delay=60,open-timeout=60,discard=unmap " +
				"-blockdev driver=raw,node-name=root,file=net,discard=unmap -device virtio-blk-pci,drive=root,write-cache=on",
		},
		{
			VM{Disk: "nbd://h:1/v", Reconnect: time.Second},
			"-blockdev driver=nbd,node-name=net,server.type=inet,server.host=h,server.port=1,export=v,reconnect-delay=1,open-timeout=1,discard=unmap " +
				"-blockdev driver=raw,node-name=root,file=net,discard=unmap -device virtio-blk-pci,drive=root,write-cache=on",
		},
	} {
		if got := strings.Join(disk(c.vm), " "); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
