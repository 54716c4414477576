/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_piece.c: requests of 28 bytes that ask for a lot: WRITE_ZEROES that keeps its space (up to 4 GiB
 * of writes), and CACHE (up to 32 MiB of reads). They are not handed to the engine as a whole: they would
 * fill the device's queue and memory, and nothing could call them off.
 *
 * 1. At most NBD_PIECES_MAX pieces of a loop, and one of a session, are with the engine at a time; `pieces`
 *    and `piece_busy` count them. Sessions take turns, requests of one session are carried out in order.
 * 2. A session is in the environment's queue (`piece_queued`) when it has such requests and no piece under
 *    way.
 * 3. Together they take a share of the loop's time (server/share.h), since a piece costs it as much as dozens
 *    of ordinary requests.
 * 4. A request that is called off ends with -ESHUTDOWN: what was done of it stays.
 * 5. The last piece carries the request's FUA: a flush covers the pieces before it.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "server/nbd_request.h"

static void enqueue(struct nbd_session *s)
{
	struct nbd_env *env = s->env;

	if (s->piece_queued || s->piece_busy || !s->long_requests)
		return;
	s->piece_queued = true;
	s->piece_next = NULL;
	*env->piece_tail = s;
	env->piece_tail = &s->piece_next;
}

static void dequeue(struct nbd_session *s)
{
	struct nbd_env *env = s->env;
	struct nbd_session **pp = &env->piece_first;

	if (!s->piece_queued)
		return;
	while (*pp != s)
		pp = &(*pp)->piece_next;
	*pp = s->piece_next;
	if (!*pp)
		env->piece_tail = pp;
	s->piece_queued = false;
}

static struct nbd_request *take_first(struct nbd_session *s)
{
	struct nbd_request *req = s->long_requests;

	s->long_requests = req->next;
	if (!s->long_requests)
		s->long_tail = &s->long_requests;
	return req;
}

static bool is_called_off(const struct nbd_session *s)
{
	return s->state == NBD_BROKEN || s->piece_stop;
}

static void run(struct nbd_env *env);

static void piece_done(struct fs_io *io)
{
	struct nbd_request *req = container_of(io, struct nbd_request, io);
	struct nbd_session *s = req->session;
	struct nbd_env *env = s->env;
	int error = io->error;

	env->pieces--;
	s->piece_busy = false;
	if (!error && req->piece_off < req->piece_end && is_called_off(s))
		error = -ESHUTDOWN;
	if (!error && req->piece_off < req->piece_end) { /* first of its session again */
		req->next = s->long_requests;
		s->long_requests = req;
		if (!req->next)
			s->long_tail = &req->next;
	}
	enqueue(s);
	if (error || req->piece_off >= req->piece_end)
		nbd_request_finish(req, error);
	run(env);
}

static void start_piece(struct nbd_session *s)
{
	struct nbd_request *req = take_first(s);
	uint64_t left = req->piece_end - req->piece_off;
	struct fs_io *io = &req->io;

	/* Pieces meet at multiples of their size. */
	io->off = req->piece_off;
	io->len = min_u64(left, NBD_PIECE - req->piece_off % NBD_PIECE);
	if (io->op == FS_ZERO)
		io->flags = FS_NO_HOLE | (io->len == left && (req->flags & NBD_CMD_FLAG_FUA) ? FS_FUA : 0);
	io->done = piece_done;
	req->piece_off += io->len;
	s->piece_busy = true;
	s->env->pieces++;
	fs_submit(s->env->ctx, (struct fs_io *[]){io}, 1);
}

/*
 * What starting it took, and as much again and more for its end, which is not measured. On a machine with
 * much to do both take longer, as everything does: the share is one of what the loop gets.
 */
static void start_measured(struct nbd_session *s)
{
	struct share *share = &s->env->piece_share;
	uint64_t from = figures_now_us();

	start_piece(s);
	share->left_us -= (int64_t)max_u64((figures_now_us() - from) * NBD_PIECE_FACTOR, NBD_PIECE_MIN_US);
}

static bool has_time(struct nbd_env *env)
{
	struct share *share = &env->piece_share;

	if (!env->run_pieces_later)
		return true;
	if (!share_begin(share, figures_now_us())) {
		env->run_pieces_later(env);
		return false;
	}
	return true;
}

/* A piece may end inside its submission and call this again; the outermost call goes on. */
static void run(struct nbd_env *env)
{
	if (env->piece_running)
		return;
	env->piece_running = true;
	while (env->piece_first && env->pieces < NBD_PIECES_MAX && has_time(env)) {
		struct nbd_session *s = env->piece_first;

		dequeue(s);
		start_measured(s);
	}
	env->piece_running = false;
}

void nbd_env_run_pieces(struct nbd_env *env)
{
	run(env);
}

void nbd_piece_start(struct nbd_request *req)
{
	struct nbd_session *s = req->session;

	req->piece_off = req->io.off;
	req->piece_end = req->io.off + req->io.len;
	req->next = NULL;
	*s->long_tail = req;
	s->long_tail = &req->next;
	enqueue(s);
	run(s->env);
}

void nbd_piece_cancel(struct nbd_session *s)
{
	s->piece_stop = true;
	dequeue(s);
	while (s->long_requests)
		nbd_request_finish(take_first(s), -ESHUTDOWN);
}
