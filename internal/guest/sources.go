package guest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mirror is where the machine gets its own packages from.
type mirror struct {
	url     string
	suite   string
	keyring string // "": debootstrap's default
}

// findMirror reads the machine's release and its package sources.
func findMirror() (mirror, error) {
	suite, err := suiteOf("/etc/os-release")
	if err != nil {
		return mirror{}, err
	}
	files := []string{"/etc/apt/sources.list"}
	for _, ext := range []string{"*.list", "*.sources"} {
		more, _ := filepath.Glob(filepath.Join("/etc/apt/sources.list.d", ext))
		files = append(files, more...)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return mirror{}, err
		}
		parse := parseList
		if strings.HasSuffix(file, ".sources") {
			parse = parseDeb822
		}
		if m, ok := parse(string(b), suite); ok {
			return m, nil
		}
	}
	return mirror{}, fmt.Errorf("guest: no package source for %s (main) in /etc/apt/sources.list or /etc/apt/sources.list.d", suite)
}

// suiteOf returns the code name in an os-release file.
func suiteOf(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"'`), nil
		}
	}
	return "", fmt.Errorf("guest: %s has no VERSION_CODENAME", path)
}

// parseList finds the suite in one-line format: deb [options] URI suite components.
func parseList(text, suite string) (mirror, bool) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		m := mirror{suite: suite}
		rest = strings.TrimSpace(rest)
		if options, after, ok := strings.Cut(strings.TrimPrefix(rest, "["), "]"); ok && strings.HasPrefix(rest, "[") {
			for _, o := range strings.Fields(options) {
				if v, ok := strings.CutPrefix(o, "signed-by="); ok && filepath.IsAbs(v) {
					m.keyring = v
				}
			}
			rest = after
		}
		f := strings.Fields(rest)
		if len(f) >= 3 && usable(f[0]) && f[1] == suite && slices.Contains(f[2:], "main") {
			m.url = f[0]
			return m, true
		}
	}
	return mirror{}, false
}

// parseDeb822 finds the suite in stanzas of "Key: value".
func parseDeb822(text, suite string) (mirror, bool) {
	for _, stanza := range strings.Split(text, "\n\n") {
		field := map[string][]string{}
		key := ""
		s := bufio.NewScanner(strings.NewReader(stanza))
		for s.Scan() {
			line := s.Text()
			if strings.HasPrefix(line, "#") {
				continue
			}
			if k, v, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
				key, line = strings.ToLower(k), v
			}
			field[key] = append(field[key], strings.Fields(line)...)
		}
		if !slices.Contains(field["types"], "deb") || !slices.Contains(field["suites"], suite) ||
			!slices.Contains(field["components"], "main") || slices.Contains(field["enabled"], "no") {
			continue
		}
		i := slices.IndexFunc(field["uris"], usable)
		if i < 0 {
			continue
		}
		m := mirror{url: field["uris"][i], suite: suite}
		if k := field["signed-by"]; len(k) == 1 && filepath.IsAbs(k[0]) {
			m.keyring = k[0]
		}
		return m, true
	}
	return mirror{}, false
}

// usable tells whether debootstrap can fetch from the address.
func usable(uri string) bool {
	return strings.HasPrefix(uri, "http://") || strings.HasPrefix(uri, "https://") || strings.HasPrefix(uri, "file:")
}
