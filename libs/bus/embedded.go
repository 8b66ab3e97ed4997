package bus

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
)

// EmbeddedOptions configure a NATS server inside this process.
type EmbeddedOptions struct {
	// Dir keeps JetStream's files.
	Dir string
	// Host and Port to listen on for other processes; with an empty Host there is no socket at all.
	Host string
	Port int
	Log  *zap.Logger
}

// MaxPayload is the largest message that Sirocco's NATS servers take, in bytes. Management bodies of up to 6 MiB
// must fit (functions-deployments §1.1); invocation bodies are cut into frames far below it.
const MaxPayload = 8 << 20

// StartEmbedded runs nats-server with JetStream on disk and waits until it serves. Stop it with Shutdown and
// WaitForShutdown.
func StartEmbedded(o EmbeddedOptions) (*server.Server, error) {
	opts := &server.Options{
		ServerName: "sirocco",
		DontListen: o.Host == "",
		Host:       o.Host,
		Port:       o.Port,
		JetStream:  true,
		StoreDir:   o.Dir,
		MaxPayload: MaxPayload,
		NoSigs:     true,
		NoLog:      true,
		// The stores live on the same disk as everything else of a single machine; streams carry their own limits.
		JetStreamMaxMemory: 256 << 20,
		JetStreamMaxStore:  64 << 30,
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	s.SetLoggerV2(natsLog{o.Log.Named("nats").Sugar()}, false, false, false)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return nil, errors.New("embedded NATS: not ready after 30 s; see the log above for the reason")
	}
	return s, nil
}

// natsLog passes the server's own log lines to zap, notices as debug so that a quiet start stays quiet.
type natsLog struct{ log *zap.SugaredLogger }

func (l natsLog) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }
func (l natsLog) Warnf(format string, v ...any)   { l.log.Warnf(format, v...) }
func (l natsLog) Fatalf(format string, v ...any)  { l.log.Errorf(format, v...) }
func (l natsLog) Errorf(format string, v ...any)  { l.log.Errorf(format, v...) }
func (l natsLog) Debugf(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l natsLog) Tracef(string, ...any)           {}
