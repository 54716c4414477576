/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/fake/nbd_fs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"

struct fs_volume *fake_fs_add(struct fs *fs, const char *name, uint64_t size, uint32_t flags)
{
	struct fs_volume *vol = &fs->volumes[fs->count++];

	ASSERT(fs->count <= FAKE_VOLUMES_MAX);
	*vol = (struct fs_volume){.fs = fs, .size = size, .flags = flags};
	if (size <= FAKE_DATA_MAX) {
		vol->data = mem_zalloc(size);
		ASSERT(vol->data);
	}
	snprintf(vol->name, sizeof(vol->name), "%s", name);
	return vol;
}

void fake_fs_fini(struct fs *fs)
{
	ASSERT(!fs->under_way && !fs->works);
	for (int i = 0; i < fs->count; i++) {
		ASSERT(!fs->volumes[i].refs);
		mem_free(fs->volumes[i].data);
	}
}

int fake_fs_run_works(struct fs *fs)
{
	struct fs_work *work = fs->works, *next;
	int n = 0;

	fs->works = NULL;
	for (; work; work = next, n++) {
		next = work->next;
		work->fn(work);
	}
	return n;
}

bool fs_name_is_valid(const char *name)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return len && !name[len] && len <= FS_NAME_MAX && *name != '.' && *name != '-';
}

int fs_volume_get(struct fs *fs, const char *name, struct fs_volume **ret_vol)
{
	for (int i = 0; i < fs->count; i++) {
		if (!strcmp(fs->volumes[i].name, name)) {
			fs->volumes[i].refs++;
			*ret_vol = &fs->volumes[i];
			return 0;
		}
	}
	return -ENOENT;
}

void fs_volume_put(struct fs_volume *vol)
{
	ASSERT(vol->refs > 0);
	vol->refs--;
}

void fs_volume_get_info(struct fs_volume *vol, struct fs_volume_info *ret_info)
{
	*ret_info = (struct fs_volume_info){.size = vol->size, .flags = vol->flags};
	memcpy(ret_info->name, vol->name, sizeof(ret_info->name));
	memcpy(ret_info->comment, vol->comment, sizeof(ret_info->comment));
}

uint64_t fs_volume_size(const struct fs_volume *vol)
{
	return vol->size;
}

void fs_get_info(struct fs *fs, struct fs_info *ret_info)
{
	*ret_info = (struct fs_info){.size = 1 << 30, .volumes = fs->count, .read_only = fs->read_only};
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
	int r = 0;

	for (int i = 0; i < fs->count && !r; i++) {
		struct fs_volume_info info;

		fs_volume_get_info(&fs->volumes[i], &info);
		if (strcmp(info.name, after) > 0)
			r = fn(arg, &info);
	}
	return r;
}

int fs_volume_list(struct fs *fs, int (*fn)(void *arg, const struct fs_volume_info *info), void *arg)
{
	return fs_volume_list_from(fs, "", fn, arg);
}

bool fake_fs_is_hole(const struct fs_volume *vol, uint64_t off, uint64_t len)
{
	for (uint64_t i = off; vol->data && i < off + len; i++)
		if (vol->data[i])
			return false;
	return true;
}

int fs_volume_map(struct fs_volume *vol, uint64_t off, uint64_t len,
		  int (*fn)(void *arg, uint64_t off, uint64_t len, bool hole), void *arg)
{
	uint64_t end = off + len;
	int r = vol->fs->fail;

	ASSERT(off <= vol->size && len <= vol->size - off);
	while (off < end && !r) {
		uint64_t piece = vol->data ? FS_BLOCK_SIZE : vol->size;
		uint64_t n = min_u64(round_down_u64(off, FS_BLOCK_SIZE) + piece, end) - off;

		r = fn(arg, off, n, fake_fs_is_hole(vol, off, n));
		off += n;
	}
	return r;
}

int fs_ctx_new(struct fs *fs, struct fs_ctx **ret_ctx)
{
	struct fs_ctx *ctx = mem_zalloc(sizeof(*ctx));

	ASSERT(ctx);
	ctx->fs = fs;
	ctx->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	*ret_ctx = ctx;
	return 0;
}

void fs_ctx_free(struct fs_ctx *ctx)
{
	if (!ctx)
		return;
	ASSERT(!ctx->pending);
	close(ctx->fd);
	mem_free(ctx);
}

int fs_ctx_fd(struct fs_ctx *ctx)
{
	return ctx->fd;
}

static void fake_execute(struct fs *fs, struct fs_io *io)
{
	uint8_t *data = io->vol->data ? io->vol->data + io->off : NULL;

	io->error = io->op == FS_FLUSH ? 0 : fs->fail;
	if (io->error)
		return;
	if (io->op == FS_READ && !data)
		memset(io->buf, 0, io->len);
	else if (io->op == FS_FLUSH)
		fs->flushes++;
	else if (!data)
		return;
	else if (io->op == FS_READ)
		memcpy(io->buf, data, io->len);
	else if (io->op == FS_WRITE)
		memcpy(data, io->buf, io->len);
	else if (io->op == FS_TRIM || io->op == FS_ZERO)
		memset(data, 0, io->len);
}

static void fake_check(const struct fs_io *io)
{
	ASSERT(io->done && io->vol && io->vol->refs > 0);
	if (io->op == FS_FLUSH)
		return;
	ASSERT(io->off <= io->vol->size && io->len <= io->vol->size - io->off && io->len > 0);
	if (io->op == FS_READ || io->op == FS_WRITE)
		ASSERT(io->len <= FS_IO_MAX && io->buf);
}

static void fake_finish(struct fs *fs, struct fs_io *io)
{
	fake_execute(fs, io);
	fs->under_way--;
	io->done(io);
}

void fs_submit(struct fs_ctx *ctx, struct fs_io *const *ios, size_t n)
{
	struct fs *fs = ctx->fs;

	fs->submits++;
	fs->requests += n;
	fs->largest_batch = max_u64(fs->largest_batch, n);
	for (size_t i = 0; i < n; i++) {
		fake_check(ios[i]);
		fs->under_way++;
		fs->last_flags = ios[i]->flags;
		fs->last_off = ios[i]->off;
		fs->last_len = ios[i]->len;
		if (fs->defer) {
			ios[i]->e.next = ctx->pending;
			ctx->pending = ios[i];
			eventfd_write(ctx->fd, 1);
		} else {
			fake_finish(fs, ios[i]);
		}
	}
}

void fs_ctx_run(struct fs_ctx *ctx)
{
	struct fs_io *io = ctx->pending, *next;
	eventfd_t value;

	eventfd_read(ctx->fd, &value);
	ctx->pending = NULL;
	for (; io; io = next) {
		next = io->e.next;
		fake_finish(ctx->fs, io);
	}
}

void fs_work(struct fs *fs, struct fs_work *work)
{
	if (!fs->defer) {
		work->fn(work);
		return;
	}
	work->next = fs->works;
	fs->works = work;
}
