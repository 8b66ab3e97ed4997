package private

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
)

// namespaced runs the server as root, whose id is another one inside a user namespace. Its files stay root's, so it works
// below directories that are closed to all others; outside its namespace the server has none of root's privileges.
func namespaced(ctx context.Context, bin string) (identity, error) {
	// initdb looks its user up by id, so the id inside must be a known one.
	inside := 65534
	for _, name := range []string{"postgres", "nobody"} {
		if uid, _, err := lookup(name); err == nil && uid != 0 {
			inside = uid
			break
		}
	}
	who := identity{name: "root in a user namespace", attr: &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: inside, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: inside, HostID: 0, Size: 1}},
	}}
	// Containers and hardened kernels may forbid it; only trying tells.
	if output, err := who.command(ctx, filepath.Join(bin, "postgres"), "--version").CombinedOutput(); err != nil {
		return identity{}, fmt.Errorf("in a user namespace: %w %s", err, strings.TrimSpace(string(output)))
	}
	return who, nil
}
