/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_zero.c: WRITE_ZEROES that keeps its space. A header of 28 bytes asks for up to 4 GiB of writes, so these
 * are not handed to the engine as a whole: they would fill the device's queue, and nothing could call them off.
 *
 * 1. At most NBD_ZERO_PIECES_MAX pieces of a loop, and one of a session, are with the engine at a time; `zeroing` and
 *    `zero_busy` count them. Sessions take turns, requests of one session are carried out in order.
 * 2. A session is in the environment's queue (`zero_queued`) when it has zeros to write and no piece under way.
 * 3. A request that is called off ends with -ESHUTDOWN: what was written of it stays.
 * 4. The last piece carries the request's FUA: a flush covers the pieces before it.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "server/nbd_request.h"

static void enqueue(struct nbd_session *s)
{
	struct nbd_env *env = s->env;

	if (s->zero_queued || s->zero_busy || !s->zeros)
		return;
	s->zero_queued = true;
	s->zero_next = NULL;
	*env->zero_tail = s;
	env->zero_tail = &s->zero_next;
}

static void dequeue(struct nbd_session *s)
{
	struct nbd_env *env = s->env;
	struct nbd_session **pp = &env->zero_first;

	if (!s->zero_queued)
		return;
	while (*pp != s)
		pp = &(*pp)->zero_next;
	*pp = s->zero_next;
	if (!*pp)
		env->zero_tail = pp;
	s->zero_queued = false;
}

static struct nbd_request *take_first(struct nbd_session *s)
{
	struct nbd_request *req = s->zeros;

	s->zeros = req->next;
	if (!s->zeros)
		s->zeros_tail = &s->zeros;
	return req;
}

static bool is_called_off(const struct nbd_session *s)
{
	return s->state == NBD_BROKEN || s->zero_stop;
}

static void run(struct nbd_env *env);

static void piece_done(struct fs_io *io)
{
	struct nbd_request *req = container_of(io, struct nbd_request, io);
	struct nbd_session *s = req->session;
	struct nbd_env *env = s->env;
	int error = io->error;

	env->zeroing--;
	s->zero_busy = false;
	if (!error && req->zero_off < req->zero_end && is_called_off(s))
		error = -ESHUTDOWN;
	if (!error && req->zero_off < req->zero_end) { /* first of its session again */
		req->next = s->zeros;
		s->zeros = req;
		if (!req->next)
			s->zeros_tail = &req->next;
	}
	enqueue(s);
	if (error || req->zero_off >= req->zero_end)
		nbd_request_finish(req, error);
	run(env);
}

static void start_piece(struct nbd_session *s)
{
	struct nbd_request *req = take_first(s);
	uint64_t left = req->zero_end - req->zero_off;
	struct fs_io *io = &req->io;

	/* Pieces meet at multiples of their size. */
	io->off = req->zero_off;
	io->len = min_u64(left, NBD_ZERO_PIECE - req->zero_off % NBD_ZERO_PIECE);
	io->flags = FS_NO_HOLE | (io->len == left && (req->flags & NBD_CMD_FLAG_FUA) ? FS_FUA : 0);
	io->done = piece_done;
	req->zero_off += io->len;
	s->zero_busy = true;
	s->env->zeroing++;
	fs_submit(s->env->ctx, (struct fs_io *[]){io}, 1);
}

/* A piece may end inside its submission and call this again; the outermost call goes on. */
static void run(struct nbd_env *env)
{
	if (env->zero_running)
		return;
	env->zero_running = true;
	while (env->zero_first && env->zeroing < NBD_ZERO_PIECES_MAX) {
		struct nbd_session *s = env->zero_first;

		dequeue(s);
		start_piece(s);
	}
	env->zero_running = false;
}

void nbd_zero_start(struct nbd_request *req)
{
	struct nbd_session *s = req->session;

	req->zero_off = req->io.off;
	req->zero_end = req->io.off + req->io.len;
	req->next = NULL;
	*s->zeros_tail = req;
	s->zeros_tail = &req->next;
	enqueue(s);
	run(s->env);
}

void nbd_zero_cancel(struct nbd_session *s)
{
	s->zero_stop = true;
	dequeue(s);
	while (s->zeros)
		nbd_request_finish(take_first(s), -ESHUTDOWN);
}
