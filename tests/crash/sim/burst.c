/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/burst.c: several operations on volumes under way together, of different and of the same
 * volumes.
 *
 * They are started one after the other, so their order is known; they are answered in any. Each start that is
 * not refused has its place in the order of all changes. So after a crash the volumes are as after the first
 * k of them, for a k that leaves out none that was answered; and what is refused has changed nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "tests/crash/sim/world.h"
#include "fs/fs.h"
#include "fs/core/wakeup.h"

#define BURST_OPS_MAX 10u

/* A volume, as users see it. `made_by`: the number of the operation of this burst that creates it, from 1. */
struct shape {
	bool exists, reserved;
	char name[MODEL_NAME_MAX], comment[MODEL_NAME_MAX];
	uint64_t blocks;
	unsigned made_by;
};

struct shapes {
	struct shape vol[MODEL_VOLUMES_MAX];
};

struct burst_op {
	struct fs_volume_op op;
	struct burst *burst;
	enum client_kind kind;
	unsigned slot; /* of the model's volume */
	/* early: that is not there yet, or a name that is not free yet, may make it fail */
	bool answered, early;
	int error;
	char from[MODEL_NAME_MAX], to[MODEL_NAME_MAX]; /* SET: the comment */
};

struct burst {
	struct world *w;
	uint64_t rng;
	bool hasty; /* no pauses: more of them are under way together */
	unsigned count, wanted;
	struct burst_op op[BURST_OPS_MAX];
	struct shapes after[BURST_OPS_MAX + 1]; /* so many operations */
};

/* ---- what an operation makes of the volumes -------------------------------------------- */

static void carry_out(struct shapes *s, const struct burst_op *o, unsigned number)
{
	struct shape *v = &s->vol[o->slot];

	switch (o->kind) {
	case CLIENT_CREATE:
		*v = (struct shape){.exists = true,
				    .reserved = o->op.flags & FS_VOLUME_RESERVED,
				    .blocks = o->op.size / MODEL_BLOCK,
				    .made_by = number};
		strcpy(v->name, o->from);
		break;
	case CLIENT_DELETE: v->exists = false; break;
	case CLIENT_RENAME: strcpy(v->name, o->to); break;
	case CLIENT_RESIZE: v->blocks = o->op.size / MODEL_BLOCK; break;
	default:
		v->reserved = (v->reserved || o->op.change.set) && !o->op.change.clear;
		strcpy(v->comment, o->to);
	}
}

static void take_shapes(const struct model *m, struct shapes *ret_shapes)
{
	*ret_shapes = (struct shapes){0};
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		const struct model_volume *vol = &m->volume[i];
		struct shape *v = &ret_shapes->vol[i];

		if (!vol->exists)
			continue;
		*v = (struct shape){.exists = true, .reserved = vol->reserved, .blocks = vol->blocks};
		strcpy(v->name, vol->name);
		strcpy(v->comment, vol->comment);
	}
}

/* The first k of them, in the model. */
static void apply(struct world *w, const struct burst *b, unsigned k)
{
	for (unsigned i = 0; i < k; i++) {
		const struct burst_op *o = &b->op[i];
		struct client c = {.kind = o->kind,
				   .vol = &w->model->volume[o->slot],
				   .blocks = o->op.size / MODEL_BLOCK,
				   .reserved = b->after[i + 1].vol[o->slot].reserved};

		strcpy(c.name, o->kind == CLIENT_CREATE ? o->from : o->to);
		client_apply(w, &c);
	}
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		w->model->volume[i].reserved = b->after[k].vol[i].exists && b->after[k].vol[i].reserved;
}

/* ---- drawing ------------------------------------------------------------------------ */

static const struct shape *now(const struct burst *b)
{
	return b->after[b->count].vol;
}

static bool is_free(const struct burst *b, const char *name)
{
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		if (now(b)[i].exists && strcmp(now(b)[i].name, name) == 0)
			return false;
	return true;
}

static void new_name(struct burst *b, char *name)
{
	do
		snprintf(name, MODEL_NAME_MAX, "v%u", (unsigned)rng_below(&b->rng, 12));
	while (!is_free(b, name));
}

/* Somebody's that is still being deleted. */
static bool is_going(const struct burst *b, const char *name)
{
	for (unsigned i = 0; i < b->count; i++)
		if (b->op[i].kind == CLIENT_DELETE && !b->op[i].answered && strcmp(b->op[i].from, name) == 0)
			return true;
	return false;
}

static bool made_is_there(void *arg)
{
	struct burst_op *o = arg;

	return o->answered;
}

/* False: there is none. */
static bool draw_volume(struct burst *b, struct burst_op *o)
{
	unsigned first = (unsigned)rng_below(&b->rng, MODEL_VOLUMES_MAX);

	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		const struct shape *v = &now(b)[(first + i) % MODEL_VOLUMES_MAX];

		if (!v->exists)
			continue;
		o->slot = (first + i) % MODEL_VOLUMES_MAX;
		strcpy(o->from, v->name);
		if (v->made_by && rng_below(&b->rng, 4))
			sched_wait(made_is_there, &b->op[v->made_by - 1]);
		o->early = v->made_by && !b->op[v->made_by - 1].answered;
		return true;
	}
	return false;
}

/* One slot stays free, as for the other steps. */
static bool draw_slot(struct burst *b, struct burst_op *o)
{
	unsigned free = 0;

	for (unsigned i = MODEL_VOLUMES_MAX; i-- > 0;) {
		if (now(b)[i].exists)
			continue;
		free++;
		o->slot = i;
	}
	return free > 1;
}

static enum client_kind draw_kind(struct burst *b)
{
	static const enum client_kind kinds[] = {CLIENT_CREATE, CLIENT_CREATE, CLIENT_CREATE, CLIENT_DELETE,
						 CLIENT_DELETE, CLIENT_RENAME, CLIENT_RENAME, CLIENT_RESIZE,
						 CLIENT_RESIZE, CLIENT_SET,    CLIENT_SET};

	return kinds[rng_below(&b->rng, ARRAY_SIZE(kinds))];
}

static bool draw_op(struct burst *b, struct burst_op *o)
{
	static const enum fs_volume_op_kind kinds[] = {
		[CLIENT_CREATE] = FS_VOLUME_CREATE, [CLIENT_DELETE] = FS_VOLUME_DELETE,
		[CLIENT_RENAME] = FS_VOLUME_RENAME, [CLIENT_RESIZE] = FS_VOLUME_RESIZE,
		[CLIENT_SET] = FS_VOLUME_SET,
	};
	uint64_t size = (1 + rng_below(&b->rng, b->w->set->volume_blocks_max)) * MODEL_BLOCK,
		 reserve = rng_below(&b->rng, 4);
	/* what the room of a host makes of that, other steps look at */
	bool may_reserve = !b->w->set->sparse;

	*o = (struct burst_op){.burst = b, .kind = draw_kind(b)};
	if (o->kind == CLIENT_CREATE ? !draw_slot(b, o) : !draw_volume(b, o))
		return false;
	o->op = (struct fs_volume_op){.kind = kinds[o->kind], .name = o->from};
	if (o->kind == CLIENT_CREATE) {
		new_name(b, o->from);
		o->early = is_going(b, o->from);
		o->op.flags = may_reserve && reserve == 0 ? FS_VOLUME_RESERVED : 0;
	}
	if (o->kind == CLIENT_CREATE || o->kind == CLIENT_RESIZE)
		o->op.size = size;
	if (o->kind == CLIENT_RENAME) {
		new_name(b, o->to);
		o->early |= is_going(b, o->to);
		o->op.to = o->to;
	}
	if (o->kind == CLIENT_SET) {
		snprintf(o->to, sizeof(o->to), "c%u", (unsigned)rng_below(&b->rng, 100));
		o->op.change =
			(struct fs_volume_change){.set = may_reserve && reserve == 0 ? FS_VOLUME_RESERVED : 0,
						  .clear = reserve == 1 ? FS_VOLUME_RESERVED : 0,
						  .comment = o->to};
	}
	return true;
}

/* ---- carrying out ------------------------------------------------------------------------ */

static void op_done(struct fs_volume_op *op, int error)
{
	struct burst_op *o = container_of(op, struct burst_op, op);

	o->answered = true;
	o->error = error;
}

static bool is_unused(void *arg)
{
	struct burst_op *o = arg;

	return o->burst->w->under_way[o->slot] == 0;
}

/* What it is about to take away is not used any more until the burst is over. */
static void keep_off(struct world *w, struct burst_op *o)
{
	if (o->kind != CLIENT_DELETE && o->kind != CLIENT_RESIZE)
		return;
	w->blocked[o->slot] = true;
	sched_wait(is_unused, o);
	if (o->kind == CLIENT_DELETE && w->handle[o->slot]) {
		fs_volume_put(w->handle[o->slot]);
		w->handle[o->slot] = NULL;
	}
}

static bool is_over(struct world *w)
{
	return world_is_dead(w) || world_is_read_only(w);
}

static bool refusal_is_fine(struct world *w, const struct burst_op *o, int error)
{
	bool frees = o->kind == CLIENT_DELETE ||
		     (o->kind == CLIENT_RESIZE && o->op.size / MODEL_BLOCK < now(o->burst)[o->slot].blocks);

	if (error == -ENOENT || error == -EEXIST)
		return o->early;
	return (error == -ENOSPC && !frees) || (!world_is_strict(w) && error != -EINVAL);
}

static void start_op(struct world *w, struct burst *b, struct burst_op *o)
{
	bool refused;

	keep_off(w, o);
	if (o->op.change.clear) /* its writes may find no space as soon as that is durable */
		w->model->volume[o->slot].reserved = false;
	world_log(w, "burst: operation %d, volume %s, to %s, %llu bytes", o->kind, o->from, o->to,
		  (unsigned long long)o->op.size);
	o->op.done = op_done;
	fs_volume_op_start(w->fs, &o->op);
	/*
	 * In a pool that died meanwhile it may have had its place: nothing that comes later will be durable.
	 */
	refused = o->answered && o->error && !is_over(w);
	if (o->answered && o->error)
		world_log(w, "burst: operation %d on volume %s: %s", o->kind, o->from, o->op.err.msg);
	if (refused && !refusal_is_fine(w, o, o->error))
		sim_fail("operation %d on volume %s is refused for no reason: %s", o->kind, o->from,
			 o->op.err.msg);
	if (refused)
		return;
	b->after[b->count + 1] = b->after[b->count];
	carry_out(&b->after[b->count + 1], o, b->count + 1);
	b->count++;
}

static bool all_answered(void *arg)
{
	struct burst *b = arg;

	for (unsigned i = 0; i < b->count; i++)
		if (!b->op[i].answered)
			return false;
	return true;
}

/* How many at least have happened. */
static unsigned certain(const struct burst *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->count; i++)
		if (b->op[i].answered && b->op[i].error == 0)
			n = i + 1;
	return n;
}

static void pause_for_a_while(struct world *w, struct burst *b)
{
	uint64_t what = rng_below(&b->rng, 8);

	if (what == 0)
		fs_kick_commit(w->fs);
	for (uint64_t n = what < 4 ? rng_below(&b->rng, 60) : 0; n; n--)
		sched_pause();
}

static void end(struct world *w, struct burst *b)
{
	sched_wait(all_answered, b);
	for (unsigned i = 0; i < b->count; i++) {
		if (b->op[i].error && !is_over(w))
			sim_fail("operation %d on volume %s fails in a pool that lives: %s", b->op[i].kind,
				 b->op[i].from, b->op[i].op.err.msg);
		if (b->op[i].error)
			w->unsure.kind = CLIENT_BURST;
	}
	if (w->unsure.kind != CLIENT_NONE) /* the crash tells how many of them have happened */
		return;
	apply(w, b, b->count);
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		w->blocked[i] = false;
		if (w->model->volume[i].exists && !w->handle[i] && !is_over(w))
			world_get_handle(w, &w->model->volume[i]);
	}
}

void burst_run(struct world *w)
{
	struct burst *b = calloc(1, sizeof(*b));

	ASSERT(b);
	free(w->burst);
	w->burst = b;
	b->w = w;
	b->rng = w->client.blocks;
	b->hasty = rng_below(&b->rng, 2);
	b->wanted = 2 + (unsigned)rng_below(&b->rng, BURST_OPS_MAX - 1);
	take_shapes(w->model, &b->after[0]);
	for (unsigned i = 0; i < b->wanted && !is_over(w); i++) {
		if (draw_op(b, &b->op[b->count]))
			start_op(w, b, &b->op[b->count]);
		if (!b->hasty)
			pause_for_a_while(w, b);
	}
	end(w, b);
}

/* ---- after a crash ---------------------------------------------------------------------- */

static bool is_seen(const struct shape *v, const struct fs_volume_info *info, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(info[i].name, v->name) == 0)
			return info[i].size == v->blocks * MODEL_BLOCK &&
			       strcmp(info[i].comment, v->comment) == 0 &&
			       !(info[i].flags & FS_VOLUME_RESERVED) == !v->reserved;
	return false;
}

static bool are_seen(const struct shapes *s, const struct fs_volume_info *info, unsigned count)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		if (!s->vol[i].exists)
			continue;
		if (!is_seen(&s->vol[i], info, count))
			return false;
		n++;
	}
	return n == count;
}

bool shapes_are_seen(const struct model *m, const struct fs_volume_info *info, unsigned count)
{
	struct shapes s;

	take_shapes(m, &s);
	return are_seen(&s, info, count);
}

bool burst_recovered(struct world *w, const struct fs_volume_info *info, unsigned count)
{
	struct burst *b = w->burst;

	for (unsigned k = certain(b); k <= b->count; k++) {
		if (!are_seen(&b->after[k], info, count))
			continue;
		world_log(w, "%u of %u operations have happened, %u were answered", k, b->count, certain(b));
		apply(w, b, k);
		return true;
	}
	return false;
}
