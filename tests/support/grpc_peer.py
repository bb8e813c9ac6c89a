"""A gRPC server and client on C-core, with bytes for messages.

serve        serves until it is stopped, or told to Die; the first line says where
talk PORT    every call, as often as the tests know
"""

import json
import os
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "remora.test.Echo"
LARGE = b"m" * 30_000


def say(request, context):
    if request == b"missing":
        context.abort(grpc.StatusCode.NOT_FOUND, "secret words")
    if request == b"away":
        context.abort(grpc.StatusCode.UNAVAILABLE, "secret words")
    return request


def slow(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(10)
    return request


def collect(requests, context):
    return b"".join(requests)


def list_(request, context):
    for _ in range(10):
        yield request


def watch(request, context):
    yield request
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(10)


def chat(requests, context):
    for request in requests:
        yield request


def die(request, context):
    os._exit(0)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "List": grpc.unary_stream_rpc_method_handler(list_),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Die": grpc.unary_unary_rpc_method_handler(die),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"listening": port}), flush=True)
    server.wait_for_termination()


def fails(code, call):
    try:
        call()
        raise SystemExit(f"a call did not fail with {code}")
    except grpc.RpcError as error:
        if error.code() is not code:
            raise SystemExit(f"{error.code()} instead of {code}: {error.details()}")


def talk(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = lambda kind, name: getattr(channel, kind)(f"/{SERVICE}/{name}")
        unary = lambda name: method("unary_unary", name)
        for number in range(100):
            assert unary("Say")(b"secret %d" % number, metadata=[("authorization", "secret")]) == b"secret %d" % number
        together = [unary("Say").future(b"x" * number) for number in range(100)]
        assert [len(call.result()) for call in together] == list(range(100))
        for _ in range(3):
            assert unary("Say")(LARGE) == LARGE
        for _ in range(4):
            assert unary("Say")(LARGE, compression=grpc.Compression.Gzip) == LARGE
        for _ in range(7):
            fails(grpc.StatusCode.NOT_FOUND, lambda: unary("Say")(b"missing"))
        for _ in range(2):
            fails(grpc.StatusCode.UNAVAILABLE, lambda: unary("Say")(b"away"))
        fails(grpc.StatusCode.UNIMPLEMENTED, lambda: unary("Nothing")(b"x"))
        for _ in range(5):
            assert method("stream_unary", "Collect")(iter([b"c"] * 10)) == b"c" * 10
            assert list(method("unary_stream", "List")(b"l")) == [b"l"] * 10
            assert list(method("stream_stream", "Chat")(iter([b"c"] * 12))) == [b"c"] * 12
        for _ in range(3):
            fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: unary("Slow")(b"x", timeout=0.2))
        for _ in range(2):
            fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(method("unary_stream", "Watch")(b"x", timeout=0.3)))
        for _ in range(4):
            call = method("unary_stream", "Watch")(b"x")
            assert next(call) == b"x"
            call.cancel()
            fails(grpc.StatusCode.CANCELLED, lambda: next(call))
        fails(grpc.StatusCode.UNAVAILABLE, lambda: unary("Die")(b"x"))


if sys.argv[1] == "serve":
    serve()
else:
    talk(int(sys.argv[2]))
