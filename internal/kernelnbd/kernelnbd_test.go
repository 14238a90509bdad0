package kernelnbd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
)

// TestRequestBytes pins a message, as a little-endian kernel has it.
func TestRequestBytes(t *testing.T) {
	if native.Uint16([]byte{1, 0}) != 1 {
		t.Log("not a little-endian machine: the bytes are others")
		return
	}
	a := attrs(nil).u64(attrSizeBytes, 1<<30).text(attrBackend, "glide").u32(attrIndex, 7).nest(attrSockets, sockets(9))
	want := "44000000" + "1c00" + "0500" + "03000000" + "00000000" + // length, family, request and ack, number, port
		"01" + "01" + "0000" + // connect, version 1
		"0c000200" + "0000004000000000" +
		"0a000a00" + "676c69646500" + "0000" +
		"08000100" + "07000000" +
		"10000780" + "0c000180" + "08000100" + "09000000"
	if got := hex.EncodeToString(request(0x1c, 3, cmdConnect, a)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// message is what the kernel would send.
func message(typ uint16, seq uint32, body []byte) []byte {
	b := native.AppendUint32(nil, uint32(headerSize+len(body)))
	b = native.AppendUint16(b, typ)
	b = native.AppendUint16(b, 0)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 1234)
	return append(b, body...)
}

func verdict(errno int32) []byte {
	return append(native.AppendUint32(nil, uint32(-errno)), make([]byte, headerSize)...)
}

func TestReplies(t *testing.T) {
	reply := append([]byte{cmdConnect, 1, 0, 0}, attrs(nil).u32(attrIndex, 5)...)
	var got []byte
	each := func(a attrs) error { got = append(got, a...); return nil }
	b := append(message(0x1c, 3, reply), message(unix.NLMSG_ERROR, 2, verdict(int32(unix.EIO)))...) // the latter is not ours
	if done, err := replies(b, 3, each); done || err != nil || !bytes.Equal(got, reply[4:]) {
		t.Errorf("a reply: %v %v %x", done, err, got)
	}
	if done, err := replies(message(unix.NLMSG_ERROR, 3, verdict(0)), 3, each); !done || err != nil {
		t.Errorf("well done: %v %v", done, err)
	}
	if done, err := replies(message(unix.NLMSG_ERROR, 3, verdict(int32(unix.EBUSY))), 3, each); !done || !errors.Is(err, unix.EBUSY) {
		t.Errorf("busy: %v %v", done, err)
	}
	for _, bad := range [][]byte{{1}, make([]byte, headerSize), message(unix.NLMSG_ERROR, 3, nil), message(0x1c, 3, nil)} {
		if done, err := replies(bad, 3, each); !done || !errors.Is(err, errTruncated) {
			t.Errorf("%x: %v %v", bad, done, err)
		}
	}
}

func FuzzReplies(f *testing.F) {
	f.Add(message(0x1c, 3, append([]byte{cmdStatus, 1, 0, 0}, attrs(nil).nest(attrDevices, sockets(9))...)))
	f.Add(message(unix.NLMSG_ERROR, 3, verdict(1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var walk func(a attrs) error
		depth := 0
		walk = func(a attrs) error {
			depth++
			defer func() { depth-- }()
			return a.each(func(_ uint16, v []byte) error {
				if depth < 4 {
					_ = walk(attrs(v))
				}
				return nil
			})
		}
		_, _ = replies(b, 3, walk)
	})
}

func TestPaths(t *testing.T) {
	for _, n := range []int{0, 1, 15, maxIndex} {
		if got, err := ParsePath(Path(n)); err != nil || got != n {
			t.Errorf("%d: %d, %v", n, got, err)
		}
	}
	for _, s := range []string{"", "nbd0", "/dev/nbd", "/dev/nbd-1", "/dev/nbd+1", "/dev/nbd00", "/dev/nbd0p1", "/dev/nbd1048576", "/dev/nbd99999999999999999999"} {
		if _, err := ParsePath(s); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestConnected: a device is known by its identifier, or by who made it in which boot.
func TestConnected(t *testing.T) {
	sys, proc := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		sys + "/nbd0/pid": "12\n", sys + "/nbd0/backend": "glide:h/v\n",
		sys + "/nbd3/pid": "77\n", sys + "/nbd4/size": "0\n", sys + "/nbd0p1/pid": "1\n", sys + "/sda/pid": "1\n",
		proc + "/sys/kernel/random/boot_id": "b00t\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := map[int]string{0: "glide:h/v", 3: "pid 77 boot b00t"}
	if got := connected(sys, proc); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// TestKernelWithoutNBD asks the kernel that runs the tests. With the module it
// lists its devices; without it the error says what to do. (That devices work is
// tested in a VM, by package guest.)
func TestKernelWithoutNBD(t *testing.T) {
	detail, err := Kernel{}.Check()
	if err == nil && strings.Contains(detail, "devices") {
		return
	}
	if errs.KindOf(err) != errs.Unsupported || !strings.Contains(err.Error(), "nbd") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q, %v", detail, err)
	}
}
