package guest

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript []byte

//go:embed stage2.sh
var stage2Script []byte

// modules are what the guest may need; what they depend on is looked up. Those
// that are built into the kernel are skipped.
var modules = []string{"virtio_pci", "virtio_blk", "ext4", "virtio_net", "nbd"}

// findKernel returns the newest cloud kernel that is installed, and its release.
func findKernel() (path, release string, err error) {
	found, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	slices.SortFunc(found, func(a, b string) int {
		x, errX := os.Stat(a)
		y, errY := os.Stat(b)
		if errX != nil || errY != nil {
			return strings.Compare(b, a)
		}
		return y.ModTime().Compare(x.ModTime())
	})
	for _, f := range found {
		release = strings.TrimPrefix(filepath.Base(f), "vmlinuz-")
		if _, err := os.Stat(filepath.Join("/lib/modules", release, "modules.dep")); err == nil {
			return f, release, nil
		}
	}
	return "", "", fmt.Errorf("guest: no kernel /boot/vmlinuz-*-cloud-amd64 with modules: install linux-image-cloud-amd64")
}

// initramfs makes the compressed archive for a kernel.
func initramfs(release string) ([]byte, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("guest: no busybox: install busybox-static")
	}
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	var a archive
	a.add("bin", modeDir, nil)
	a.add("bin/busybox", modeExec, shell)
	a.add("init", modeExec, initScript)
	a.add("stage2", modeExec, stage2Script)
	a.add("modules", modeDir, nil)

	dir := filepath.Join("/lib/modules", release)
	deps, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	files, err := loadOrder(string(deps), string(builtin), modules)
	if err != nil {
		return nil, fmt.Errorf("guest: kernel %s: %w", release, err)
	}
	var order strings.Builder
	for _, f := range files {
		b, err := readModule(filepath.Join(dir, f))
		if err != nil {
			return nil, err
		}
		name := moduleName(f) + ".ko"
		a.add("modules/"+name, modeFile, b)
		order.WriteString(name + "\n")
	}
	a.add("modules/order", modeFile, []byte(order.String()))

	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(a.bytes()); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// loadOrder returns the files of the modules wanted and of all they depend on,
// each after what it needs. deps and builtin are modules.dep and modules.builtin.
func loadOrder(deps, builtin string, want []string) ([]string, error) {
	type module struct {
		file string
		need []string
	}
	byName := map[string]module{}
	for line := range strings.Lines(deps) {
		file, need, ok := strings.Cut(line, ":")
		if ok {
			byName[moduleName(file)] = module{file, strings.Fields(need)}
		}
	}
	inKernel := map[string]bool{}
	for _, f := range strings.Fields(builtin) {
		inKernel[moduleName(f)] = true
	}
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] || inKernel[name] {
			return nil
		}
		seen[name] = true
		m, ok := byName[name]
		if !ok {
			return fmt.Errorf("no module %s", name)
		}
		for _, f := range m.need {
			if err := visit(moduleName(f)); err != nil {
				return err
			}
		}
		order = append(order, m.file)
		return nil
	}
	for _, name := range want {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is the name of the module in a file like kernel/fs/ext4/ext4.ko.xz.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule reads a module, decompressed.
func readModule(file string) ([]byte, error) {
	tool := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(file)]
	if tool == "" {
		return os.ReadFile(file)
	}
	b, err := exec.Command(tool, "-dc", file).Output()
	if err != nil {
		return nil, fmt.Errorf("guest: %s -dc %s: %w", tool, file, err)
	}
	return b, nil
}
