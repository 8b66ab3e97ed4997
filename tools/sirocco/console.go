package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// console is everything a command may touch of the machine it runs on.
type console struct {
	in       io.Reader
	out, err io.Writer
	// live says that err is a terminal, where a line can be written over.
	live   bool
	getenv func(string) string
	// prompt asks for a line that the terminal does not show; nil when in is no terminal.
	prompt func(ctx context.Context, text string) ([]byte, error)
	// cacheDir keeps administrator tokens; empty for nowhere.
	cacheDir string
	// owner names the person in the keys that are made for them.
	owner string
	now   func() time.Time
}

func systemConsole() console {
	c := console{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, owner: currentOwner(), now: time.Now}
	if dir, err := os.UserConfigDir(); err == nil {
		c.cacheDir = filepath.Join(dir, "sirocco")
	}
	if terminal(os.Stdin) {
		c.prompt = unseen
	}
	if info, err := os.Stderr.Stat(); err == nil {
		c.live = info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	return c
}

func currentOwner() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if name == "" {
		name = "operator"
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return name + "@" + host
}

func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), readTerminal)
	return err == nil
}

// unseen asks for a line on the terminal, whose echo is off meanwhile. It is on again for a person who presses Ctrl-C:
// the read goes on then, for what is left of the process.
func unseen(ctx context.Context, text string) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	before, err := unix.IoctlGetTermios(fd, readTerminal)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, writeTerminal, &silent); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	defer func() {
		_ = unix.IoctlSetTermios(fd, writeTerminal, before)
		fmt.Fprintln(os.Stderr)
	}()
	fmt.Fprint(os.Stderr, text)
	type outcome struct {
		line []byte
		err  error
	}
	read := make(chan outcome, 1)
	go func() {
		line, err := bufio.NewReader(os.Stdin).ReadBytes('\n')
		read <- outcome{line, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got := <-read:
		if got.err != nil {
			return nil, fmt.Errorf("terminal: %w", got.err)
		}
		return got.line, nil
	}
}
