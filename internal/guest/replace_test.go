package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/programs"
)

// workload is what a guest does to its disk, in functions of the shell: rounds of
// random writes that fio reads back and verifies, and transactions of a
// database, each of which it reports once it is committed.
const workload = `
cd /srv
fio_round() { # a file, and more options
	file=$1
	shift
	fio --name=w --filename=$file --size=6m --rw=randwrite --bsrange=4k-64k --ioengine=libaio --direct=1 --iodepth=8 --fsync=16 \
		--verify=crc32c --verify_fatal=1 --do_verify=1 "$@" >fio.out 2>&1 || { cat fio.out; echo "fio failed"; return 1; }
}
fio_rounds() { # until there is a file named stop
	n=0
	while [ ! -e stop ]; do
		fio_round file
		n=$((n + 1))
	done
	echo "fio rounds $n"
}
transactions() { # from, to
	i=$1
	while [ $i -le $2 ]; do
		echo "begin; insert into t values($i, randomblob(1500)); update c set n = n + 1; commit; select 'committed ' || $i;"
		i=$((i + 1))
	done | sqlite3 -bail -cmd 'pragma synchronous = full' db
}
database() { sqlite3 db 'pragma integrity_check; select count(*), max(i), (select n from c) from t'; }
`

// survive works while its daemon is replaced, and then until it is killed. While
// it is replaced the guest's own NBD client has a disk there, too, over TCP.
const survive = workload + `
/run/glide/nbdkeep 10.0.2.2:PORT data 2>/run/keep &
keeper=$!
until [ "$(cat /sys/block/nbd0/size)" != 0 ]; do sleep 0.1; done
mkfs.ext4 -q /dev/nbd0
mkdir data
mount /dev/nbd0 data
(cd data && fio_rounds) &
data=$!
sqlite3 db 'pragma journal_mode = wal; create table t(i integer primary key, x blob); create table c(n integer); insert into c values(0)'
fio_rounds &
fio=$!
transactions 1 600
touch stop data/stop
wait $fio
wait $data
umount data
kill $keeper
fsck.ext4 -f -n /dev/nbd0 >/run/fsck || { cat /run/fsck; exit 1; }
nbd-client -d /dev/nbd0 >/dev/null
echo "database $(database | tr '\n' ' ')"
fio_round kept
sync -f .
rm stop
fio_rounds &
transactions 601 1000000
`

// afterwards looks at what is left.
const afterwards = workload + `
echo "database $(database | tr '\n' ' ')"
fio_round kept --verify_only=1
fio_round file
echo "fio is content"
`

// TestDaemonIsReplaced: a guest whose root disk is a volume works on while the
// daemon is killed, stopped and started, and replaced by another program, and gets
// no error. Then guest and daemon are killed together, which is a loss of power
// for the guest; what it had committed is there.
func TestDaemonIsReplaced(t *testing.T) {
	im := build(t, "fio", "sqlite3", "systemd")
	t.Parallel()
	port := strconv.Itoa(freePort(t))
	d := newDaemon(t, "--nbd", "tcp:127.0.0.1:"+port)
	upgraded := filepath.Join(d.dir, "glide-next")
	copyFile(t, d.bin, upgraded)
	d.start()
	d.do("import", im.Path, "root")
	d.do("create", "data", "--size", "64M")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	vm := VM{
		Kernel: im.Kernel, Initrd: im.Initrd, Disk: d.do("uri", "root"), Reconnect: time.Minute, Net: true,
		Files: map[string]string{keeper: self}, Script: strings.ReplaceAll(survive, "PORT", port), Timeout: 4 * time.Minute,
	}
	ctx, powerLoss := context.WithCancel(t.Context())
	defer powerLoss()
	began := time.Now()
	vm.Line = func(line string) {
		said := func() { t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), line) }
		switch line {
		case "committed 100":
			said()
			d.end(syscall.SIGKILL)
			d.start()
		case "committed 250":
			said()
			d.end(syscall.SIGTERM)
			d.start()
		case "committed 400":
			said()
			d.end(syscall.SIGTERM)
			d.bin = upgraded
			d.start()
		case "committed 700":
			said()
			powerLoss()
			d.end(syscall.SIGKILL)
		default:
			if !strings.HasPrefix(line, "committed ") {
				said()
			}
		}
	}
	r, err := Boot(ctx, vm)
	if !errors.Is(err, context.Canceled) || !strings.Contains(r.Output, "database ok 600|600|600 \n") || strings.Contains(r.Output, "fio failed") {
		t.Fatalf("%v\n%s", err, r.Output)
	}
	committed := lastCommitted(t, r.Output)

	d.start()
	vm.Script, vm.Line, vm.Files = afterwards, nil, nil
	r, err = Boot(t.Context(), vm)
	if err != nil {
		t.Fatalf("after the loss of power: %v\n%s", err, r.Output)
	}
	var count, last, counted int
	if _, err := fmt.Sscanf(r.Output, "database ok %d|%d|%d", &count, &last, &counted); err != nil || count != last || count != counted || count < committed {
		t.Errorf("%d transactions were committed before the loss of power, afterwards: %s", committed, r.Output)
	}
	if !strings.HasSuffix(r.Output, "fio is content\n") {
		t.Errorf("fio: %s", r.Output)
	}
	t.Logf("%v: %d were reported; %s", time.Since(began).Round(time.Millisecond), committed, r.Output)
	checkDisk(t, d, "root")
}

// lastCommitted is the number of the last transaction that a guest reported.
func lastCommitted(t *testing.T, output string) (n int) {
	t.Helper()
	i := strings.LastIndex(output, "\ncommitted ")
	if _, err := fmt.Sscanf(output[i+1:], "committed %d\n", &n); i < 0 || err != nil {
		t.Fatalf("no transaction was reported: %s", output)
	}
	return n
}

// checkDisk checks the file system of a volume that nobody uses.
func checkDisk(t *testing.T, d *daemon, volume string) {
	t.Helper()
	file := filepath.Join(d.dir, "exported")
	d.do("verify", volume)
	d.do("export", volume, file)
	out, err := exec.Command(programs.Need(t, "e2fsck"), "-f", "-n", file).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}
