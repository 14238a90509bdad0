package guest

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/programs"
)

// systemdScript installs the unit as it stands, and does to the service what
// operators and bad days do. Each step says how long it took.
const systemdScript = `
unit=glide.service
mkdir -p /usr/local/bin /etc/systemd/system/$unit.d
cp /run/glide/glide /usr/local/bin/glide
install -m 644 /run/glide/$unit /etc/systemd/system/
settings() { # level, and more lines
	printf 'nbd = ["unix:/run/glide/nbd.sock"]\nmemory = "32M"\ncache = "64M"\nwal-limit = "512M"\nlog-level = "%s"\n%s\n' "$1" "${2-}" >/etc/glide.toml
}
dropin() { # lines of the unit's [Service], none: no drop-in
	if [ $# = 0 ]; then rm /etc/systemd/system/$unit.d/test.conf; else printf '[Service]\n'"$1" >/etc/systemd/system/$unit.d/test.conf; fi
	systemctl daemon-reload
}
get() { systemctl show -P $1 $unit; } # a property
is() { # property, value
	[ "$(get $1)" = "$2" ] || { echo "$1 is $(get $1), not $2"; exit 1; }
}
soon() { # a command that is to succeed within a minute
	i=0
	until "$@" >/dev/null 2>&1; do
		i=$((i + 1))
		[ $i -lt 300 ] || { echo "does not come true: $*"; exit 1; }
		sleep 0.2
	done
}
restarted() { [ $(get NRestarts) -gt $restarts ] && [ "$(get SubState)" = running ]; }
logged() { journalctl -q -b -o cat -u $unit --grep "$1" | grep -q .; } # a pattern
uptime() { cut -d' ' -f1 /proc/uptime; }
step() { # what was done since the last
	now=$(uptime)
	echo "$* ($(echo "$last $now" | awk '{ printf "%.1f", $2 - $1 }') s)"
	last=$(uptime) did=$*
}
served() { # the volumes are there, and so are their devices
	glide ls | grep -q vol
	glide show vol --json | grep -q '"device": "/dev/nbd0"'
	[ "$(head -c 6 /dev/nbd0)" = guests ]
	grep -q file /mnt/f
}
again() { # how the daemon is to end, and what systemd is to call that
	restarts=$(get NRestarts)
	was=$(get MainPID)
	eval "$1"
	soon restarted
	[ $was != $(get MainPID) ]
	served
	logged "Failed with result '$2'"
}
refused() { # a command that has to fail
	if "$@" >/run/said 2>&1; then echo "not refused: $*"; exit 1; fi
}
trap 'e=$?; set +e; [ $e = 0 ] || { echo "failed after: $did"; systemctl status --no-pager -n0 $unit; journalctl -q -b -o short-monotonic --no-pager -u $unit | tail -40; }; exit $e' EXIT
last=$(uptime) did=nothing

wrong=$(systemd-analyze verify $unit 2>&1) && [ -z "$wrong" ] || { echo "the unit: $wrong"; exit 1; }
settings info
systemctl enable -q $unit
step installed

systemctl start $unit
glide ls >/run/ls
is SubState running
is NRestarts 0
is StatusText "serving at unix:/run/glide/nbd.sock"
echo "limits: $(grep 'open files' /proc/$(get MainPID)/limits), score $(cat /proc/$(get MainPID)/oom_score_adj)"
grep -q 'open files  *1048576  *1048576' /proc/$(get MainPID)/limits
[ "$(cat /proc/$(get MainPID)/oom_score_adj)" = -900 ]
[ "$(stat -c %a /var/lib/glide)" = 700 ]
step "started, and serves at once"

glide create vol --size 64M >/dev/null
glide create disk --size 64M >/dev/null
[ "$(glide attach vol --timeout 2s)" = /dev/nbd0 ]
[ "$(glide attach disk --timeout 2s)" = /dev/nbd1 ]
printf guests | dd of=/dev/nbd0 conv=fsync status=none
mkfs.ext4 -q /dev/nbd1
mount /dev/nbd1 /mnt
echo file >/mnt/f
sync -f /mnt
served
step "devices are attached, one is mounted"

was=$(get MainPID)
settings debug
systemctl reload $unit
soon logged 'all files were read again'
soon is SubState running
is MainPID $was
settings info
step reloaded

rm /run/glide/nbd.sock /var/lib/glide/api.sock
soon glide ls
soon test -S /run/glide/nbd.sock
is NRestarts 0
step "sockets came back"

systemctl kill -s KILL systemd-journald.service
soon systemctl is-active -q systemd-journald.service
glide create other --size 1M >/dev/null
is MainPID $was
is NRestarts 0
step "the reader of its log was killed, it lives"

dropin 'WatchdogSec=10s\n' # of the next one
again 'kill -KILL $was' signal
step "killed, and restarted"

# It hangs. With SIGQUIT comes SIGCONT.
is WatchdogUSec 10s
again 'kill -STOP $was' watchdog
logged '^goroutine '
step "hung, ended by the watchdog, and restarted"

restarts=$(get NRestarts)
systemctl stop $unit
for wrong in nonsense nosuch GLIDE_STOER; do
	case $wrong in
	nonsense) settings info 'nonsense = 1' ;;
	nosuch) dropin 'ExecStart=\nExecStart=/usr/local/bin/glide serve --nosuch\n' ;;
	GLIDE_STOER) echo 'GLIDE_STOER=file:///x' >/etc/glide.env ;;
	esac
	refused systemctl start $unit
	is SubState failed
	is ExecMainStatus 2
	logged "$wrong"
	case $wrong in
	nonsense) settings info ;;
	nosuch) dropin ;;
	GLIDE_STOER) rm /etc/glide.env ;;
	esac
done
sleep 2
is SubState failed
is NRestarts 0
step "wrong settings: it failed, and was not restarted"

glide serve --data /var/lib/glide --memory 32M --cache 64M --wal-limit 512M >/run/other 2>&1 &
other=$!
soon grep -q '^glide: ready' /run/other
restarts=0
refused systemctl start $unit
tried() { [ $(get NRestarts) -ge 2 ]; }
soon tried
logged 'in use by another daemon'
logged 'status=1/FAILURE'
kill $other
wait $other
soon restarted
served
step "another daemon had the data: tried until that was gone"

dir=$(stat -c %i /run/glide)
glide events --follow >/run/events 2>&1 &
umount /mnt
glide detach disk
glide detach vol
step "unmounted and detached"
systemctl stop $unit
is Result success
is ExecMainStatus 0
is SubState dead
[ $dir = $(stat -c %i /run/glide) ]
[ ! -e /run/glide/nbd.sock ]
was=$last
step "stopped, with a client connected"
[ $(echo "$was $last" | awk '{ print ($2 - $1 < 10) }') = 1 ]
refused glide ls
echo "all is well"
`

// TestSystemd runs the unit of this repository in a guest whose first process is
// systemd.
func TestSystemd(t *testing.T) {
	im := build(t, "fio", "sqlite3", "systemd")
	t.Parallel()
	began := time.Now()
	r, err := Boot(t.Context(), VM{
		Kernel: im.Kernel, Initrd: im.Initrd, Disk: im.Path, Snapshot: true, Systemd: true, Memory: 640, Timeout: 6 * time.Minute,
		Files:  map[string]string{"glide": programs.Glide(t), "glide.service": filepath.Join("..", "..", "packaging", "glide.service")},
		Script: systemdScript,
		Line:   func(line string) { t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), line) },
	})
	if err != nil || !strings.HasSuffix(r.Output, "all is well\n") {
		t.Fatalf("%v\n%s", err, r.Output)
	}
	t.Logf("init after %v, off after %v", r.Init, r.Total)
}
