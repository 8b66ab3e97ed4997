package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Bounds of one message of the Echo service.
const (
	maxMessageBytes = 64 << 20
	maxDelay        = time.Hour
)

// echoFile is the schema of the Echo service, written as a descriptor so that
// building it needs no protoc:
//
//	service Echo {
//	  rpc EchoMessage(EchoRequest) returns (EchoReply);
//	  rpc EchoMessageStreaming(stream EchoRequest) returns (stream EchoReply);
//	}
//	message EchoRequest { string message = 1; optional int32 repeats = 2; optional float delay = 3; }
//	message EchoReply   { string message = 1; optional int32 repeats = 2; optional float delay = 3; }
func echoFile() *descriptorpb.FileDescriptorProto {
	message := func(name string) *descriptorpb.DescriptorProto {
		field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
			return &descriptorpb.FieldDescriptorProto{
				Name: new(name), JsonName: new(name), Number: new(number), Type: kind.Enum(),
				Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
			}
		}
		// A field that may be absent is, in proto3, alone in a oneof.
		optional := func(f *descriptorpb.FieldDescriptorProto, oneof int32) *descriptorpb.FieldDescriptorProto {
			f.Proto3Optional, f.OneofIndex = new(true), new(oneof)
			return f
		}
		return &descriptorpb.DescriptorProto{
			Name: new(name),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("message", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING),
				optional(field("repeats", 2, descriptorpb.FieldDescriptorProto_TYPE_INT32), 0),
				optional(field("delay", 3, descriptorpb.FieldDescriptorProto_TYPE_FLOAT), 1),
			},
			OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: new("_repeats")}, {Name: new("_delay")}},
		}
	}
	method := func(name string, stream bool) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{
			Name: new(name), InputType: new(".EchoRequest"), OutputType: new(".EchoReply"),
			ClientStreaming: new(stream), ServerStreaming: new(stream),
		}
	}
	return &descriptorpb.FileDescriptorProto{
		Name: new("echo.proto"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{message("EchoRequest"), message("EchoReply")},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name:   new("Echo"),
			Method: []*descriptorpb.MethodDescriptorProto{method("EchoMessage", false), method("EchoMessageStreaming", true)},
		}},
	}
}

// schema are the messages of the service.
type schema struct {
	request, reply protoreflect.MessageDescriptor
}

func newSchema() (protoreflect.FileDescriptor, schema, error) {
	file, err := protodesc.NewFile(echoFile(), nil)
	if err != nil {
		return nil, schema{}, fmt.Errorf("schema of the Echo service: %w", err)
	}
	return file, schema{file.Messages().ByName("EchoRequest"), file.Messages().ByName("EchoReply")}, nil
}

func (s schema) answer(text string) proto.Message {
	m := dynamicpb.NewMessage(s.reply)
	m.Set(s.reply.Fields().ByName("message"), protoreflect.ValueOfString(text))
	return m
}

// call is a request in Go's terms.
type call struct {
	message string
	repeats int
	delay   time.Duration
}

// read takes a request apart. Absent repeats mean once, unlike over HTTP.
func (s schema) read(m *dynamicpb.Message) (call, error) {
	fields := s.request.Fields()
	c := call{message: m.Get(fields.ByName("message")).String(), repeats: 1}
	if f := fields.ByName("repeats"); m.Has(f) {
		c.repeats = int(m.Get(f).Int())
	}
	seconds := m.Get(fields.ByName("delay")).Float()
	switch {
	case c.repeats < 0:
		return c, status.Error(codes.InvalidArgument, "repeats must not be negative")
	case c.repeats > maxMessageBytes/max(1, len(c.message)):
		return c, status.Errorf(codes.InvalidArgument, "message × repeats must not exceed %d bytes", maxMessageBytes)
	case math.IsNaN(seconds) || seconds < 0 || seconds > maxDelay.Seconds():
		return c, status.Errorf(codes.InvalidArgument, "delay must lie between 0 and %.0f seconds", maxDelay.Seconds())
	}
	c.delay = time.Duration(seconds * float64(time.Second))
	return c, nil
}

func (c call) wait(ctx context.Context) error {
	if c.delay <= 0 {
		return nil
	}
	timer := time.NewTimer(c.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (s schema) unary(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc's order of parameters
	in := dynamicpb.NewMessage(s.request)
	if err := decode(in); err != nil {
		return nil, err
	}
	c, err := s.read(in)
	if err != nil {
		return nil, err
	}
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	return s.answer(strings.Repeat(c.message, c.repeats)), nil
}

// stream answers each request with its message, repeats times, delay before each.
func (s schema) stream(_ any, stream grpc.ServerStream) error {
	for {
		in := dynamicpb.NewMessage(s.request)
		if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		c, err := s.read(in)
		if err != nil {
			return err
		}
		for range c.repeats {
			if err := c.wait(stream.Context()); err != nil {
				return err
			}
			if err := stream.SendMsg(s.answer(c.message)); err != nil {
				return err
			}
		}
	}
}

// newEchoServer is a gRPC server with the Echo service, health and reflection.
func newEchoServer() (*grpc.Server, error) {
	file, s, err := newSchema()
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes+1<<10))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "Echo", Metadata: "echo.proto",
		Methods: []grpc.MethodDesc{{MethodName: "EchoMessage", Handler: s.unary}},
		Streams: []grpc.StreamDesc{{StreamName: "EchoMessageStreaming", Handler: s.stream, ServerStreams: true, ClientStreams: true}},
	}, nil)
	healthy := health.NewServer()
	healthy.SetServingStatus("Echo", healthv1.HealthCheckResponse_SERVING)
	// Clients that check the path "/" ask for a service of that name.
	healthy.SetServingStatus("/", healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(server, healthy)

	// Reflection answers from a registry that has this file and, behind it, the
	// registered ones; nothing global changes.
	own := new(protoregistry.Files)
	if err := own.RegisterFile(file); err != nil {
		return nil, err
	}
	options := reflection.ServerOptions{Services: server, DescriptorResolver: resolver{own}}
	reflectionv1.RegisterServerReflectionServer(server, reflection.NewServerV1(options))
	reflectionv1alpha.RegisterServerReflectionServer(server, reflection.NewServer(options))
	return server, nil
}

type resolver struct{ own *protoregistry.Files }

func (r resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if file, err := r.own.FindFileByPath(path); err == nil {
		return file, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (r resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d, err := r.own.FindDescriptorByName(name); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}
