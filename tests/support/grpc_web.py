"""A gRPC-Web server over HTTP/1.1 and a client of it, by hand.

serve        serves until it is stopped; the first line says where
talk PORT    every call, as often as the tests know, in each encoding
"""

import base64
import http.client
import http.server
import json
import struct
import sys
import time


def frame(flag, payload):
    return struct.pack(">BI", flag, len(payload)) + payload


def trailers(status):
    return frame(0x80, b"grpc-status:%d\r\ngrpc-message:secret\r\n" % status)


def messages(body):
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        yield flag, body[5:5 + length]
        body = body[5 + length:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_POST(self):
        body = self.body()
        kind = self.headers["Content-Type"]
        if not kind.startswith("application/grpc-web"):
            self.answer(kind, {}, [b"{}"], chunked=False)
            return
        encode = base64.b64encode if "-text" in kind else bytes
        if "-text" in kind:
            # Each piece that was written may be padded.
            body = b"".join(base64.b64decode(body[at:at + 4]) for at in range(0, len(body), 4))
        sent = [payload for _, payload in messages(body)]
        method = self.path.split("?")[0].rsplit("/", 1)[1]
        if method == "Fail":
            self.answer(kind, {"grpc-status": "5", "grpc-message": "secret"}, [], chunked=False)
        elif method == "Gone":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif method == "Half":
            self.answer(kind, {}, [encode(frame(0, sent[0])), encode(trailers(13))], chunked=True)
        elif method == "List":
            self.answer(kind, {}, [encode(frame(0, sent[0]))] * 10 + [encode(trailers(0))], chunked=True)
        else:
            if method == "Slow":
                time.sleep(0.15)
            self.answer(kind, {}, [encode(b"".join(frame(0, payload) for payload in sent) + trailers(0))], chunked=False)

    def answer(self, kind, head, pieces, chunked):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        for name, value in head.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in pieces + [b""]:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        else:
            body = b"".join(pieces)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(json.dumps({"listening": server.server_address[1]}), flush=True)
    server.serve_forever()


def talk(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def call(method, kind, sent):
        body = b"".join(frame(0, payload) for payload in sent)
        body = base64.b64encode(body) if "-text" in kind else body
        headers = {"Content-Type": kind, "X-Grpc-Web": "1", "Authorization": "secret"}
        connection.request("POST", f"/remora.test.Web/{method}?token=secret", body, headers)
        response = connection.getresponse()
        return response, response.read()

    for kind in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"]:
        for number in range(30):
            response, body = call("Say", kind, [b"secret %d" % number])
            assert response.status == 200 and body, response
        for _ in range(3):
            response, body = call("Say", kind, [b"x" * 12_000, b"y"])
            assert len(body) > 12_000
        for _ in range(5):
            call("List", kind, [b"x"])
        for _ in range(4):
            assert call("Fail", kind, [b"x"])[0].headers["grpc-status"] == "5"
        for _ in range(3):
            call("Half", kind, [b"x"])
        for _ in range(2):
            call("Slow", kind, [b"x"])
        assert call("Gone", kind, [b"x"])[0].status == 503
        for _ in range(5):
            call("Plain", "application/json", [])
    connection.close()


if sys.argv[1] == "serve":
    serve()
else:
    talk(int(sys.argv[2]))
