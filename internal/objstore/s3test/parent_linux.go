package s3test

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the server even if the test is killed.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
