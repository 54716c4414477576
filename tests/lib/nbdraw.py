# SPDX-License-Identifier: BSD-3-Clause
"""NBD by hand, on a socket: what libnbd will not send, and exact knowledge of which replies have arrived.

Simple replies, or with extended=True extended headers; structured replies are never asked for.
"""
import select
import socket
import struct

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
EXTENDED_REQUEST_MAGIC = 0x21E41C71
EXTENDED_REPLY_MAGIC = 0x6E8A278C
SIMPLE_REPLY_MAGIC = 0x67446698

FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 6, 7, 8
OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS = 9, 10, 11
REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERR_UNSUP = (1 << 31) + 1
REP_ERR_POLICY = (1 << 31) + 2
REP_ERR_INVALID = (1 << 31) + 3
REP_ERR_UNKNOWN = (1 << 31) + 6
REP_ERR_SHUTDOWN = (1 << 31) + 7
REP_ERR_TOO_BIG = (1 << 31) + 9
REP_ERR_EXT_HEADER_REQD = (1 << 31) + 10
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES = 0, 1, 2, 3, 4, 5, 6
CMD_BLOCK_STATUS = 7
CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_DF, CMD_FLAG_REQ_ONE = 1, 2, 4, 8
CMD_FLAG_FAST_ZERO, CMD_FLAG_PAYLOAD_LEN = 16, 32
CHUNK_DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_STATUS_EXT = 0, 1, 2, 5, 6
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 0x8001, 0x8002

TFLAG_HAS_FLAGS, TFLAG_READ_ONLY, TFLAG_FLUSH, TFLAG_FUA = 1, 2, 4, 8
TFLAG_TRIM, TFLAG_WRITE_ZEROES, TFLAG_MULTI_CONN, TFLAG_CACHE = 32, 64, 256, 1024
TFLAG_DF, TFLAG_BLOCK_STATUS_PAYLOAD = 128, 4096

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108


class Closed(Exception):
    """The server has closed the connection (or it was reset)."""


class Conn:
    """A connection; with `export` it is in the transmission phase, without it in negotiation."""

    def __init__(self, path, export=None, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.buf = bytearray()
        self.cookie = 0
        self.pending = {}  # cookie: bytes of data that its good reply brings
        magic, opt, self.server_flags = struct.unpack(">QQH", self.read(18))
        assert (magic, opt) == (NBDMAGIC, IHAVEOPT)
        self.send_raw(struct.pack(">I", FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES))
        if export is not None:
            replies = self.go(export)
            assert replies[-1][0] == REP_ACK, replies
            for kind, data in replies:
                if kind == REP_INFO and data[:2] == b"\0\0":
                    self.size, self.flags = struct.unpack(">QH", data[2:12])

    # ---- bytes ----

    def fill(self):
        """Waits for more bytes and takes them in."""
        try:
            more = self.sock.recv(1 << 20)
        except (ConnectionError, BrokenPipeError) as e:
            raise Closed() from e
        if not more:
            raise Closed()
        self.buf += more

    def read(self, n):
        while len(self.buf) < n:
            self.fill()
        out = bytes(self.buf[:n])
        del self.buf[:n]
        return out

    def send_raw(self, data):
        try:
            self.sock.sendall(data)
        except (ConnectionError, BrokenPipeError) as e:
            raise Closed() from e

    def closed_by_server(self, timeout=15):
        """True when the server closes within the time; bytes that come before are dropped."""
        self.sock.settimeout(timeout)
        try:
            while True:
                self.fill()
                self.buf.clear()
        except Closed:
            return True
        except socket.timeout:
            return False

    def close(self):
        self.sock.close()

    # ---- negotiation ----

    def option(self, opt, data=b"", length=None, magic=IHAVEOPT):
        self.send_raw(struct.pack(">QII", magic, opt, len(data) if length is None else length) + data)

    def option_reply(self, opt):
        magic, to, kind, length = struct.unpack(">QIII", self.read(20))
        assert magic == REPLY_MAGIC and to == opt, (hex(magic), to)
        return kind, self.read(length)

    def option_replies(self, opt):
        """All replies to an option, up to the ACK or the error."""
        replies = []
        while True:
            replies.append(self.option_reply(opt))
            if replies[-1][0] == REP_ACK or replies[-1][0] & (1 << 31):
                return replies

    def go(self, export, opt=OPT_GO, infos=()):
        name = export.encode() if isinstance(export, str) else export
        self.option(opt, struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos))
                    + b"".join(struct.pack(">H", i) for i in infos))
        return self.option_replies(opt)

    # ---- transmission ----

    @staticmethod
    def request(cmd, offset=0, length=0, flags=0, cookie=0, data=b"", magic=REQUEST_MAGIC):
        return struct.pack(">IHHQQI", magic, flags, cmd, cookie, offset, length) + data

    def send(self, cmd, offset=0, length=0, flags=0, data=b""):
        """Sends one request and returns its cookie."""
        self.cookie += 1
        self.pending[self.cookie] = length if cmd == CMD_READ else 0
        self.send_raw(self.request(cmd, offset, length, flags, self.cookie, data))
        return self.cookie

    def write(self, offset, data, flags=0):
        return self.send(CMD_WRITE, offset, len(data), flags, data)

    def next_reply(self):
        """A whole reply that is in the buffer, as (cookie, error, data), else None."""
        if len(self.buf) < 16:
            return None
        magic, error, cookie = struct.unpack_from(">IIQ", self.buf)
        assert magic == SIMPLE_REPLY_MAGIC, hex(magic)
        n = 0 if error else self.pending[cookie]
        if len(self.buf) < 16 + n:
            return None
        data = bytes(self.buf[16:16 + n])
        del self.buf[:16 + n]
        del self.pending[cookie]
        return cookie, error, data

    def reply(self):
        """Waits for a reply to any request."""
        while (got := self.next_reply()) is None:
            self.fill()
        return got

    def readable(self, timeout=0):
        return bool(select.select([self.sock], [], [], timeout)[0])

    def call(self, *args, **kwargs):
        """One request and its reply, with nothing else under way: (error, data)."""
        cookie = self.send(*args, **kwargs)
        got, error, data = self.reply()
        assert got == cookie
        return error, data

    def disconnect(self):
        self.send_raw(self.request(CMD_DISC))


class ExtendedConn(Conn):
    """A connection in the transmission phase with extended headers and, unless told otherwise, base:allocation."""

    CONTEXT = b"base:allocation"

    def __init__(self, path, export, timeout=30, context=True):
        super().__init__(path, timeout=timeout)
        self.export = export
        self.option(OPT_EXTENDED_HEADERS)
        assert self.option_replies(OPT_EXTENDED_HEADERS) == [(REP_ACK, b"")]
        self.context = None
        if context:
            self.context = self.set_context(export)
        replies = self.go(export)
        assert replies[-1][0] == REP_ACK, replies
        for kind, data in replies:
            if kind == REP_INFO and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:12])

    def set_context(self, export):
        name = export.encode()
        self.option(OPT_SET_META_CONTEXT, struct.pack(">I", len(name)) + name
                    + struct.pack(">II", 1, len(self.CONTEXT)) + self.CONTEXT)
        replies = self.option_replies(OPT_SET_META_CONTEXT)
        assert [kind for kind, _ in replies] == [REP_META_CONTEXT, REP_ACK] and replies[0][1][4:] == self.CONTEXT
        return struct.unpack(">I", replies[0][1][:4])[0]

    @staticmethod
    def request(cmd, offset=0, length=0, flags=0, cookie=0, data=b"", magic=EXTENDED_REQUEST_MAGIC):
        return struct.pack(">IHHQQQ", magic, flags, cmd, cookie, offset, length) + data

    def send(self, cmd, offset=0, length=0, flags=0, data=b""):
        self.cookie += 1
        self.pending[self.cookie] = offset
        self.send_raw(self.request(cmd, offset, length, flags, self.cookie, data))
        return self.cookie

    def write(self, offset, data, flags=0):
        return self.send(CMD_WRITE, offset, len(data), flags | CMD_FLAG_PAYLOAD_LEN, data)

    def next_reply(self):
        """A chunk that is in the buffer, as (cookie, type, payload), else None. The server sends one a reply."""
        if len(self.buf) < 32:
            return None
        magic, flags, kind, cookie, offset, length = struct.unpack_from(">IHHQQQ", self.buf)
        assert magic == EXTENDED_REPLY_MAGIC and flags == CHUNK_DONE, (hex(magic), flags)
        assert offset == self.pending[cookie]
        if len(self.buf) < 32 + length:
            return None
        payload = bytes(self.buf[32:32 + length])
        del self.buf[:32 + length]
        del self.pending[cookie]
        return cookie, kind, payload

    def call(self, *args, **kwargs):
        """One request and its reply, with nothing else under way: (type, payload)."""
        cookie = self.send(*args, **kwargs)
        got, kind, payload = self.reply()
        assert got == cookie
        return kind, payload

    def error_of(self, *args, **kwargs):
        """The same for a request that is refused: (error, text)."""
        kind, payload = self.call(*args, **kwargs)
        assert kind == CHUNK_ERROR, (hex(kind), payload)
        error, n = struct.unpack_from(">IH", payload)
        assert len(payload) == 6 + n
        return error, payload[6:].decode()
