/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/crash/sim/client.c: operations on volumes, and commits, beside the requests of the loops. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "tests/crash/sim/world.h"
#include "fs/device/device.h"
#include "fs/fs.h"

#define POOL_BYTES_MAX (192ull << 20)

static bool client_is_idle(void *arg)
{
	struct world *w = arg;

	return !w->client.fiber || sched_has_ended(w->client.fiber);
}

void client_wait(struct world *w)
{
	sched_wait(client_is_idle, w);
	if (w->client.fiber)
		sched_join(w->client.fiber);
	w->client.fiber = NULL;
	w->client.kind = CLIENT_NONE;
}

static bool volume_is_idle(void *arg)
{
	struct client *c = arg;
	struct world *w = container_of(c, struct world, client);

	return w->under_way[c->vol - w->model->volume] == 0;
}

void client_apply(struct world *w, const struct client *c)
{
	switch (c->kind) {
	case CLIENT_CREATE: model_volume_add(w->model, c->name, c->blocks)->reserved = c->reserved; break;
	case CLIENT_DELETE: model_volume_remove(w->model, c->vol); break;
	case CLIENT_RENAME: snprintf(c->vol->name, sizeof(c->vol->name), "%s", c->name); break;
	case CLIENT_RESIZE: model_volume_resize(w->model, c->vol, c->blocks); break;
	case CLIENT_SET: snprintf(c->vol->comment, sizeof(c->vol->comment), "%s", c->name); break;
	default: break;
	}
}

static bool error_is_fine(struct world *w, const struct client *c, int error)
{
	bool frees = c->kind == CLIENT_DELETE || (c->kind == CLIENT_RESIZE && c->blocks < c->vol->blocks);

	if (error == -ENOSPC && !frees && c->kind != CLIENT_COMMIT)
		return true;
	return !world_is_strict(w) && error != -ENOENT && error != -EEXIST && error != -EINVAL;
}

static int carry_out(struct world *w, const struct client *c)
{
	struct fs_error err = {""};
	int r = 0;

	switch (c->kind) {
	case CLIENT_COMMIT: r = fs_commit(w->fs); break;
	case CLIENT_CREATE:
		r = fs_volume_create(w->fs, c->name, c->blocks * MODEL_BLOCK,
				     c->reserved ? FS_VOLUME_RESERVED : 0, &err);
		break;
	case CLIENT_DELETE: r = fs_volume_delete(w->fs, c->vol->name, &err); break;
	case CLIENT_RENAME: r = fs_volume_rename(w->fs, c->vol->name, c->name, &err); break;
	case CLIENT_RESIZE: r = fs_volume_resize(w->fs, c->vol->name, c->blocks * MODEL_BLOCK, &err); break;
	case CLIENT_GROW: r = fs_grow(w->fs, c->blocks * MODEL_BLOCK, &err); break;
	default: break;
	}
	world_log(w, "client: operation %d ends: %s%s%s", c->kind, strerror(-r), r ? ", " : "", err.msg);
	if (r && !error_is_fine(w, c, r))
		sim_fail("operation %d fails for no reason: %s (%s)", c->kind, strerror(-r), err.msg);
	return r;
}

/* After a failure the pool may be in a state that the model cannot know: then only a crash tells. */
static void failed(struct world *w, const struct client *c)
{
	if (!world_is_dead(w) && !world_is_read_only(w))
		return;
	if (c->kind != CLIENT_COMMIT && c->kind != CLIENT_GROW)
		w->unsure = *c;
}

static void client_main(void *arg)
{
	struct world *w = arg;
	struct client *c = &w->client;
	unsigned i = c->vol ? (unsigned)(c->vol - w->model->volume) : 0;
	uint64_t since = model_now(w->model);
	int r;

	if (c->kind == CLIENT_BURST) {
		burst_run(w);
		return;
	}
	if (c->vol) {
		sched_wait(volume_is_idle, c);
		if (c->kind == CLIENT_DELETE) {
			fs_volume_put(w->handle[i]);
			w->handle[i] = NULL;
		}
		if (c->kind == CLIENT_RESIZE) { /* what stays may be used meanwhile */
			w->limit[i] = min_u64(c->blocks, c->vol->blocks);
			w->blocked[i] = false;
		}
	}
	r = carry_out(w, c);
	w->limit[i] = 0;
	if (r) {
		failed(w, c);
		if (w->unsure.kind != CLIENT_NONE)
			w->blocked[i] = true;
	} else {
		client_apply(w, c);
		if (c->kind == CLIENT_COMMIT)
			model_durable(w->model, since);
	}
	if (w->unsure.kind != CLIENT_NONE)
		return; /* the volume stays blocked */
	if (c->kind == CLIENT_CREATE && r == 0)
		world_get_handle(w, model_volume_find(w->model, c->name));
	else if (c->kind == CLIENT_DELETE && r && !world_is_dead(w))
		world_get_handle(w, c->vol);
	if (c->vol)
		w->blocked[i] = false;
}

static bool start(struct world *w, enum client_kind kind, struct model_volume *vol, const char *name,
		  uint64_t blocks)
{
	struct client *c = &w->client;

	client_wait(w);
	if (w->unsure.kind != CLIENT_NONE || !w->fs ||
	    (vol && (!vol->exists || !w->handle[vol - w->model->volume])))
		return false;
	c->kind = kind;
	c->vol = vol;
	c->blocks = blocks;
	c->reserved = kind == CLIENT_CREATE && rng_below(&w->rng, 5) == 0;
	snprintf(c->name, sizeof(c->name), "%s", name ? name : "");
	if (vol)
		w->blocked[vol - w->model->volume] = true;
	world_log(w, "client: operation %d, volume %s, name %s, %llu blocks", kind, vol ? vol->name : "-",
		  c->name, (unsigned long long)blocks);
	c->fiber = sched_start("client", client_main, w);
	return true;
}

/* An existing volume; NULL: there is none. */
static struct model_volume *some_volume(struct world *w)
{
	unsigned first = (unsigned)rng_below(&w->rng, MODEL_VOLUMES_MAX);

	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		struct model_volume *vol = &w->model->volume[(first + i) % MODEL_VOLUMES_MAX];

		if (vol->exists)
			return vol;
	}
	return NULL;
}

/* One that no volume has. */
static void new_name(struct world *w, char *name, size_t size)
{
	do {
		unsigned n = (unsigned)rng_below(&w->rng, 40);

		snprintf(name, size, "v%u", n % 2 ? n : n % 8); /* often one that was just given up */
	} while (model_volume_find(w->model, name));
}

static uint64_t draw_blocks(struct world *w)
{
	return 1 + rng_below(&w->rng, w->set->volume_blocks_max);
}

bool client_commit(struct world *w)
{
	return start(w, CLIENT_COMMIT, NULL, NULL, 0);
}

bool client_create(struct world *w)
{
	unsigned volumes = 0;
	char name[MODEL_NAME_MAX];

	client_wait(w);
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		volumes += w->model->volume[i].exists;
	if (volumes >= MODEL_VOLUMES_MAX - 1)
		return false;
	new_name(w, name, sizeof(name));
	return start(w, CLIENT_CREATE, NULL, name, draw_blocks(w));
}

bool client_delete(struct world *w)
{
	struct model_volume *vol;

	client_wait(w);
	vol = some_volume(w);
	return vol && start(w, CLIENT_DELETE, vol, NULL, 0);
}

bool client_rename(struct world *w)
{
	struct model_volume *vol;
	char name[MODEL_NAME_MAX];

	client_wait(w);
	vol = some_volume(w);
	new_name(w, name, sizeof(name));
	return vol && start(w, CLIENT_RENAME, vol, name, 0);
}

bool client_resize(struct world *w)
{
	struct model_volume *vol;

	client_wait(w);
	vol = some_volume(w);
	return vol && start(w, CLIENT_RESIZE, vol, NULL, draw_blocks(w));
}

bool client_grow(struct world *w)
{
	client_wait(w);
	if (w->sim->size >= POOL_BYTES_MAX)
		return false;
	/* A log that was made short is as long as it should be after that. */
	return start(w, CLIENT_GROW, NULL, NULL,
		     w->sim->size / MODEL_BLOCK + (w->set->log_bytes ? 1024 : 1) + rng_below(&w->rng, 2048));
}

bool client_burst(struct world *w)
{
	client_wait(w);
	return start(w, CLIENT_BURST, NULL, NULL, rng_next(&w->rng));
}
