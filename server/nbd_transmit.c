/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_transmit.c: the transmission phase: requests from bytes, to the engine, and back to replies.
 * The states of a session and its invariants are in nbd_session.h.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "server/nbd_request.h"

struct command {
	uint16_t flags; /* allowed; FUA always is */
	bool modifies;
	int past_end; /* error for a range that leaves the volume */
	enum fs_op op;
	void (*start)(struct nbd_session *s, struct nbd_request *req);
};

static void io_done(struct fs_io *io)
{
	nbd_request_finish(container_of(io, struct nbd_request, io), io->error);
}

/* ---- commands ------------------------------------------------------------- */

void nbd_transmit_submit(struct nbd_env *env)
{
	size_t n = env->batch_len;

	env->batch_len = 0;
	if (n)
		fs_submit(env->ctx, env->batch, n);
}

static void queue(struct nbd_request *req)
{
	struct nbd_env *env = req->session->env;

	if (env->batch_len == ARRAY_SIZE(env->batch))
		nbd_transmit_submit(env);
	env->batch[env->batch_len++] = &req->io;
}

static void start_read(struct nbd_session *s, struct nbd_request *req)
{
	if (!nbd_request_own_buffer(req, req->io.len)) {
		nbd_request_finish(req, -ENOMEM);
		return;
	}
	req->io.buf = req->buf;
	req->body_len = req->io.len;
	queue(req);
}

static void start_simple(struct nbd_session *s, struct nbd_request *req)
{
	if (req->flags & NBD_CMD_FLAG_FUA)
		req->io.flags |= FS_FUA;
	queue(req);
}

static void start_cache(struct nbd_session *s, struct nbd_request *req)
{
	req->io.len = min_u64(req->io.len, NBD_IO_MAX); /* it is a hint: a part of it will do */
	if (req->io.len > NBD_PIECE_DIRECT_MAX)
		nbd_piece_start(req);
	else
		queue(req);
}

static void start_zero(struct nbd_session *s, struct nbd_request *req)
{
	if (req->flags & NBD_CMD_FLAG_NO_HOLE)
		req->io.flags |= FS_NO_HOLE;
	/*
	 * Punching a hole is a matter of metadata. Keeping the space means writing zeros: no faster than the
	 * client.
	 */
	if ((req->flags & NBD_CMD_FLAG_FAST_ZERO) && (req->flags & NBD_CMD_FLAG_NO_HOLE))
		nbd_request_finish(req, -EOPNOTSUPP);
	else if ((req->io.flags & FS_NO_HOLE) && req->io.len > NBD_PIECE_DIRECT_MAX)
		nbd_piece_start(req);
	else
		start_simple(s, req);
}

/*
 * One piece of the map; equal neighbours become one extent. Nonzero ends the walk: there is no room for more.
 */
static int add_extent(void *arg, uint64_t off, uint64_t len, bool hole)
{
	struct nbd_request *req = arg;
	uint64_t flags = hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
	struct nbd_extent_ext *ext = req->buf;

	if (!len)
		return 0;
	if (req->extents && be64_to_cpu(ext[req->extents - 1].flags) == flags) {
		ext += req->extents - 1;
		ext->len = cpu_to_be64(be64_to_cpu(ext->len) + len);
	} else if (req->extents < req->extents_max) {
		ext[req->extents++] = (struct nbd_extent_ext){cpu_to_be64(len), cpu_to_be64(flags)};
	} else {
		return 1;
	}
	return ++req->walked >= NBD_PIECES_WALKED_MAX;
}

/* A compact request asks for less than 4 GiB: its extents fit. They move to the front of the same buffer. */
static void make_extents_compact(struct nbd_request *req)
{
	uint8_t *buf = req->buf;
	struct nbd_extent_ext from;

	for (uint32_t i = 0; i < req->extents; i++) {
		memcpy(&from, buf + i * sizeof(from), sizeof(from));
		memcpy(buf + i * sizeof(struct nbd_extent),
		       &(struct nbd_extent){cpu_to_be32(be64_to_cpu(from.len)),
					    cpu_to_be32(be64_to_cpu(from.flags))},
		       sizeof(struct nbd_extent));
	}
}

static void status_done(struct task *task)
{
	struct nbd_request *req = container_of(task, struct nbd_request, task);

	if (!req->error && !req->extents) /* "unknown" is always a valid answer */
		add_extent(req, req->io.off, req->io.len, false);
	req->body_len = req->extents * sizeof(struct nbd_extent_ext);
	if (!req->session->extended) {
		make_extents_compact(req);
		req->body_len = req->extents * sizeof(struct nbd_extent);
	}
	nbd_request_finish(req, req->error);
}

/* On a worker thread. */
static void status_work(struct fs_work *work)
{
	struct nbd_request *req = container_of(work, struct nbd_request, work);
	struct nbd_env *env = req->session->env;
	int r = fs_volume_map(req->io.vol, req->io.off, req->io.len, add_extent, req);

	req->error = r < 0 ? r : 0;
	env->post(env, &req->task);
}

static uint32_t extents_max(uint16_t flags)
{
	return flags & NBD_CMD_FLAG_REQ_ONE ? 1 : NBD_EXTENTS_MAX;
}

static void start_status(struct nbd_session *s, struct nbd_request *req)
{
	req->extents_max = extents_max(req->flags);
	if (!nbd_request_own_buffer(req, req->extents_max * sizeof(struct nbd_extent_ext))) {
		nbd_request_finish(req, -ENOMEM);
		return;
	}
	req->work.fn = status_work;
	req->task.fn = status_done;
	fs_work(s->env->fs, &req->work);
}

/*
 * WRITE has no start: its data comes first (see take_write). DISC has no entry: it is no request to answer.
 */
static const struct command commands[] = {
	[NBD_CMD_READ] = {NBD_CMD_FLAG_DF, false, -EINVAL, FS_READ, start_read},
	[NBD_CMD_WRITE] = {0, true, -ENOSPC, FS_WRITE, start_simple},
	[NBD_CMD_FLUSH] = {0, false, -EINVAL, FS_FLUSH, start_simple},
	[NBD_CMD_TRIM] = {0, true, -EINVAL, FS_TRIM, start_simple},
	[NBD_CMD_CACHE] = {0, false, -EINVAL, FS_CACHE, start_cache},
	[NBD_CMD_WRITE_ZEROES] = {NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, -ENOSPC, FS_ZERO,
				  start_zero},
	[NBD_CMD_BLOCK_STATUS] = {NBD_CMD_FLAG_REQ_ONE, false, -EINVAL, 0, start_status},
};

static const struct command *command_find(uint16_t type)
{
	return type < ARRAY_SIZE(commands) && commands[type].start ? &commands[type] : NULL;
}

static bool has_data(uint16_t type)
{
	return type == NBD_CMD_READ || type == NBD_CMD_WRITE;
}

static int refusal(struct nbd_header *h, int error, const char *why)
{
	h->wrong = why;
	return error;
}

static int check_flags(const struct nbd_session *s, const struct command *cmd, struct nbd_header *h)
{
	uint16_t allowed = cmd->flags | NBD_CMD_FLAG_FUA;

	if (!s->structured)
		allowed &= ~NBD_CMD_FLAG_DF;
	if (s->extended && (h->type == NBD_CMD_WRITE || h->type == NBD_CMD_BLOCK_STATUS))
		allowed |= NBD_CMD_FLAG_PAYLOAD_LEN;
	return h->flags & ~allowed ? refusal(h, -EINVAL, "it has flags that do not belong to it") : 0;
}

static int check_range(const struct nbd_session *s, const struct command *cmd, struct nbd_header *h)
{
	uint64_t size = fs_volume_size(s->export.vol);

	if (h->type == NBD_CMD_FLUSH)
		return h->off || h->len ? refusal(h, -EINVAL, "a flush has no range") : 0;
	if (has_data(h->type) && h->len > NBD_IO_MAX)
		return refusal(h, h->flags & NBD_CMD_FLAG_DF ? -EOVERFLOW : -EINVAL,
			       "it is larger than the server's limit");
	if (h->off > size || h->len > size - h->off)
		return refusal(h, cmd->past_end, "it goes beyond the end of the volume");
	return 0;
}

static int check_status(const struct nbd_session *s, struct nbd_header *h)
{
	if (!s->allocation)
		return refusal(h, -EINVAL, "no context was agreed on");
	return h->len ? 0 : refusal(h, -EINVAL, "it has no range");
}

/* What is wrong with it is left in h->wrong, where the error alone does not say. */
static int check(const struct nbd_session *s, const struct command *cmd, struct nbd_header *h)
{
	int r;

	if (!cmd)
		return refusal(h, -EINVAL, "the server does not know it");
	if (h->wrong)
		return -EINVAL;
	r = h->type == NBD_CMD_BLOCK_STATUS ? check_status(s, h) : 0;
	if (r == 0)
		r = check_flags(s, cmd, h);
	if (r < 0)
		return r;
	if (cmd->modifies && s->export.read_only)
		return -EROFS;
	return check_range(s, cmd, h);
}

/* ---- headers ---------------------------------------------------------------- */

static struct nbd_header decode_compact(const struct nbd_request_header *wire)
{
	struct nbd_header h = {
		.flags = be16_to_cpu(wire->flags),
		.type = be16_to_cpu(wire->type),
		.bytes = sizeof(*wire),
		.off = be64_to_cpu(wire->off),
		.len = be32_to_cpu(wire->len),
		.cookie = wire->cookie,
	};

	h.payload = h.type == NBD_CMD_WRITE ? h.len : 0;
	return h;
}

/* A BLOCK_STATUS whose payload can be right: there is one context to choose. */
static bool has_filter(const struct nbd_extended_request_header *wire)
{
	return be16_to_cpu(wire->type) == NBD_CMD_BLOCK_STATUS &&
	       (be16_to_cpu(wire->flags) & NBD_CMD_FLAG_PAYLOAD_LEN) &&
	       be64_to_cpu(wire->len) == sizeof(struct nbd_status_filter);
}

static void decode_filter(struct nbd_header *h, const struct nbd_status_filter *filter)
{
	h->bytes += sizeof(*filter);
	h->payload = 0;
	h->len = be64_to_cpu(filter->len);
	if (be32_to_cpu(filter->context) != NBD_ALLOCATION_ID)
		h->wrong = "it names a context that was not agreed on";
}

/* The client and we no longer agree on where the next request begins: nothing after this one is believed. */
static void lose_track(struct nbd_header *h, const char *wrong)
{
	h->wrong = wrong;
	h->ends = true;
	h->payload = 0;
}

static struct nbd_header decode_extended(const struct nbd_extended_request_header *wire)
{
	struct nbd_header h = {
		.flags = be16_to_cpu(wire->flags),
		.type = be16_to_cpu(wire->type),
		.bytes = sizeof(*wire),
		.off = be64_to_cpu(wire->off),
		.len = be64_to_cpu(wire->len),
		.cookie = wire->cookie,
	};

	/* QEMU 10 sends the data of a write without the flag that the specification demands. */
	if ((h.flags & NBD_CMD_FLAG_PAYLOAD_LEN) || h.type == NBD_CMD_WRITE)
		h.payload = h.len;
	if (h.payload > NBD_IO_MAX)
		lose_track(&h, "its payload is larger than the server's limit");
	else if (has_filter(wire))
		decode_filter(&h, (const struct nbd_status_filter *)(wire + 1));
	else if (h.type == NBD_CMD_BLOCK_STATUS && (h.flags & NBD_CMD_FLAG_PAYLOAD_LEN))
		h.wrong = "its payload is not a length and the ids of contexts, each of them once";
	return h;
}

static uint32_t magic_of(const struct nbd_session *s)
{
	return s->extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
}

bool nbd_transmit_is_whole(const struct nbd_session *s, const struct nbd_input *in)
{
	const struct nbd_extended_request_header *wire = (const void *)(in->data + in->pos);
	size_t have = in->end - in->pos;

	if (!s->extended)
		return have >= sizeof(struct nbd_request_header);
	if (have < sizeof(*wire))
		return false;
	return have >= NBD_REQUEST_BYTES_MAX || be32_to_cpu(wire->magic) != magic_of(s) || !has_filter(wire);
}

/* ---- room ------------------------------------------------------------------- */

void nbd_session_wait(struct nbd_session *s)
{
	struct nbd_env *env = s->env;

	if (!s->waiting) {
		s->waiting = true;
		TAILQ_INSERT_TAIL(&env->waiters, s, wait_entry);
		env->nr_waiters++;
	}
	budget_member_wait(&env->member);
}

bool nbd_session_take(struct nbd_session *s, uint64_t bytes, bool *ret_reserve)
{
	*ret_reserve = false;
	for (unsigned tries = 0; tries < 2; tries++) {
		if (budget_take(&s->account, bytes) ||
		    (buf_pool_yield(&s->env->pool) && budget_take(&s->account, bytes))) {
			if (!s->reserve_used)
				budget_leave(&s->account); /* its place in the queue */
			return true;
		}
		if (!s->reserve_used && budget_queue(&s->account)) {
			s->reserve_used = *ret_reserve = true;
			return true;
		}
		nbd_session_wait(s); /* and once more: something may have come back just now */
	}
	return false;
}

bool nbd_transmit_grow(struct nbd_session *s)
{
	struct nbd_request *req = s->filling;
	uint32_t step = min_u64(req->io.len - req->granted, NBD_GRANT_STEP);

	if (s->filled < req->granted || req->reserve)
		return true;
	if (!nbd_session_take(s, step, &req->reserve))
		return false;
	if (!req->reserve)
		req->taken += step;
	req->granted = req->reserve ? req->io.len : req->granted + step;
	return true;
}

/* A write whose data is all there stays where it is. */
static bool stays_in_place(const struct nbd_session *s, const struct nbd_header *h,
			   const struct nbd_input *in)
{
	return in->rx && h->len <= in->end - in->pos - h->bytes && !buf_pool_rx_is_short(&s->env->pool);
}

/* The engine reads or writes without a buffer of ours. Longer requests go in pieces, a few at a time. */
static uint64_t engine_memory_for(uint64_t len)
{
	return len <= NBD_PIECE_DIRECT_MAX ? buf_pool_bytes(len) : 0;
}

/* The memory that a request takes when it starts. */
static uint64_t memory_for(const struct nbd_session *s, const struct nbd_header *h,
			   const struct nbd_input *in)
{
	switch (h->type) {
	case NBD_CMD_READ: return buf_pool_bytes(h->len);
	case NBD_CMD_WRITE:
		if (stays_in_place(s, h, in))
			return 0;
		/* A spare buffer is there in full. */
		if (h->len <= NBD_GRANT_STEP || buf_pool_has_spare(&s->env->pool, h->len))
			return buf_pool_bytes(h->len);
		return NBD_GRANT_STEP;
	case NBD_CMD_BLOCK_STATUS:
		return buf_pool_bytes(extents_max(h->flags) * sizeof(struct nbd_extent_ext));
	case NBD_CMD_CACHE: return engine_memory_for(h->len);
	case NBD_CMD_WRITE_ZEROES: return h->flags & NBD_CMD_FLAG_NO_HOLE ? engine_memory_for(h->len) : 0;
	default: return 0;
	}
}

/* What a request needs to start, apart from its place. False: it waits. */
struct room {
	uint64_t bytes; /* charged */
	bool reserve;
};

static bool take_room(struct nbd_session *s, const struct nbd_header *h, const struct nbd_input *in,
		      struct room *ret_room)
{
	*ret_room = (struct room){.bytes = memory_for(s, h, in)};
	if (has_data(h->type) && s->bytes && s->bytes + h->len > NBD_CONN_BYTES_MAX)
		return false; /* until its own requests are done */
	if (ret_room->bytes && !nbd_session_take(s, ret_room->bytes, &ret_room->reserve))
		return false;
	if (ret_room->reserve)
		ret_room->bytes = 0;
	return true;
}

static void give_room(struct nbd_session *s, const struct room *room)
{
	budget_give(&s->account, room->bytes);
	if (!room->reserve)
		return;
	s->reserve_used = false;
	budget_leave(&s->account);
}

static bool has_place(struct nbd_session *s)
{
	if (nbd_request_has_place(s))
		return true;
	if (s->under_way < NBD_REQUESTS_MAX)
		nbd_session_wait(s); /* it is others who have them */
	return false;
}

/* ---- input ---------------------------------------------------------------- */

/* Throws `len` bytes of data away before the request is answered with `error`. */
static void refuse(struct nbd_session *s, struct nbd_request *req, int error, uint32_t len)
{
	if (!len) {
		nbd_request_finish(req, error);
		return;
	}
	req->error = error;
	s->refused = req;
	s->discard = len;
}

/*
 * If all of a write's data is there it stays there, else the request gets a buffer of its own and the rest
 * goes there.
 */
static void take_write(struct nbd_session *s, struct nbd_request *req, struct nbd_input *in)
{
	uint32_t len = req->io.len, have = min_u64(len, in->end - in->pos);

	if (!req->taken && !req->reserve) {
		req->rx = rx_buf_get(in->rx);
		req->io.buf = (void *)(in->data + in->pos);
		in->pos += len;
		start_simple(s, req);
		return;
	}
	if (!nbd_request_own_buffer(req, len)) {
		refuse(s, req, -ENOMEM, len);
		return;
	}
	memcpy(req->buf, in->data + in->pos, have);
	in->pos += have;
	req->io.buf = req->buf;
	req->granted = req->reserve ? len : min_u64(len, req->taken);
	if (have == len) {
		start_simple(s, req);
	} else {
		s->filling = req;
		s->filled = have;
	}
}

void nbd_transmit_filled(struct nbd_session *s)
{
	struct nbd_request *req = s->filling;

	s->filling = NULL;
	start_simple(s, req);
}

static void serve(struct nbd_session *s, struct nbd_request *req, const struct command *cmd,
		  struct nbd_input *in)
{
	req->io.op = cmd->op;
	req->io.done = io_done;
	if (has_data(req->command))
		nbd_request_charge(req, req->io.len);
	if (req->command == NBD_CMD_WRITE)
		take_write(s, req, in);
	else
		cmd->start(s, req);
}

/* A request that is answered without doing anything, rightly or wrongly. */
static bool is_idle(const struct nbd_header *h, int error)
{
	return error || (!h->len && h->type != NBD_CMD_FLUSH);
}

/* False: the session ends here. What came before is still answered. */
static bool read_header(struct nbd_session *s, const struct nbd_input *in, struct nbd_header *ret_h)
{
	const void *wire = in->data + in->pos;

	if (be32_to_cpu(*(const be32 *)wire) != magic_of(s)) {
		nbd_session_drain(s, "what it sent is not a request");
		return false;
	}
	*ret_h = s->extended ? decode_extended(wire) : decode_compact(wire);
	if (ret_h->type == NBD_CMD_DISC) {
		nbd_session_drain(s, NBD_WHY_CLIENT);
		return false;
	}
	return true;
}

/* Takes one request from its header on. Leaves `in` as it is when there is no room for it now. */
static void take_request(struct nbd_session *s, struct nbd_input *in)
{
	const struct command *cmd;
	struct room room = {0};
	struct nbd_request *req;
	struct nbd_header h;
	int error;

	if (!read_header(s, in, &h))
		return;
	cmd = command_find(h.type);
	error = check(s, cmd, &h);
	if (!has_place(s) || (!is_idle(&h, error) && !take_room(s, &h, in, &room)))
		return;
	req = nbd_request_new(s, &h);
	if (!req) {
		give_room(s, &room);
		nbd_session_break(s, NBD_WHY_MEMORY);
		return;
	}
	req->taken = room.bytes;
	req->reserve = room.reserve;
	in->pos += h.bytes;
	req->why = h.wrong;
	if (is_idle(&h, error))
		refuse(s, req, error, h.payload);
	else
		serve(s, req, cmd, in);
	if (h.ends)
		nbd_session_drain(s, "it sent a payload larger than the server's limit");
}

static void discard(struct nbd_session *s, struct nbd_input *in)
{
	uint32_t n = min_u64(s->discard, in->end - in->pos);
	struct nbd_request *req = s->refused;

	s->discard -= n;
	in->pos += n;
	if (!s->discard) {
		s->refused = NULL;
		nbd_request_finish(req, req->error);
	}
}

void nbd_transmit_input(struct nbd_session *s, struct nbd_input *in)
{
	while (in->pos < in->end && s->state == NBD_TRANSMIT) {
		uint32_t from = in->pos;

		if (s->refused)
			discard(s, in);
		else if (nbd_transmit_is_whole(s, in))
			take_request(s, in);
		if (in->pos == from)
			break;
	}
}
