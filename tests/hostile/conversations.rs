//! Whole conversations to begin from, at least one for every protocol.

use remora::model::Flow::{self, Request, Response};

pub type Conversation = &'static [(Flow, &'static [u8])];

pub const CONVERSATIONS: &[Conversation] = &[
    &[
        (Request, b"GET /items/7?token=secret HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: curl/8.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"),
        (Response, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nHello world\n"),
        (Request, b"HEAD /items HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
        (Response, b"HTTP/1.1 200 OK\r\nContent-Length: 1234567\r\n\r\n"),
        (Request, b"DELETE /items/9 HTTP/1.1\r\nhost: shop.test\r\n\r\n"),
        (Response, b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
    &[
        (Request, b"POST /upload HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nTrailer: Digest\r\n\r\n"),
        (Response, b"HTTP/1.1 100 Continue\r\n\r\n"),
        (Request, b"5;name=value\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nDigest: none\r\n\r\n"),
        (Response, b"HTTP/1.1 201 Created\r\nTRANSFER-ENCODING: gzip, chunked\r\nLocation: /upload/1\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ],
    &[
        (Request, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        (Response, b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        (Response, b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nuntil the end"),
    ],
    &[
        (Request, b"GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"),
        (Response, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (Response, b"\x81\x05Hello"),
    ],
    &[
        (Request, b"CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n"),
        (Response, b"HTTP/1.0 200 Connection established\r\n\r\n"),
        (Request, b"\x16\x03\x01\x00\x05hello"),
        (Request, b"GET http://absolute.test/path HTTP/1.0\r\n\r\n"),
        (Response, b"HTTP/1.0 200 OK\r\n\r\nbody"),
    ],
    &[
        (Request, b"\0\0\0\x08\x04\xd2\x16/"),
        (Response, b"N"),
        (Request, b"\0\0\0\x1f\0\x03\0\0user\0me\0database\0shop\0\0"),
        (Response, b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0015.5\0K\0\0\0\x0c\0\0\x01\0\0\0\0\x02Z\0\0\0\x05I"),
        (Request, b"Q\0\0\x001SELECT name FROM items WHERE id = 7 AND t=''\0"),
        (Response, b"T\0\0\0\x1d\0\x01name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0D\0\0\0\x0e\0\x01\0\0\0\x04bolt"),
        (Response, b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"),
        (Request, b"Q\0\0\0\x17SELECT 1; SELECT 2\0"),
        (Response, b"C\0\0\0\x0dSELECT 1\0C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"),
        (Request, b"Q\0\0\0\x11SELECT 1 / 0\0"),
        (Response, b"E\0\0\x006SERROR\0VERROR\0C22012\0Mdivision by zero\0Fint.c\0L8\0\0Z\0\0\0\x05I"),
        (Request, b"X\0\0\0\x04"),
    ],
    &[
        (Request, b"\0\0\0\x11\0\x03\0\0user\0me\0\0"),
        (Response, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"),
        (Request, b"P\0\0\0&s0\0SELECT a FROM b WHERE c = $1\0\0\0"),
        (Request, b"D\0\0\0\x08Ss0\0S\0\0\0\x04"),
        (Response, b"1\0\0\0\x04t\0\0\0\n\0\x01\0\0\0\x17n\0\0\0\x04Z\0\0\0\x05I"),
        (Request, b"B\0\0\0\x18\0s0\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x07\0\0E\0\0\0\t\0\0\0\0\0S\0\0\0\x04"),
        (Response, b"2\0\0\0\x04D\0\0\0\x0b\0\x01\0\0\0\x01xC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T"),
        (Request, b"C\0\0\0\x08Ss0\0S\0\0\0\x04"),
        (Response, b"3\0\0\0\x04Z\0\0\0\x05T"),
        (Request, b"Q\0\0\0\x1aCOPY items FROM STDIN\0"),
        (Response, b"G\0\0\0\t\0\0\x01\0\0"),
        (Request, b"d\0\0\0\x0b1\tbolt\nd\0\0\0\x0bSELECT\nc\0\0\0\x04"),
        (Response, b"N\0\0\0\x1bSNOTICE\0C00000\0Mhello\0\0C\0\0\0\x0bCOPY 2\0Z\0\0\0\x05I"),
    ],
    &[
        (Request, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"),
        (Response, b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"),
        (Request, b"*3\r\n$3\r\nSET\r\n$6\r\nuser:1\r\n$4\r\nbolt\r\n*2\r\n$3\r\nGET\r\n$6\r\nuser:1\r\n*2\r\n$4\r\nINCR\r\n$6\r\nuser:1\r\n"),
        (Response, b"+OK\r\n$4\r\nbolt\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        (Request, b"*1\r\n$5\r\nMULTI\r\n*4\r\n$4\r\nHSET\r\n$6\r\ncart:1\r\n$1\r\na\r\n$1\r\nb\r\n*1\r\n$4\r\nEXEC\r\n"),
        (Response, b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"),
        (Request, b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n"),
        (Response, b">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"),
        (Request, b"*2\r\n$7\r\nHGETALL\r\n$6\r\ncart:1\r\n*4\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n1\r\n$6\r\nuser:1\r\n"),
        (Response, b"|1\r\n+ttl\r\n:1\r\n%1\r\n$1\r\na\r\n*?\r\n,1.5\r\n#t\r\n_\r\n(12345678901234567890\r\n.\r\n$?\r\n;2\r\nab\r\n;0\r\n"),
    ],
    &[
        (Request, b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\nget user:1\r\n"),
        (Response, b"$-1\r\n"),
        (Request, b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n"),
        (Response, b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"),
        (Request, b"*1\r\n$11\r\nUNSUBSCRIBE\r\n"),
        (Response, b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n"),
        (Request, b"MONITOR\r\n"),
        (Response, b"+OK\r\n+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n"),
        (Request, b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n"),
        (Response, b"+FULLRESYNC 8de1787ba490483314a4d30f1c628bc5025eb761 0\r\n$5\r\nREDIS"),
    ],
    &[
        (Request, b"\x16\x03\x01\x00\x2e\x01\0\0\x2a\x03\x03abcdefghijklmnopqrstuvwxyz012345\0\0\x02\x13\x01\x01\0\0\0"),
        (Response, b"\x16\x03\x03\x00\x2a\x02\0\0\x26\x03\x03abcdefghijklmnopqrstuvwxyz012345\0\x13\x01\0\x17\x03\x03\x00\x03abc"),
    ],
    &[
        (Request, b"\0\x18\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01\0\x18\0\x08\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x1c\0\x01"),
        (Response, b"\0\x18\0\x08\x81\x83\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x1c\0\x01"),
        (Response, b"\0\x43\0\x07\x81\x80\0\x01\0\x02\0\0\0\x01\x01a\x04test\0\0\x01\0\x01\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0e\xc0\x24\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x0a\0\0\x29\x04\xd0\0\0\0\0\0\0"),
    ],
    &[
        (Request, b"\x16\x03\x01\x00\x52\x01\0\0\x4e\x03\x03abcdefghijklmnopqrstuvwxyz012345\0\0\x02\x13\x01\x01\0\0\x23\0\0\0\x0e\0\x0c\0\0\x09shop.test\0\x10\0\x0d\0\x0b\x08http/1.1\x01a"),
        (Response, b"\x15\x03\x03\0\x02\x02\x28"),
    ],
    // DNS in datagrams.
    &[
        (Request, b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01"),
        (Response, b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x04test\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x0a"),
        (Request, b"\0\x08\x01\0\0\x01\0\0\0\0\0\x01\x04_tcp\x04test\0\0\x21\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0"),
        (Response, b"\0\x08\x81\x83\0\x01\0\0\0\0\0\0\x04_tcp\x04test\0\0\x21\0\x01"),
    ],
];
