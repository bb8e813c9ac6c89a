"""A client of DNS over UDP in every manner of call. Asks what its arguments say, writes what it was told, one JSON object a line."""

import ctypes
import json
import os
import socket
import struct
import sys
import time

import dns.message
import dns.query
import dns.rcode

libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Header(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("iov", ctypes.POINTER(Iovec)), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int),
    ]


class Message(ctypes.Structure):
    _fields_ = [("header", Header), ("length", ctypes.c_uint)]


def messages(buffers):
    vector = (Message * len(buffers))()
    vectors = []
    for message, buffer in zip(vector, buffers):
        piece = Iovec(ctypes.cast(buffer, ctypes.c_void_p), len(buffer))
        vectors.append(piece)
        message.header.iov = ctypes.pointer(piece)
        message.header.iovlen = 1
    return vector, vectors


def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def told(query, answer, begin, way):
    question = query.question[0]
    code = "" if answer is None else dns.rcode.to_text(answer.rcode())
    print(json.dumps({"name": question.name.to_text(True).lower(), "type": question.rdtype.name, "code": code, "way": way,
                      "took_ns": time.monotonic_ns() - begin}))


def one(way, query, send, receive):
    begin = time.monotonic_ns()
    send(query.to_wire())
    told(query, dns.message.from_wire(receive()), begin, way)


def many(way, queries, connection):
    """All in one sendmmsg, all answers in as many recvmmsg as it takes."""
    begin = time.monotonic_ns()
    wires = [query.to_wire() for query in queries]
    vector, keep = messages([ctypes.create_string_buffer(wire, len(wire)) for wire in wires])
    sent = call("sendmmsg", connection.fileno(), vector, len(vector), 0)
    assert sent == len(queries), sent
    by_id = {query.id: query for query in queries}
    while by_id:
        buffers = [ctypes.create_string_buffer(2048) for _ in range(8)]
        vector, keep = messages(buffers)
        wait(connection)
        count = call("recvmmsg", connection.fileno(), vector, len(vector), 0x10000, None)  # MSG_WAITFORONE
        for message, buffer in zip(vector[:count], buffers):
            answer = dns.message.from_wire(buffer.raw[: message.length])
            told(by_id.pop(answer.id), answer, begin, way)


def ways(address, port, query):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def fresh(connected):
        connection = socket.socket(family, socket.SOCK_DGRAM)
        connection.settimeout(5)
        # a time-out makes Python poll first; the calls are the same
        if connected:
            connection.connect((address, port))
        return connection

    there = (address, port)
    with fresh(True) as c:
        one("send-recv", query(), c.send, lambda: c.recv(4096))
        one("write-read", query(), lambda data: os.write(c.fileno(), data), lambda: (wait(c), os.read(c.fileno(), 4096))[1])
        one("writev-readv", query(), lambda data: os.writev(c.fileno(), [data[:5], data[5:]]), lambda: (wait(c), readv(c))[1])
        one("sendmsg-recvmsg", query(), lambda data: c.sendmsg([data[:1], data[1:20], data[20:]]), lambda: c.recvmsg(4096)[0])
        one("peek", query(), c.send, lambda: (c.recv(4096, socket.MSG_PEEK), c.recv(4096))[1])
        many("mmsg", [query() for _ in range(12)], c)
    with fresh(False) as c:
        one("sendto-recvfrom", query(), lambda data: c.sendto(data, there), lambda: c.recvfrom(4096)[0])
        one("sendmsg-name", query(), lambda data: c.sendmsg([data[:7], data[7:]], [], 0, there), lambda: recvmsg_into(c))
        one("sendto-recv", query(), lambda data: c.sendto(data, there), lambda: c.recv(4096))


def wait(connection):
    import select
    assert select.select([connection], [], [], 5)[0]


def readv(connection):
    parts = [bytearray(12), bytearray(4096)]
    count = os.readv(connection.fileno(), parts)
    return bytes(b"".join(parts))[:count]


def recvmsg_into(connection):
    parts = [bytearray(12), bytearray(30), bytearray(4096)]
    count = connection.recvmsg_into(parts)[0]
    return bytes(b"".join(parts))[:count]


def library(address, port, zone, count):
    """dnspython itself: a socket for each query."""
    for number in range(count):
        name = ["web", "WWW", "missing%d" % number, "mail"][number % 4] + "." + zone
        query = dns.message.make_query(name, ["A", "AAAA", "MX", "TXT"][number // 4 % 4], use_edns=number % 3 == 0)
        begin = time.monotonic_ns()
        told(query, dns.query.udp(query, address, port=port, timeout=5), begin, "library")


def burst(address, port, zone, count):
    """One socket, up to eight queries under way."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connection.settimeout(5)
    waiting = {}
    number = 0
    while number < count or waiting:
        while number < count and len(waiting) < 8:
            name = ["web", "missing%d" % number, "mail"][number % 3] + "." + zone
            query = dns.message.make_query(name, "A", id=1 + number % 40000)
            waiting[query.id] = (query, time.monotonic_ns())
            connection.sendto(query.to_wire(), (address, port))
            number += 1
        answer = dns.message.from_wire(connection.recvfrom(4096)[0])
        query, begin = waiting.pop(answer.id)
        told(query, answer, begin, "burst")


def silent(address, port, zone):
    """Somebody has the port and says nothing, then nobody has it."""
    for way, there in [("ignored", (address, port)), ("refused", (address, int(sys.argv[5])))]:
        query = dns.message.make_query("web." + zone, "A")
        begin = time.monotonic_ns()
        connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connection.settimeout(0.3)
        connection.connect(there)
        connection.send(query.to_wire())
        try:
            connection.recv(4096)
            raise AssertionError("an answer")
        except (TimeoutError, ConnectionRefusedError) as error:
            assert isinstance(error, ConnectionRefusedError) == (way == "refused"), error
        told(query, None, begin, way)
        connection.close()


def flood(address, port, count):
    """Not DNS: one socket sends, nobody listens to it; then another that is spoken to and answers."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for number in range(count):
        connection.sendto(struct.pack("!II", number, 0x5A5A5A5A) + b"nothing to do with names" * (number % 4), (address, port))


def main():
    action, address, port, zone = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    numbers = iter(range(1, 1 << 16))

    def query():
        number = next(numbers)
        name = ["web", "missing%d" % number, "mail"][number % 3]
        return dns.message.make_query(name + "." + zone, ["A", "AAAA"][number % 2], id=number)

    if action == "ways":
        ways(address, port, query)
    elif action == "library":
        library(address, port, zone, int(sys.argv[5]))
    elif action == "burst":
        burst(address, port, zone, int(sys.argv[5]))
    elif action == "silent":
        silent(address, port, zone)
    elif action == "flood":
        flood(address, port, int(sys.argv[5]))


main()
