//go:build unix

package private

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// identity is whom the server's programs run as.
type identity struct {
	name string
	// uid and gid own the server's files.
	uid, gid int
	attr     *syscall.SysProcAttr
}

// command is a program of the server, apart from the terminal's process group.
func (w identity) command(ctx context.Context, name string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, arguments...)
	attr := syscall.SysProcAttr{}
	if w.attr != nil {
		attr = *w.attr
	}
	attr.Setsid = true
	command.SysProcAttr = &attr
	command.Env = environment()
	// The caller's directory may be closed to this identity.
	command.Dir = "/"
	return command
}

func (w identity) own(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, w.uid, w.gid)
}

// ownSocketDir makes the directory whose closed door is the server's only lock. In a temporary directory that all users
// share, somebody else may have made it first; then it must not be used.
func (w identity) ownSocketDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() && int(stat.Uid) != w.uid {
		return fmt.Errorf("%s is not ours; remove it, or set TMPDIR to a directory of your own", path)
	}
	if err := w.own(path); err != nil {
		return err
	}
	return os.Chmod(path, 0o700) //nolint:gosec // a directory needs its x bit
}

// chooseIdentity decides for root whom the server runs as; everybody else runs it as themselves. A cluster's owner is the
// choice of its first start: files of another owner would be out of the server's reach.
func chooseIdentity(ctx context.Context, dir, data, bin string) (identity, error) {
	if os.Geteuid() != 0 {
		return identity{name: "self", uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	if info, err := os.Stat(data); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return switched("uid "+strconv.Itoa(int(stat.Uid)), int(stat.Uid), int(stat.Gid)), nil
		}
		return namespaced(ctx, bin)
	}
	for _, name := range []string{"postgres", "nobody"} {
		uid, gid, err := lookup(name)
		if err == nil && reachable(dir, uid, gid) && reachable(bin, uid, gid) {
			return switched(name, uid, gid), nil
		}
	}
	who, err := namespaced(ctx, bin)
	if err != nil {
		return identity{}, fmt.Errorf("PostgreSQL refuses to run as root; run as another user, or use a directory that the user postgres or nobody may enter: %w", err)
	}
	return who, nil
}

func switched(name string, uid, gid int) identity {
	return identity{name: name, uid: uid, gid: gid, attr: &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
	}}
}

func lookup(name string) (uid, gid int, err error) {
	account, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(account.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(account.Gid)
	return uid, gid, err
}

// reachable tells whether a user may enter path and every directory above it, by the mode bits.
func reachable(path string, uid, gid int) bool {
	for {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false
		}
		enter := fs.FileMode(0o001)
		switch {
		case int(stat.Uid) == uid:
			enter = 0o100
		case int(stat.Gid) == gid:
			enter = 0o010
		}
		if info.Mode()&enter == 0 {
			return false
		}
		parent := filepath.Dir(path)
		if parent == path {
			return true
		}
		path = parent
	}
}
