package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// serve runs the sample on free ports and returns its HTTP and gRPC address.
func serve(t *testing.T) (http1, grpc2 string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	addresses := make(chan string, 2)
	result := make(chan error, 1)
	env := map[string]string{"HOST": "127.0.0.1", "PORT": "0", "GRPC_PORT": "00"} // "0" alone would mean none
	go func() {
		result <- run(ctx, func(name string) string { return env[name] }, func() {}, func(a string) { addresses <- a })
	}()
	t.Cleanup(cancel)
	next := func() string {
		select {
		case a := <-addresses:
			return a
		case err := <-result:
			require.NoError(t, err)
		case <-time.After(time.Minute):
		}
		t.Fatal("the sample does not listen")
		return ""
	}
	http1, grpc2 = next(), next()
	return http1, grpc2, func() error { cancel(); return <-result }
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func request(t *testing.T, message string, repeats int32, delay float32) (*dynamicpb.Message, schema) {
	t.Helper()
	_, s, err := newSchema()
	require.NoError(t, err)
	m := dynamicpb.NewMessage(s.request)
	fields := s.request.Fields()
	m.Set(fields.ByName("message"), protoreflect.ValueOfString(message))
	if repeats >= 0 {
		m.Set(fields.ByName("repeats"), protoreflect.ValueOfInt32(repeats))
	}
	if delay != 0 {
		m.Set(fields.ByName("delay"), protoreflect.ValueOfFloat32(delay))
	}
	return m, s
}

func text(s schema, m *dynamicpb.Message) string {
	return m.Get(s.reply.Fields().ByName("message")).String()
}

func TestHTTPAndGRPCOnEitherPort(t *testing.T) {
	t.Parallel()
	web, native, stop := serve(t)
	resp, err := http.Post("http://"+web+"/echo", "application/json", strings.NewReader(`{"message":"hi","repeats":2}`))
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "hihi", string(body))

	for _, address := range []string{web, native} {
		conn := dial(t, address)
		for _, c := range []struct {
			repeats int32
			want    string
		}{{3, "ababab"}, {0, ""}, {-1, "ab"}} { // -1: absent
			in, s := request(t, "ab", c.repeats, 0)
			out := dynamicpb.NewMessage(s.reply)
			require.NoError(t, conn.Invoke(t.Context(), "/Echo/EchoMessage", in, out))
			require.Equal(t, c.want, text(s, out))
		}
		health, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		require.NoError(t, err)
		require.Equal(t, healthv1.HealthCheckResponse_SERVING, health.GetStatus())
		require.NoError(t, conn.Close())
	}
	http.DefaultClient.CloseIdleConnections()
	require.NoError(t, stop())
}

func TestStreaming(t *testing.T) {
	t.Parallel()
	_, native, _ := serve(t)
	stream, err := dial(t, native).NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/Echo/EchoMessageStreaming")
	require.NoError(t, err)
	for _, message := range []string{"one", "two"} {
		in, s := request(t, message, 2, 0.001)
		require.NoError(t, stream.SendMsg(in))
		for range 2 {
			out := dynamicpb.NewMessage(s.reply)
			require.NoError(t, stream.RecvMsg(out))
			require.Equal(t, message, text(s, out))
		}
	}
	require.NoError(t, stream.CloseSend())
	_, s := request(t, "", 0, 0)
	require.ErrorIs(t, stream.RecvMsg(dynamicpb.NewMessage(s.reply)), io.EOF)
}

func TestBadRequestsAreInvalid(t *testing.T) {
	t.Parallel()
	_, native, _ := serve(t)
	conn := dial(t, native)
	for name, c := range map[string]struct {
		repeats int32
		delay   float32
	}{"repeats": {1 << 30, 0}, "delay": {1, -1}, "long": {1, 1e9}} {
		in, s := request(t, "abcd", c.repeats, c.delay)
		err := conn.Invoke(t.Context(), "/Echo/EchoMessage", in, dynamicpb.NewMessage(s.reply))
		require.Equal(t, codes.InvalidArgument, status.Code(err), name)
	}
}

func TestReflectionTellsTheSchema(t *testing.T) {
	t.Parallel()
	_, native, _ := serve(t)
	stream, err := reflectionv1.NewServerReflectionClient(dial(t, native)).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "Echo"},
	}))
	answer, err := stream.Recv()
	require.NoError(t, err)
	require.Len(t, answer.GetFileDescriptorResponse().GetFileDescriptorProto(), 1)
	require.NoError(t, stream.CloseSend())
}

func TestAnswersInFlightBeforeItEnds(t *testing.T) {
	t.Parallel()
	web, _, stop := serve(t)
	body, lines := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+web+"/ping-pong", body)
	require.NoError(t, err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	// New connections are refused while the one in flight goes on.
	require.Eventually(t, func() bool {
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := fresh.Get("http://" + web + "/health")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	}, time.Minute, 10*time.Millisecond)
	_, err = io.WriteString(lines, "ping\n")
	require.NoError(t, err)
	answer := make([]byte, 5)
	_, err = io.ReadFull(resp.Body, answer)
	require.NoError(t, err)
	require.Equal(t, "pong\n", string(answer))
	require.NoError(t, lines.Close())
	require.NoError(t, <-ended)
}

func TestPorts(t *testing.T) {
	t.Parallel()
	for want, env := range map[string]map[string]string{
		"8001": {},
		"9001": {"GRPC_PORT": "9001", "PORT": "9000"},
	} {
		require.Equal(t, want, grpcPort(func(name string) string { return env[name] }))
	}
	require.Empty(t, grpcPort(func(name string) string { return map[string]string{"PORT": "9000"}[name] }))
	require.Empty(t, grpcPort(func(name string) string { return map[string]string{"GRPC_PORT": "0"}[name] }))
}
