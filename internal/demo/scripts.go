package main

import (
	"fmt"
	"strings"
)

// baseFiles is how many files the first guest writes.
const baseFiles = 8

// writeBase writes files, makes them durable and prints their checksums.
var writeBase = fmt.Sprintf(`
mkdir -p /srv/base /srv/own
for i in $(seq %d); do
	head -c 1M /dev/urandom >/srv/base/$i
	sync /srv/base/$i
done
sync /srv/base
sha256sum /srv/base/*
`, baseFiles)

// look is what a boot does when only the boot is of interest.
const look = `
. /etc/os-release
echo "$PRETTY_NAME, $(dpkg-query -W | wc -l) packages, $(ls /srv/own) is here"
`

// forkFile is the name of the i-th fork's own file.
func forkFile(i int) string { return fmt.Sprintf("fork-%d", i+1) }

// writeOwn checks the base's files, and that no fork has written here, writes
// this fork's file and prints its checksum.
func writeOwn(sums, file string) string {
	return check(sums) + fmt.Sprintf(`
[ -z "$(ls /srv/own)" ]
head -c 2M /dev/urandom >/srv/own/%[1]s
sync /srv/own/%[1]s /srv/own
sha256sum /srv/own/%[1]s
`, file)
}

// checkOwn checks the base's files, the fork's own, and that there is no
// other. Then it writes a file named also, if that is not empty.
func checkOwn(sums, own, file, also string) string {
	s := check(sums+own) + fmt.Sprintf("[ \"$(ls /srv/own)\" = %s ]\n[ $(ls /srv/base | wc -l) = %d ]\n", file, baseFiles)
	if also != "" {
		s += fmt.Sprintf("head -c 2M /dev/urandom >/srv/own/%[1]s\nsync /srv/own/%[1]s /srv/own\n", also)
	}
	return s
}

// check fails the script unless the files have the checksums.
func check(sums string) string {
	return "sha256sum --quiet --strict -c - <<'END'\n" + sums + "END\n"
}

func countLines(s string) int { return strings.Count(s, "\n") }
