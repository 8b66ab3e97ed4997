package process

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

func logPath(dir string) string { return filepath.Join(dir, "log") }

// rotateLogs bounds the log files until the driver is closed.
func (d *Driver) rotateLogs() {
	ticker := d.clock.NewTicker(logCheckEvery, "process", "logs")
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-d.running.Done():
			return
		}
		d.mu.Lock()
		dirs := make([]string, 0, len(d.instances))
		for _, i := range d.instances {
			dirs = append(dirs, i.handle.Dir)
		}
		d.mu.Unlock()
		for _, dir := range dirs {
			_ = rotate(dir, d.logBytes/2)
		}
	}
}

// rotate copies a log that is over limit to its predecessor and empties it. The
// instance keeps its open file and, because that appends, goes on at the start.
// What is written between the copy and the truncation is lost; a pipe through
// the agent would lose nothing but could not outlive the agent.
func rotate(dir string, limit int64) error {
	log, err := os.OpenFile(logPath(dir), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil || info.Size() <= limit {
		return err
	}
	if _, err := log.Seek(-limit, io.SeekEnd); err != nil {
		return err
	}
	older, err := os.OpenFile(logPath(dir)+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(older, log, limit)
	return errors.Join(err, older.Close(), log.Truncate(0))
}

// tailBytes bounds what a tail reads.
const tailBytes = 1 << 20

// tail returns the last lines of the log, from its predecessor too when it was
// emptied not long ago.
func tail(dir string, lines int) ([]string, error) {
	text, err := tailOf(logPath(dir))
	if err != nil {
		return nil, err
	}
	out := drivers.LastLines(text, lines)
	if len(out) < lines {
		if older, err := tailOf(logPath(dir) + ".1"); err == nil {
			out = drivers.LastLines(older+"\n"+text, lines)
		}
	}
	return out, nil
}

func tailOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.NewSectionReader(file, max(0, info.Size()-tailBytes), tailBytes))
	return string(text), err
}
