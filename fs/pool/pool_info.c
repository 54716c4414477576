/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/pool/pool_info.c: the figures of a pool, for people and for monitoring. Those of the space counters are
 * of one moment, under their lock; the others are counters that go on meanwhile.
 */
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/commit/flush_log.h"
#include "fs/core/fs_int.h"
#include "fs/core/latency.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

/* Of what the host has left, groups and its own books take a part. */
static uint64_t host_usable(uint64_t free_bytes)
{
	uint64_t kept = free_bytes / 16 + (4u << 20);

	return free_bytes > kept ? free_bytes - kept : 0;
}

/* On a sparse pool new data needs blocks of the host, but in groups that have all of theirs. */
static void host_figures(struct fs *fs, struct fs_info *info)
{
	struct device_host host;
	uint64_t usable;

	info->sparse = fs->backing->on;
	info->host_full = atomic_load(&fs->backing->host_full);
	if (!info->sparse || fs->dev->ops->host(fs->dev, &host))
		return;
	info->host_free_bytes = host.free_bytes;
	usable = host_usable(host.free_bytes);
	if (usable < info->free_bytes && atomic_load(&fs->backing->promised))
		usable = max_u64(usable, space_free_bytes_made(fs));
	info->host_short_bytes = info->free_bytes - min_u64(info->free_bytes, usable);
}

static void space_figures(struct fs *fs, struct fs_info *info)
{
	struct space_info *si = fs->space;

	info->free_bytes = space_free_bytes(fs);
	lock_take(&si->lock);
	info->reserved_bytes = si->kind[SPACE_DATA].may_use;
	info->pinned_bytes = si->kind[SPACE_DATA].pinned + si->kind[SPACE_METADATA].pinned;
	info->global_reserve_bytes = si->global_reserve;
	info->volume_reserved_bytes = si->volume_reserved;
	info->reclaim_commits = si->reclaim_commits;
	info->reclaim_groups = si->reclaim_groups;
	info->enospc = si->enospc;
	lock_drop(&si->lock);
}

static void group_figures(struct fs *fs, struct fs_info *info)
{
	info->unallocated_bytes = atomic_load(&fs->groups->unallocated_bytes);
	info->groups_data = atomic_load(&fs->groups->number[0]);
	info->groups_metadata = atomic_load(&fs->groups->number[1]);
	info->groups_system = atomic_load(&fs->groups->number[2]);
}

static void counted_figures(struct fs *fs, struct fs_info *info)
{
	struct fs_stats *st = &fs->stats;

#define COPY(name) info->name = atomic_load(&st->name)
	COPY(cache_loaded);
	COPY(cache_written);
	COPY(cache_rebuilt);
	COPY(cache_last_bytes);
	COPY(cache_last_us);
	COPY(cache_bytes);
	COPY(cache_us);
	COPY(commit_bytes);
	COPY(commit_us);
	COPY(flushes);
	COPY(errors_corrected);
	COPY(errors_checksum);
	COPY(errors_io);
#undef COPY
	info->last_commit_ms = (atomic_load(&st->last_commit_us) + 999) / 1000;
	info->commits = atomic_load(&fs->commits_done);
	latency_get(&st->commit_latency, &info->commit_latency);
	latency_get(&st->log_latency, &info->log_latency);
	info->device_flushes = __atomic_load_n(&fs->dev->flushes, __ATOMIC_RELAXED);
}

static void log_figures(const struct flush_log *log, struct fs_info *info)
{
	info->log_groups = atomic_load(&log->groups);
	info->log_bytes = atomic_load(&log->bytes);
	info->log_lost_flushes = log->lost_flushes;
	info->log_lost_ns = log->lost_ns;
}

static void cache_figures(struct cache *cache, struct fs_info *info)
{
	struct cache_stats cs;

	cache_get_stats(cache, &cs);
	info->node_cache_hits = cs.hits[CACHE_NODE];
	info->node_cache_misses = cs.misses[CACHE_NODE];
	info->data_cache_hits = cs.hits[CACHE_DATA];
	info->data_cache_misses = cs.misses[CACHE_DATA];
}

static void volume_figures(struct fs *fs, struct fs_info *info)
{
	struct volume_table *t = fs->volumes;

	lock_take(&t->lock);
	info->volumes = atomic_load(&fs->space->volumes) - atomic_load(&t->dying);
	info->provisioned_bytes = t->sizes > UINT64_MAX ? UINT64_MAX : (uint64_t)t->sizes;
	lock_drop(&t->lock);
	info->lost_bytes = atomic_load(&fs->lost_blocks) * FS_BLOCK_SIZE;
}

static void discard_figures(struct fs *fs, struct fs_info *info)
{
	struct backing *b = fs->backing;

	info->discard = b->discard;
	info->discarded_bytes = atomic_load(&fs->stats.discarded);
	if (!atomic_load(&b->trimming))
		return;
	info->trim_total_bytes = atomic_load(&b->trim_total);
	info->trim_left_bytes = min_u64(atomic_load(&b->freed_bytes) + atomic_load(&b->discard_bytes),
					info->trim_total_bytes);
}

void fs_get_info(struct fs *fs, struct fs_info *info)
{
	memset(info, 0, sizeof(*info));
	memcpy(info->uuid, fs->uuid, sizeof(info->uuid));
	info->size = fs->dev->size;
	info->generation = atomic_load(&fs->running_generation) - 1;
	space_figures(fs, info);
	space_used_bytes(fs, &info->data_bytes, &info->metadata_bytes);
	host_figures(fs, info);
	group_figures(fs, info);
	counted_figures(fs, info);
	log_figures(fs->log, info);
	cache_figures(fs->cache, info);
	volume_figures(fs, info);
	discard_figures(fs, info);
	fs_scrub_get_status(fs, &info->scrub);
	info->read_only = fs_is_read_only(fs);
	info->device_kind = fs->dev->ops->name;
	info->direct_io = fs->dev->direct;
}
