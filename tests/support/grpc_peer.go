// A gRPC server and client in Go, with bytes for messages.
//
//	serve        serves until it is stopped, or told to Die; the first line says where
//	talk PORT    every call, as often as the tests know
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const service = "remora.test.Echo"

// plain passes bytes through as messages.
type plain struct{}

func (plain) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (plain) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (plain) Name() string   { return "proto" }
func (plain) String() string { return "proto" }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func unary(handle func(context.Context, []byte) ([]byte, error)) func(interface{}, context.Context, func(interface{}) error, grpc.UnaryServerInterceptor) (interface{}, error) {
	return func(_ interface{}, ctx context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
		var request []byte
		if err := decode(&request); err != nil {
			return nil, err
		}
		response, err := handle(ctx, request)
		return &response, err
	}
}

func say(_ context.Context, request []byte) ([]byte, error) {
	switch string(request) {
	case "missing":
		return nil, status.Error(codes.NotFound, "secret words")
	case "away":
		return nil, status.Error(codes.Unavailable, "secret words")
	}
	return request, nil
}

func slow(ctx context.Context, request []byte) ([]byte, error) {
	<-ctx.Done()
	return request, status.FromContextError(ctx.Err()).Err()
}

func die(context.Context, []byte) ([]byte, error) {
	os.Exit(0)
	return nil, nil
}

func collect(_ interface{}, stream grpc.ServerStream) error {
	var all []byte
	for {
		var request []byte
		err := stream.RecvMsg(&request)
		if err == io.EOF {
			return stream.SendMsg(&all)
		} else if err != nil {
			return err
		}
		all = append(all, request...)
	}
}

func list(_ interface{}, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	for i := 0; i < 10; i++ {
		if err := stream.SendMsg(&request); err != nil {
			return err
		}
	}
	return nil
}

func watch(_ interface{}, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	if err := stream.SendMsg(&request); err != nil {
		return err
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

func chat(_ interface{}, stream grpc.ServerStream) error {
	for {
		var request []byte
		if err := stream.RecvMsg(&request); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&request); err != nil {
			return err
		}
	}
}

func serve() {
	server := grpc.NewServer(grpc.CustomCodec(plain{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*interface{})(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Say", Handler: unary(say)},
			{MethodName: "Slow", Handler: unary(slow)},
			{MethodName: "Die", Handler: unary(die)},
		},
		Streams: []grpc.StreamDesc{
			{StreamName: "Collect", Handler: collect, ClientStreams: true},
			{StreamName: "List", Handler: list, ServerStreams: true},
			{StreamName: "Watch", Handler: watch, ServerStreams: true},
			{StreamName: "Chat", Handler: chat, ClientStreams: true, ServerStreams: true},
		},
	}, struct{}{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Printf("{\"listening\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	must(server.Serve(listener))
}

func expect(code codes.Code, err error) {
	if status.Code(err) != code {
		must(fmt.Errorf("%v instead of %v", err, code))
	}
}

func check(good bool) {
	if !good {
		must(fmt.Errorf("a wrong answer"))
	}
}

func talk(port string) {
	connection, err := grpc.Dial("127.0.0.1:"+port, grpc.WithInsecure(), grpc.WithDefaultCallOptions(grpc.ForceCodec(plain{})))
	must(err)
	defer connection.Close()
	call := func(ctx context.Context, name string, request []byte, options ...grpc.CallOption) ([]byte, error) {
		var response []byte
		err := connection.Invoke(ctx, "/"+service+"/"+name, &request, &response, options...)
		return response, err
	}
	open := func(ctx context.Context, name string, desc grpc.StreamDesc) grpc.ClientStream {
		stream, err := connection.NewStream(ctx, &desc, "/"+service+"/"+name)
		must(err)
		return stream
	}
	send := func(stream grpc.ClientStream, message string, count int) {
		request := []byte(message)
		for i := 0; i < count; i++ {
			must(stream.SendMsg(&request))
		}
		must(stream.CloseSend())
	}
	receive := func(stream grpc.ClientStream) (count int, err error) {
		for {
			var response []byte
			if err := stream.RecvMsg(&response); err != nil {
				return count, err
			}
			count++
		}
	}
	none := context.Background()
	large := bytes.Repeat([]byte("m"), 30000)

	for i := 0; i < 100; i++ {
		request := fmt.Sprintf("secret %d", i)
		response, err := call(metadata.AppendToOutgoingContext(none, "authorization", "secret"), "Say", []byte(request))
		must(err)
		check(string(response) == request)
	}
	var group sync.WaitGroup
	for i := 0; i < 100; i++ {
		group.Add(1)
		go func(length int) {
			defer group.Done()
			response, err := call(none, "Say", []byte(strings.Repeat("x", length)))
			must(err)
			check(len(response) == length)
		}(i)
	}
	group.Wait()
	for i := 0; i < 3; i++ {
		response, err := call(none, "Say", large)
		must(err)
		check(bytes.Equal(response, large))
	}
	for i := 0; i < 4; i++ {
		response, err := call(none, "Say", large, grpc.UseCompressor(gzip.Name))
		must(err)
		check(bytes.Equal(response, large))
	}
	for i := 0; i < 7; i++ {
		_, err := call(none, "Say", []byte("missing"))
		expect(codes.NotFound, err)
	}
	for i := 0; i < 2; i++ {
		_, err := call(none, "Say", []byte("away"))
		expect(codes.Unavailable, err)
	}
	_, err = call(none, "Nothing", []byte("x"))
	expect(codes.Unimplemented, err)
	for i := 0; i < 5; i++ {
		stream := open(none, "Collect", grpc.StreamDesc{ClientStreams: true})
		send(stream, "c", 10)
		count, err := receive(stream)
		check(count == 1 && err == io.EOF)
		stream = open(none, "List", grpc.StreamDesc{ServerStreams: true})
		send(stream, "l", 1)
		count, err = receive(stream)
		check(count == 10 && err == io.EOF)
		stream = open(none, "Chat", grpc.StreamDesc{ClientStreams: true, ServerStreams: true})
		send(stream, "c", 12)
		count, err = receive(stream)
		check(count == 12 && err == io.EOF)
	}
	for i := 0; i < 3; i++ {
		ctx, cancel := context.WithTimeout(none, 200*time.Millisecond)
		_, err := call(ctx, "Slow", []byte("x"))
		expect(codes.DeadlineExceeded, err)
		cancel()
	}
	for i := 0; i < 2; i++ {
		ctx, cancel := context.WithTimeout(none, 300*time.Millisecond)
		stream := open(ctx, "Watch", grpc.StreamDesc{ServerStreams: true})
		send(stream, "x", 1)
		count, err := receive(stream)
		check(count == 1)
		expect(codes.DeadlineExceeded, err)
		cancel()
	}
	for i := 0; i < 4; i++ {
		ctx, cancel := context.WithCancel(none)
		stream := open(ctx, "Watch", grpc.StreamDesc{ServerStreams: true})
		send(stream, "x", 1)
		var response []byte
		must(stream.RecvMsg(&response))
		cancel()
		expect(codes.Canceled, stream.RecvMsg(&response))
	}
	_, err = call(none, "Die", []byte("x"))
	expect(codes.Unavailable, err)
}

func main() {
	if os.Args[1] == "serve" {
		serve()
	} else {
		talk(os.Args[2])
	}
}
