package main

import (
	"io"
	"os"
	"os/user"
	"path/filepath"
	"time"
)

// console is everything a command may touch of the machine it runs on.
type console struct {
	in       io.Reader
	out, err io.Writer
	// live says that err is a terminal, where a line can be written over.
	live   bool
	getenv func(string) string
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
