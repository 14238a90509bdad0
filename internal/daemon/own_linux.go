package daemon

import (
	"os/exec"
	"syscall"
)

// own makes a process ours alone: it gets no signal from the terminal, and it
// does not outlive us.
func own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
