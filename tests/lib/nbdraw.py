# SPDX-License-Identifier: BSD-3-Clause
"""NBD by hand, on a socket: what libnbd will not send, and exact knowledge of which replies have arrived.

Simple replies only; structured replies are never asked for.
"""
import select
import socket
import struct

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698

FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 6, 7, 8
REP_ACK, REP_SERVER, REP_INFO = 1, 2, 3
REP_ERR_UNSUP = (1 << 31) + 1
REP_ERR_POLICY = (1 << 31) + 2
REP_ERR_INVALID = (1 << 31) + 3
REP_ERR_UNKNOWN = (1 << 31) + 6
REP_ERR_TOO_BIG = (1 << 31) + 9
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES = 0, 1, 2, 3, 4, 5, 6
CMD_FLAG_FUA, CMD_FLAG_NO_HOLE = 1, 2

TFLAG_HAS_FLAGS, TFLAG_READ_ONLY, TFLAG_FLUSH, TFLAG_FUA = 1, 2, 4, 8
TFLAG_TRIM, TFLAG_WRITE_ZEROES, TFLAG_MULTI_CONN, TFLAG_CACHE = 32, 64, 256, 1024

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
