/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/fake/rpc_fs.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

struct fs_volume {
	struct fs_volume_info info;
};

static void *fake_worker(void *arg)
{
	struct fs *fs = arg;
	struct fs_work *work;

	pthread_mutex_lock(&fs->mutex);
	for (;;) {
		while (!fs->head && !fs->stop)
			pthread_cond_wait(&fs->cond, &fs->mutex);
		work = fs->head;
		if (!work)
			break;
		fs->head = work->next;
		if (!fs->head)
			fs->tail = &fs->head;
		pthread_mutex_unlock(&fs->mutex);
		work->fn(work);
		pthread_mutex_lock(&fs->mutex);
	}
	pthread_mutex_unlock(&fs->mutex);
	return NULL;
}

struct fs *fake_new(void)
{
	struct fs *fs = calloc(1, sizeof(*fs));

	pthread_mutex_init(&fs->mutex, NULL);
	pthread_cond_init(&fs->cond, NULL);
	fs->tail = &fs->head;
	fs->size = 16ull << 30;
	fs->generation = 7;
	for (int i = 0; i < FAKE_WORKERS; i++)
		pthread_create(&fs->workers[i], NULL, fake_worker, fs);
	return fs;
}

void fake_free(struct fs *fs)
{
	pthread_mutex_lock(&fs->mutex);
	fs->stop = true;
	pthread_cond_broadcast(&fs->cond);
	pthread_mutex_unlock(&fs->mutex);
	for (int i = 0; i < FAKE_WORKERS; i++)
		pthread_join(fs->workers[i], NULL);
	free(fs);
}

void fake_hold_commits(struct fs *fs, bool hold)
{
	pthread_mutex_lock(&fs->mutex);
	fs->hold_commits = hold;
	pthread_cond_broadcast(&fs->cond);
	pthread_mutex_unlock(&fs->mutex);
}

void fake_await_commits(struct fs *fs, unsigned n)
{
	pthread_mutex_lock(&fs->mutex);
	while (fs->commits_waiting < n)
		pthread_cond_wait(&fs->cond, &fs->mutex);
	pthread_mutex_unlock(&fs->mutex);
}

unsigned fake_changes(struct fs *fs)
{
	unsigned n;

	pthread_mutex_lock(&fs->mutex);
	n = fs->changes;
	pthread_mutex_unlock(&fs->mutex);
	return n;
}

void fake_fail_next(struct fs *fs, int error)
{
	pthread_mutex_lock(&fs->mutex);
	fs->fail = error;
	pthread_mutex_unlock(&fs->mutex);
}

/* Begins a change with the mutex taken; nonzero: it shall fail, and the mutex is free again. */
static int change_begin(struct fs *fs, struct fs_error *err)
{
	int r;

	pthread_mutex_lock(&fs->mutex);
	fs->changes++;
	r = fs->fail;
	fs->fail = 0;
	if (!r)
		return 0;
	pthread_mutex_unlock(&fs->mutex);
	if (err && r == -ENOSPC)
		snprintf(err->msg, sizeof(err->msg), "the pool is full: delete something");
	return r;
}

static struct fs_volume_info *find_locked(struct fs *fs, const char *name)
{
	for (unsigned i = 0; i < fs->nr_volumes; i++) {
		if (!strcmp(fs->volumes[i].name, name))
			return &fs->volumes[i];
	}
	return NULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct fs_volume_info *)a)->name, ((const struct fs_volume_info *)b)->name);
}

static int change_end(struct fs *fs, int r, struct fs_error *err, const char *name)
{
	if (r && err)
		snprintf(err->msg, sizeof(err->msg), "volume %s: %s", name,
			 r == -EEXIST ? "exists already" : strerror(-r));
	qsort(fs->volumes, fs->nr_volumes, sizeof(fs->volumes[0]), by_name);
	pthread_mutex_unlock(&fs->mutex);
	return r;
}

void fs_work(struct fs *fs, struct fs_work *work)
{
	pthread_mutex_lock(&fs->mutex);
	work->next = NULL;
	*fs->tail = work;
	fs->tail = &work->next;
	pthread_cond_broadcast(&fs->cond);
	pthread_mutex_unlock(&fs->mutex);
}

bool fs_name_is_valid(const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t len = strlen(name);

	return len && len <= FS_NAME_MAX && strspn(name, allowed) == len && name[0] != '.' && name[0] != '-';
}

void fs_get_info(struct fs *fs, struct fs_info *ret_info)
{
	pthread_mutex_lock(&fs->mutex);
	*ret_info = (struct fs_info){
		.size = fs->size,
		.free_bytes = UINT64_MAX,
		.generation = fs->generation,
		.volumes = fs->nr_volumes,
		.groups_data = 3,
		.errors_io = 5,
		.device_kind = "fake",
		.direct_io = true,
	};
	memset(ret_info->uuid, 0xab, sizeof(ret_info->uuid));
	if (fs->info)
		*ret_info = *fs->info;
	pthread_mutex_unlock(&fs->mutex);
}

int fs_commit(struct fs *fs)
{
	int r = change_begin(fs, NULL);

	if (r)
		return r;
	fs->commits_waiting++;
	pthread_cond_broadcast(&fs->cond);
	while (fs->hold_commits)
		pthread_cond_wait(&fs->cond, &fs->mutex);
	fs->commits_waiting--;
	fs->generation++;
	pthread_mutex_unlock(&fs->mutex);
	return 0;
}

int fs_grow(struct fs *fs, uint64_t new_size, struct fs_error *err)
{
	int r = change_begin(fs, err);

	if (r)
		return r;
	if (new_size < fs->size)
		r = -EINVAL;
	else
		fs->size = new_size;
	return change_end(fs, r, err, "pool");
}

int fs_trim(struct fs *fs, struct fs_error *err)
{
	int r = change_begin(fs, err);

	return r ? r : change_end(fs, 0, err, "pool");
}

int fs_volume_create(struct fs *fs, const char *name, uint64_t size, uint32_t flags, struct fs_error *err)
{
	int r = change_begin(fs, err);

	if (r)
		return r;
	if (find_locked(fs, name))
		return change_end(fs, -EEXIST, err, name);
	if (fs->nr_volumes == FAKE_VOLUMES_MAX)
		return change_end(fs, -ENOSPC, err, name);

	struct fs_volume_info *v = &fs->volumes[fs->nr_volumes++];
	*v = (struct fs_volume_info){
		.id = 1000 + fs->nr_volumes, .size = size, .flags = flags, .ctime_ns = 1700000000000000000};
	snprintf(v->name, sizeof(v->name), "%s", name);
	memset(v->uuid, 0xcd, sizeof(v->uuid));
	return change_end(fs, 0, err, name);
}

int fs_volume_delete(struct fs *fs, const char *name, struct fs_error *err)
{
	struct fs_volume_info *v;
	int r = change_begin(fs, err);

	if (r)
		return r;
	v = find_locked(fs, name);
	if (v)
		*v = fs->volumes[--fs->nr_volumes];
	return change_end(fs, v ? 0 : -ENOENT, err, name);
}

int fs_volume_rename(struct fs *fs, const char *from, const char *to, struct fs_error *err)
{
	struct fs_volume_info *v;
	int r = change_begin(fs, err);

	if (r)
		return r;
	v = find_locked(fs, from);
	if (!v || find_locked(fs, to))
		return change_end(fs, v ? -EEXIST : -ENOENT, err, v ? to : from);
	snprintf(v->name, sizeof(v->name), "%s", to);
	return change_end(fs, 0, err, to);
}

int fs_volume_resize(struct fs *fs, const char *name, uint64_t size, struct fs_error *err)
{
	struct fs_volume_info *v;
	int r = change_begin(fs, err);

	if (r)
		return r;
	v = find_locked(fs, name);
	if (v)
		v->size = size;
	return change_end(fs, v ? 0 : -ENOENT, err, name);
}

int fs_volume_set_size(struct fs *fs, const char *name, uint64_t size, bool may_shrink, struct fs_error *err)
{
	struct fs_volume_info info;

	if (!may_shrink && !fs_volume_find_info(fs, name, &info) && size < info.size) {
		snprintf(err->msg, sizeof(err->msg), "volume %s: say --shrink", name);
		return -EINVAL;
	}
	return fs_volume_resize(fs, name, size, err);
}

int fs_volume_set(struct fs *fs, const char *name, const struct fs_volume_change *change,
		  struct fs_error *err)
{
	struct fs_volume_info *v;
	int r = change_begin(fs, err);

	if (r)
		return r;
	v = find_locked(fs, name);
	if (v)
		v->flags = (v->flags | change->set) & ~change->clear;
	if (v && change->comment)
		snprintf(v->comment, sizeof(v->comment), "%s", change->comment);
	return change_end(fs, v ? 0 : -ENOENT, err, name);
}

static int fake_op(struct fs *fs, struct fs_volume_op *op)
{
	switch (op->kind) {
	case FS_VOLUME_CREATE: return fs_volume_create(fs, op->name, op->size, op->flags, &op->err);
	case FS_VOLUME_DELETE: return fs_volume_delete(fs, op->name, &op->err);
	case FS_VOLUME_RENAME: return fs_volume_rename(fs, op->name, op->to, &op->err);
	case FS_VOLUME_RESIZE:
		return fs_volume_set_size(fs, op->name, op->size, op->may_shrink || !op->ask, &op->err);
	case FS_VOLUME_SET: return fs_volume_set(fs, op->name, &op->change, &op->err);
	}
	return -EINVAL;
}

void fs_volume_op_start(struct fs *fs, struct fs_volume_op *op)
{
	op->err.msg[0] = '\0';
	op->done(op, fake_op(fs, op));
}

int fs_volume_find_info(struct fs *fs, const char *name, struct fs_volume_info *ret_info)
{
	struct fs_volume_info *v;

	pthread_mutex_lock(&fs->mutex);
	v = find_locked(fs, name);
	if (v)
		*ret_info = *v;
	pthread_mutex_unlock(&fs->mutex);
	return v ? 0 : -ENOENT;
}

int fs_scrub_start(struct fs *fs, uint64_t rate, bool restart, struct fs_error *err)
{
	return 0;
}

int fs_scrub_stop(struct fs *fs, struct fs_error *err)
{
	return -ENOENT;
}

void fs_scrub_get_status(struct fs *fs, struct fs_scrub_status *ret_status)
{
	*ret_status = (struct fs_scrub_status){
		.state = FS_SCRUB_STOPPED, .found = 3, .mended = 2, .damaged_bytes = 4096};
}

size_t fs_scrub_get_damage(struct fs *fs, struct fs_scrub_damage *ret_damage, size_t max)
{
	size_t n = 1000;

	for (size_t i = 0; i < n && i < max; i++)
		ret_damage[i] = (struct fs_scrub_damage){
			.volume = "vm1", .volume_id = 256, .off = i * 8192, .len = 4096};
	return n;
}

int fs_volume_list_from(struct fs *fs, const char *after,
			int (*fn)(void *arg, const struct fs_volume_info *info), void *arg)
{
	struct fs_volume_info *copy;
	unsigned n;
	int r = 0;

	pthread_mutex_lock(&fs->mutex);
	n = fs->nr_volumes;
	copy = malloc((n + 1) * sizeof(*copy));
	memcpy(copy, fs->volumes, n * sizeof(*copy));
	pthread_mutex_unlock(&fs->mutex);
	for (unsigned i = 0; i < n && !r; i++)
		if (strcmp(copy[i].name, after) > 0)
			r = fn(arg, &copy[i]);
	free(copy);
	return r;
}

int fs_volume_list(struct fs *fs, int (*fn)(void *arg, const struct fs_volume_info *info), void *arg)
{
	return fs_volume_list_from(fs, "", fn, arg);
}

int fs_volume_get(struct fs *fs, const char *name, struct fs_volume **ret_vol)
{
	struct fs_volume_info *v;
	struct fs_volume *vol = NULL;

	pthread_mutex_lock(&fs->mutex);
	v = find_locked(fs, name);
	if (v) {
		vol = malloc(sizeof(*vol));
		vol->info = *v;
	}
	pthread_mutex_unlock(&fs->mutex);
	if (!vol)
		return -ENOENT;
	*ret_vol = vol;
	return 0;
}

void fs_volume_put(struct fs_volume *vol)
{
	free(vol);
}

void fs_volume_get_info(struct fs_volume *vol, struct fs_volume_info *ret_info)
{
	*ret_info = vol->info;
}
