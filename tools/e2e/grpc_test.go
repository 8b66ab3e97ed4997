package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestGRPC calls the sample's Echo service through the gRPC door: unary, in lock-step, by reflection, and wrongly.
//
// Its messages are sent as StringValue, which is the same on the wire: a string in field 1.
func TestGRPC(t *testing.T) {
	p := common(t)
	admin := p.administrator(t)
	tester, err := filepath.Abs(filepath.Join(binDir, "loadtester"))
	require.NoError(t, err)
	admin.must("PUT", "/v2/nvcf/images", nil, body(map[string]any{"reference": "e2e/grpc:1", "command": []string{tester}}))
	request := functionBody("grpc", "e2e/grpc:1")
	request["inferenceUrl"] = "/grpc"
	request["health"] = map[string]any{"protocol": "gRPC", "uri": "/", "port": 8000, "timeout": "PT2S", "expectedStatusCode": 200}
	v := admin.createFrom(request)
	admin.removeLater(v)
	admin.deploy(v, scale{min: 1, slots: 100})
	caller := admin.caller()

	conn, err := grpc.NewClient("passthrough:///"+p.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(16<<20)))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	known := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+caller.credential, "function-id", v.function)
	echo := func(ctx context.Context, message string, options ...grpc.CallOption) (string, error) {
		reply := &wrapperspb.StringValue{}
		err := conn.Invoke(ctx, "/Echo/EchoMessage", wrapperspb.String(message), reply, options...)
		return reply.GetValue(), err
	}

	var head metadata.MD
	reply, err := echo(known, "hello", grpc.Header(&head))
	require.NoError(t, err)
	require.Equal(t, "hello", reply)
	require.Len(t, head.Get("nvcf-reqid"), 1)
	large := strings.Repeat("x", 8<<20)
	reply, err = echo(known, large)
	require.NoError(t, err)
	require.Len(t, reply, len(large))
	require.Zero(t, strings.Count(reply, "x")-len(large), "8 MiB come back as they went")

	stream, err := conn.NewStream(known, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/Echo/EchoMessageStreaming")
	require.NoError(t, err)
	for _, message := range []string{"one", "two", "three"} {
		require.NoError(t, stream.SendMsg(wrapperspb.String(message)))
		got := &wrapperspb.StringValue{}
		require.NoError(t, stream.RecvMsg(got), "each answer comes before the next question")
		require.Equal(t, message, got.GetValue())
	}
	require.NoError(t, stream.CloseSend())

	reflection, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(known)
	require.NoError(t, err)
	require.NoError(t, reflection.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}))
	services, err := reflection.Recv()
	require.NoError(t, err)
	require.Contains(t, services.String(), "Echo")
	require.NoError(t, reflection.CloseSend())

	health, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, health.GetStatus(), "the door itself, without metadata")

	code := func(md ...string) codes.Code {
		_, err := echo(metadata.AppendToOutgoingContext(ctx, md...), "x")
		return status.Code(err)
	}
	authorization := "Bearer " + caller.credential
	require.Equal(t, codes.Unauthenticated, code("function-id", v.function))
	require.Equal(t, codes.InvalidArgument, code("authorization", authorization))
	require.Equal(t, codes.InvalidArgument, code("authorization", authorization, "function-id", "nonsense"))
	require.Equal(t, codes.NotFound, code("authorization", authorization, "function-id", nowhere))
	err = conn.Invoke(known, "/Echo/NoSuchMethod", wrapperspb.String("x"), &wrapperspb.StringValue{})
	require.Equal(t, codes.Unimplemented, status.Code(err), "unknown methods pass through")

	short, stop := context.WithTimeout(known, 2*time.Second)
	defer stop()
	open, err := conn.NewStream(short, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/Echo/EchoMessageStreaming")
	require.NoError(t, err)
	require.Equal(t, codes.DeadlineExceeded, status.Code(open.RecvMsg(&wrapperspb.StringValue{})), "a deadline ends a quiet stream")
}
