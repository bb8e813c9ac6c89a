"""WebSocket servers and clients of two libraries, which know nothing of each other.

serve LIBRARY           serves until it is stopped; the first line says where
talk LIBRARY PORT       every conversation once
"""

import asyncio
import json
import sys

import aiohttp
import aiohttp.web
import websockets

LARGE = b"\x81" * 100_000


async def serve_websockets():
    async def serve(socket):
        async for message in socket:
            if message == "close":
                await socket.close(4001, "secret words")
                return
            await socket.send(message)

    server = await websockets.serve(serve, "127.0.0.1", 0, ping_interval=None, max_size=None)
    print(json.dumps({"listening": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.Future()


async def serve_aiohttp():
    async def serve(request):
        socket = aiohttp.web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.data == "close":
                await socket.close(code=4001, message=b"secret words")
            elif message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    application = aiohttp.web.Application()
    application.router.add_get("/{path}", serve)
    runner = aiohttp.web.AppRunner(application)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(json.dumps({"listening": site._server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.Future()


async def talk_websockets(port):
    def connect(path, **options):
        return websockets.connect(f"ws://127.0.0.1:{port}/{path}?token=secret", ping_interval=None, max_size=None, **options)

    for compression in [None, "deflate"]:
        async with connect("echo", compression=compression) as socket:
            for number in range(50):
                await socket.send(f"secret {number}")
                assert await socket.recv() == f"secret {number}"
            for number in range(20):
                await socket.send(bytes([number]) * number)
                assert await socket.recv() == bytes([number]) * number
    async with connect("many") as socket:
        for number in range(200):
            await socket.send("x" * (number % 50))
        for number in range(200):
            await socket.recv()
    async with connect("large", compression=None) as socket:
        for _ in range(3):
            await socket.send(LARGE)
            assert await socket.recv() == LARGE
    async with connect("pings") as socket:
        for _ in range(10):
            await (await socket.ping(b"secret"))
    async with connect("fragments", compression=None) as socket:
        await socket.send(["one ", "two ", "three"])
        assert await socket.recv() == "one two three"
    async with connect("away") as socket:
        await socket.close(1001)
    async with connect("refused") as socket:
        await socket.send("close")
        try:
            await socket.recv()
            raise SystemExit("the server did not close")
        except websockets.ConnectionClosedError as closed:
            assert closed.rcvd.code == 4001, closed
    socket = await connect("cut")
    await socket.send("x")
    await socket.recv()
    socket.transport.abort()


async def talk_aiohttp(port):
    async with aiohttp.ClientSession() as session:
        def connect(path):
            return session.ws_connect(f"http://127.0.0.1:{port}/{path}?token=secret", max_msg_size=0)

        for compression in [0, 15]:
            url = f"http://127.0.0.1:{port}/echo?token=secret"
            async with session.ws_connect(url, compress=compression) as socket:
                for number in range(50):
                    await socket.send_str(f"secret {number}")
                    assert (await socket.receive()).data == f"secret {number}"
                for number in range(20):
                    await socket.send_bytes(bytes([number]) * number)
                    assert (await socket.receive()).data == bytes([number]) * number
        async with connect("many") as socket:
            for number in range(200):
                await socket.send_str("x" * (number % 50))
            for number in range(200):
                await socket.receive()
        async with connect("large") as socket:
            for _ in range(3):
                await socket.send_bytes(LARGE)
                assert (await socket.receive()).data == LARGE
        async with connect("pings") as socket:
            for _ in range(10):
                await socket.ping(b"secret")
            await socket.send_str("last")
            await socket.receive()
        async with connect("away") as socket:
            await socket.close(code=1001)
        async with connect("refused") as socket:
            await socket.send_str("close")
            message = await socket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4001), message
        socket = await connect("cut")
        await socket.send_str("x")
        await socket.receive()
        socket._response.connection.transport.abort()


work, library = sys.argv[1:3]
if work == "serve":
    asyncio.run({"websockets": serve_websockets, "aiohttp": serve_aiohttp}[library]())
else:
    asyncio.run({"websockets": talk_websockets, "aiohttp": talk_aiohttp}[library](int(sys.argv[3])))
