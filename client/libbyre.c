/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/libbyre.c: libbyre's connection: one request after another, each waited for.
 *
 * Invariants
 * 1. After a failure in the middle of an exchange the socket is closed: nobody knows what comes next on it.
 * 2. What the daemon says is checked as if it came from a stranger.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "client/libbyre_int.h"
#include "proto/rpc_status.h"

/*
 * How long a daemon may take to accept and to say hello: what listens there may be something else and say
 * nothing.
 */
#define HELLO_TIMEOUT_MS 10000

const char *byre_version(void)
{
	return BYRE_VERSION;
}

const char *byre_default_address(void)
{
	const char *address = getenv("BYRE_CONNECT");

	return address && address[0] ? address : BYRE_DEFAULT_ADDRESS;
}

static bool is_name_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
	       c == '_' || c == '-';
}

bool byre_name_is_valid(const char *name)
{
	size_t len = 0;

	for (; name[len]; len++) {
		if (len == BYRE_NAME_MAX || !is_name_byte(name[len]))
			return false;
	}
	return len && name[0] != '.' && name[0] != '-';
}

int libbyre_fail(struct byre_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return code;
}

void libbyre_one_line(char *to, size_t len, const char *from)
{
	size_t i;

	for (i = 0; from[i] && i + 1 < len; i++)
		to[i] = (unsigned char)from[i] < 0x20 || from[i] == 0x7f ? ' ' : from[i];
	to[i] = '\0';
}

void libbyre_word(char *to, size_t len, const char *from)
{
	size_t i;

	for (i = 0; from[i] && i + 1 < len; i++)
		to[i] = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
	to[i] = '\0';
}

void libbyre_copy_out(void *to, size_t to_size, const void *from, size_t from_size)
{
	size_t n = min_u64(to_size, from_size);

	memcpy(to, from, n);
	memset((char *)to + n, 0, to_size - n);
}

/* ---- time ----------------------------------------------------------------- */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void start_time(struct byre *b, unsigned timeout_ms)
{
	b->deadline_ms = timeout_ms ? now_ms() + timeout_ms : 0;
}

/* Waits until the socket is ready for `events`. 0, -ETIMEDOUT, or what poll failed with. */
static int wait_for(const struct byre *b, short events)
{
	struct pollfd pfd = {.fd = b->fd, .events = events};
	uint64_t now;
	int r, wait = -1;

	do {
		if (b->deadline_ms) {
			now = now_ms();
			if (now >= b->deadline_ms) /* also while bytes come that answer nothing */
				return -ETIMEDOUT;
			wait = (int)min_u64(b->deadline_ms - now, INT32_MAX);
		}
		r = poll(&pfd, 1, wait);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r ? 0 : -ETIMEDOUT;
}

/* ---- bytes ---------------------------------------------------------------- */

static void drop_connection(struct byre *b)
{
	if (b->fd >= 0)
		close(b->fd);
	b->fd = -1;
}

static int connection_failed(struct byre *b, int code, struct byre_error *err)
{
	drop_connection(b);
	if (code == -ETIMEDOUT)
		return libbyre_fail(
			err, code,
			"the daemon at %s did not answer in time; what was asked for may still be done",
			b->address);
	return libbyre_fail(err, code, "the connection to the daemon at %s failed: %s", b->address,
			    strerror(-code));
}

static int protocol_failed(struct byre *b, const char *why, struct byre_error *err)
{
	drop_connection(b);
	return libbyre_fail(err, -EPROTO, "what answers at %s does not speak Byre's protocol: %s", b->address,
			    why);
}

static int send_bytes(struct byre *b, const void *data, size_t len, int flags)
{
	const uint8_t *p = data;

	while (len) {
		int r = wait_for(b, POLLOUT);
		ssize_t n = r ? 0 : send(b->fd, p, len, flags | MSG_NOSIGNAL | MSG_DONTWAIT);

		if (r)
			return r;
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int send_request(struct byre *b, uint16_t method, const ProtobufCMessage *request,
			struct byre_error *err)
{
	size_t len = protobuf_c_message_get_packed_size(request);
	struct rpc_frame frame = {.kind = RPC_REQUEST, .id = ++b->last_id, .method = method};
	struct rpc_header header;
	uint8_t *message;
	int r;

	if (len > RPC_MESSAGE_MAX)
		return libbyre_fail(err, -EMSGSIZE, "the request is too long: %zu bytes", len);
	message = mem_alloc(len + 1);
	if (!message)
		return libbyre_fail(err, -ENOMEM, "out of memory");

	frame.message_len = (uint32_t)protobuf_c_message_pack(request, message);
	rpc_frame_encode(&frame, &header);
	r = send_bytes(b, &header, sizeof(header), len ? MSG_MORE : 0);
	if (!r)
		r = send_bytes(b, message, len, 0);
	mem_free(message);

	/* A daemon that refuses us says why and closes: its last words may be there to read. */
	if (r == -EPIPE || r == -ECONNRESET)
		r = 0;
	return r ? connection_failed(b, r, err) : 0;
}

/* Reads until a frame is complete; its parts live until the next call. */
static int read_frame(struct byre *b, struct rpc_frame *ret_frame, struct byre_error *err)
{
	uint8_t buf[8192];
	size_t used;
	ssize_t n;
	int r;

	for (;;) {
		r = wait_for(b, POLLIN);
		if (r)
			return connection_failed(b, r, err);
		n = recv(b->fd, buf, min_u64(sizeof(buf), rpc_parser_wants(&b->parser)), MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return connection_failed(b, n ? -errno : -ECONNRESET, err);

		r = rpc_parser_feed(&b->parser, buf, (size_t)n, &used, ret_frame);
		if (r == -ENOMEM)
			return connection_failed(b, r, err);
		if (r < 0)
			return protocol_failed(b, b->parser.why, err);
		if (r > 0)
			return 0;
	}
}

/* ---- one exchange --------------------------------------------------------- */

static int refused_by_daemon(const struct rpc_frame *f, const char *what, struct byre_error *err)
{
	int code = rpc_status_to_errno(f->status);
	Byre__Error *msg;

	if (!err)
		return code;

	libbyre_fail(err, code, "%s: %s", what, strerror(-code));
	msg = byre__error__unpack(NULL, f->message_len, f->message);
	if (msg && msg->text[0])
		libbyre_one_line(err->text, sizeof(err->text), msg->text);
	if (msg)
		byre__error__free_unpacked(msg, NULL);
	return code;
}

/* Reads frames until the one that answers the last request. */
static int read_reply(struct byre *b, const char *what, struct rpc_frame *ret_frame, struct byre_error *err)
{
	int r;

	do {
		r = read_frame(b, ret_frame, err);
		if (r)
			return r;
	} while (ret_frame->kind == RPC_CREDIT);

	if (ret_frame->kind != RPC_REPLY)
		return protocol_failed(b, "a reply was expected", err);
	if (ret_frame->id == 0) {
		r = refused_by_daemon(ret_frame, what, err);
		drop_connection(b);
		return r ? r : -EPROTO;
	}
	if (ret_frame->id != b->last_id)
		return protocol_failed(b, "a reply to a request that was not made", err);
	return ret_frame->status ? refused_by_daemon(ret_frame, what, err) : 0;
}

int libbyre_call(struct byre *b, uint16_t method, const char *what, const ProtobufCMessage *request,
		 const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret_reply, struct byre_error *err)
{
	struct rpc_frame frame = {0};
	ProtobufCMessage *reply;
	int r;

	if (b->fd < 0)
		return libbyre_fail(err, -ENOTCONN, "%s: the connection to %s has failed before", what,
				    b->address);

	start_time(b, b->timeout_ms);
	r = send_request(b, method, request, err);
	if (!r)
		r = read_reply(b, what, &frame, err);
	if (r)
		return r;

	reply = protobuf_c_message_unpack(type, NULL, frame.message_len, frame.message);
	if (!reply)
		return protocol_failed(b, "a reply that cannot be decoded", err);
	*ret_reply = reply;
	return 0;
}

int libbyre_call_empty(struct byre *b, uint16_t method, const char *what, const ProtobufCMessage *request,
		       struct byre_error *err)
{
	ProtobufCMessage *reply = NULL;
	int r;

	r = libbyre_call(b, method, what, request, &byre__empty__descriptor, &reply, err);
	if (!r)
		libbyre_free(reply);
	return r;
}

void libbyre_free(ProtobufCMessage *msg)
{
	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
}

/* ---- connecting ----------------------------------------------------------- */

void byre_set_timeout(struct byre *b, unsigned timeout_ms)
{
	b->timeout_ms = timeout_ms;
}

static int hello(struct byre *b, struct byre_error *err)
{
	Byre__HelloRequest rq = BYRE__HELLO_REQUEST__INIT;
	ProtobufCMessage *reply = NULL;
	int r;

	rq.client = (char *)"libbyre " BYRE_VERSION;
	r = libbyre_call(b, BYRE__METHOD__METHOD_HELLO, "hello", &rq.base, &byre__hello_reply__descriptor,
			 &reply, err);
	if (r)
		return r;
	libbyre_free(reply);
	return 0;
}

static const char *connect_advice(int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED: return "is byred running? (byre finds it by --connect or $BYRE_CONNECT)";
	case -EACCES:
	case -EPERM: return "this user may not talk to it";
	default: return "check the address";
	}
}

static int connect_socket(struct byre *b, const char *address, struct byre_error *err)
{
	struct addr addr;
	int r;

	r = addr_parse(address, &addr);
	if (r)
		return libbyre_fail(err, r, "'%s' is not an address: use unix:PATH or tcp:HOST:PORT",
				    address);

	addr_format(&addr, b->address);
	r = addr_connect_within(&addr, b->timeout_ms, &b->fd);
	if (r)
		return libbyre_fail(err, r, "cannot connect to the daemon at %s: %s: %s", b->address,
				    strerror(-r), connect_advice(r));
	return 0;
}

int byre_connect(const char *address, struct byre **ret_byre, struct byre_error *err)
{
	return byre_connect_timeout(address, 0, ret_byre, err);
}

int byre_connect_timeout(const char *address, unsigned timeout_ms, struct byre **ret_byre,
			 struct byre_error *err)
{
	struct byre *b = mem_zalloc(sizeof(*b));
	int r;

	if (!b)
		return libbyre_fail(err, -ENOMEM, "out of memory");

	b->fd = -1;
	rpc_parser_init(&b->parser);
	b->timeout_ms = timeout_ms && timeout_ms < HELLO_TIMEOUT_MS ? timeout_ms : HELLO_TIMEOUT_MS;
	r = connect_socket(b, address ? address : byre_default_address(), err);
	if (!r)
		r = hello(b, err);
	if (r) {
		byre_close(b);
		return r;
	}
	b->timeout_ms = timeout_ms;
	*ret_byre = b;
	return 0;
}

void byre_close(struct byre *b)
{
	if (!b)
		return;
	drop_connection(b);
	rpc_parser_fini(&b->parser);
	mem_free(b);
}
