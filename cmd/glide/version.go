package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// formats lists the newest versions of the formats that this program writes to disks and
// stores. A test compares them with what it writes.
var formats = map[string]int{"boot-list": 1, "commit": 4, "host": 1, "map-page": 2, "pack": 1, "pin": 2, "slab": 2, "wal": 1}

// versionInfo is what version prints in JSON.
type versionInfo struct {
	Version string         `json:"version"`
	Go      string         `json:"go"`
	OS      string         `json:"os"`
	Arch    string         `json:"arch"`
	Formats map[string]int `json:"formats"`
}

func newVersion(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		Long:  "Prints the version of this program, what it was built with, and the formats that it writes.",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{version, runtime.Version(), runtime.GOOS, runtime.GOARCH, formats}
			return a.print(v, func(w io.Writer) error {
				var list []string
				for _, f := range slices.Sorted(maps.Keys(formats)) {
					list = append(list, fmt.Sprintf("%s %d", f, formats[f]))
				}
				return say(w, "glide %s (%s, %s/%s)\nformats: %s", v.Version, v.Go, v.OS, v.Arch, strings.Join(list, ", "))
			})
		},
	}
	return a.jsonFlag(cmd)
}
