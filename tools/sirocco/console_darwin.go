package main

import "golang.org/x/sys/unix"

// The requests that read and write a terminal's settings.
const (
	readTerminal  = unix.TIOCGETA
	writeTerminal = unix.TIOCSETA
)
