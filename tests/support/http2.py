"""HTTP/2 by the library h2: a server that resets, pushes, delays and says goodbye as its paths ask, and clients that say what they saw.

Clients write one JSON object a line: method, path, status ("" for none) and the begin and end of the
exchange in nanoseconds (CLOCK_REALTIME).
"""

import json
import socket
import sys
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings


def say(**values):
    print(json.dumps(values), flush=True)


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.port = port
        self.open = {}
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def ask(self, path, method="GET", body=None, fields=()):
        stream = self.h2.get_next_available_stream_id()
        names = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1:%d" % self.port)]
        self.h2.send_headers(stream, names + [("user-agent", "python-h2")] + list(fields), end_stream=body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=True, pad_length=7)
        self.open[stream] = {"method": method, "path": path, "status": "", "begin": time.time_ns()}
        return stream

    def finish(self, stream):
        exchange = self.open.pop(stream, None)
        if exchange is not None:
            say(**exchange, end=time.time_ns())

    def reset(self, stream, code=h2.errors.ErrorCodes.CANCEL):
        self.h2.reset_stream(stream, code)
        self.flush()
        self.finish(stream)

    def read(self, on_data=None, acknowledge=True):
        """Takes in one piece from the server; False at its end."""
        # A call of more than the kernel carries of one would hide frames.
        data = self.socket.recv(16384)
        if not data:
            return False
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                if event.stream_id in self.open:
                    self.open[event.stream_id]["status"] = dict(event.headers)[":status"]
            elif isinstance(event, h2.events.DataReceived):
                if acknowledge:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if on_data:
                    on_data(event.stream_id)
            elif isinstance(event, h2.events.PushedStreamReceived):
                fields = dict(event.headers)
                self.open[event.pushed_stream_id] = {
                    "method": fields[":method"],
                    "path": fields[":path"],
                    "status": "",
                    "begin": self.open[event.parent_stream_id]["begin"],
                }
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.finish(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                for stream in [stream for stream in self.open if stream > event.last_stream_id]:
                    self.finish(stream)
        self.flush()
        return True

    def read_all(self, **how):
        while self.open and self.read(**how):
            pass
        for stream in list(self.open):
            self.finish(stream)

    def close(self):
        self.h2.close_connection()
        self.flush()
        self.socket.close()


def interleaved(port, rounds):
    """A hundred streams at once, of each ten one missing and one busy."""
    client = Client(port)
    for round in range(rounds):
        for number in range(100):
            kind = {3: "/missing", 7: "/busy"}.get(number % 10, "")
            client.ask("%s/%d/%d" % (kind, round, number))
        client.flush()
        client.read_all()
    client.close()


def resets(port, count):
    """Streams that are reset while their body comes, each before one that is not."""
    client = Client(port)
    for number in range(count):
        cut = client.ask("/large?number=%d" % number)
        client.flush()
        client.read_all(on_data=lambda stream: cut in client.open and client.reset(cut))
        client.ask("/small")
        client.flush()
        client.read_all()
    client.close()


def stalled(port, pause_ms):
    """The window is opened late."""
    client = Client(port)
    client.ask("/large")
    client.flush()
    begin = time.time()
    while time.time() < begin + pause_ms / 1000:
        client.socket.settimeout(0.05)
        try:
            client.read(acknowledge=False)
        except TimeoutError:
            pass
    client.socket.settimeout(None)
    [stream] = client.open
    client.h2.increment_flow_control_window(1 << 24)
    client.h2.increment_flow_control_window(1 << 24, stream)
    client.flush()
    client.read_all(acknowledge=False)
    client.close()


def late(port):
    """Requests before and after a word from outside, on one connection."""
    client = Client(port)
    for word in ["before", "after"]:
        for number in range(20):
            client.ask("/old" if number % 2 else "/%s/%d" % (word, number))
            client.flush()
            client.read_all()
        if word == "before":
            say(paused=True)
            sys.stdin.readline()
    client.close()


def strange(port):
    """What the server below does on request."""
    client = Client(port)
    for path in ["/a", "/interim", "/trailers", "/reset", "/push", "/slow", "/b", "/refuse", "/c"]:
        client.ask(path)
        client.flush()
        client.read_all()
    client.ask("/upload", "POST", b"x" * 1000, [("content-type", "text/plain")])
    client.flush()
    client.read_all()
    # Answered, and then the server goes away without a look at what comes behind it.
    client.ask("/go-away")
    client.ask("/behind")
    client.flush()
    client.read_all()
    client.socket.close()


def serve_one(connection):
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    server.initiate_connection()
    server.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 1024})
    connection.sendall(server.data_to_send())
    gone = False
    while data := connection.recv(65536):
        for event in server.receive_data(data):
            if isinstance(event, h2.events.RequestReceived) and not gone:
                gone = answer(server, connection, event.stream_id, dict(event.headers)[":path"])
            elif isinstance(event, h2.events.DataReceived):
                server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        connection.sendall(server.data_to_send())
        if gone:
            # All that the client sent is read, so that its kernel reports no reset.
            connection.shutdown(socket.SHUT_WR)
    connection.close()


def answer(server, connection, stream, path):
    ok = [(":status", "200"), ("server", "strange")]
    if path == "/reset":
        server.send_headers(stream, ok)
        server.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
    elif path == "/refuse":
        server.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
    elif path == "/go-away":
        server.send_headers(stream, ok, end_stream=True)
        server.close_connection(last_stream_id=stream)
        return True
    else:
        if path == "/interim":
            server.send_headers(stream, [(":status", "103"), ("link", "</style>")])
        if path == "/push":
            promised = server.get_next_available_stream_id()
            fields = [(":method", "GET"), (":scheme", "http"), (":path", "/style"), (":authority", "strange")]
            server.push_stream(stream, promised, fields)
            server.send_headers(promised, ok)
            server.send_data(promised, b"body", end_stream=True)
        if path == "/slow":
            connection.sendall(server.data_to_send())
            time.sleep(0.2)
        server.send_headers(stream, ok)
        server.send_data(stream, b"body" * 100, pad_length=5)
        if path == "/trailers":
            server.send_headers(stream, [("digest", "x")], end_stream=True)
        else:
            server.end_stream(stream)
    return False


def serve():
    listener = socket.create_server(("127.0.0.1", 0))
    say(listening=listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_one, args=(connection,), daemon=True).start()


COMMANDS = {run.__name__: run for run in (interleaved, resets, stalled, late, strange, serve)}
COMMANDS[sys.argv[1]](*[int(number) for number in sys.argv[2:]])
