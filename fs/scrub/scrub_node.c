/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/scrub/scrub_node.c: what stands in more than one copy: nodes, superblocks, free-space caches. A node's
 * bad copy is written anew from the good one while a committed tree refers to it, so nobody else writes
 * there. Superblocks and caches change with commits: what is bad of them a commit writes.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/scrub/scrub_int.h"
#include "fs/space/block_group.h"
#include "fs/space/free_space.h"
#include "fs/space/free_space_cache.h"
#include "fs/tree/node.h"

typedef unsigned long long ull;

bool scrub_mend(struct scrub_run *r, uint64_t off, const void *good, void *scratch, uint64_t len)
{
	if (fs_is_read_only(r->fs) || device_sync(r->q, DEVICE_WRITE, off, (void *)(uintptr_t)good, len) ||
	    device_sync(r->q, DEVICE_READ, off, scratch, len) || memcmp(scratch, good, len) != 0)
		return false;
	r->repaired++;
	return true;
}

/* ---- nodes ----------------------------------------------------------------- */

struct copy {
	uint64_t off;
	int error;
	const char *why;
};

static void read_copies(struct scrub_run *r, const struct node_ident *id, struct copy *copy, int n)
{
	int error[GROUP_STRIPES_MAX];

	for (int i = 0; i < n; i++)
		scrub_submit(r, copy[i].off, r->copy[i], NODE_SIZE, &error[i]);
	scrub_wait(r);
	for (int i = 0; i < n; i++) {
		const struct node_header *node = (const struct node_header *)r->copy[i];

		if (error[i])
			error[i] = scrub_read(r, copy[i].off, r->copy[i], NODE_SIZE);
		copy[i].why = error[i] ? strerror(-error[i]) : NULL;
		copy[i].error = error[i] ? error[i] : node_validate(node, id, r->fs->uuid, &copy[i].why);
	}
}

/* The node as it is in memory. */
static bool from_memory(struct scrub_run *r, const struct node_ident *id, void *buf)
{
	struct cache_entry *entry = cache_get(r->fs->cache, CACHE_NODE, id->addr);
	const char *why;
	bool is = entry && node_validate(node_header(entry), id, r->fs->uuid, &why) == 0;

	if (is)
		memcpy(buf, entry->data, NODE_SIZE);
	cache_put(r->fs->cache, entry);
	return is;
}

static void mend_copies(struct scrub_run *r, const struct node_ident *id, const struct copy *copy, int n,
			const void *good)
{
	for (int i = 0; i < n; i++) {
		bool done;

		if (copy[i].error == 0)
			continue;
		r->found++;
		atomic_fetch_add(copy[i].error == -EUCLEAN ? &r->fs->stats.errors_checksum
							   : &r->fs->stats.errors_io,
				 1);
		done = good && scrub_mend(r, copy[i].off, good, r->copy[i], NODE_SIZE);
		if (done)
			atomic_fetch_add(&r->fs->stats.errors_corrected, 1);
		scrub_log(r, FS_LOG_WARNING,
			  "scrub: tree %llu: node at %llu, copy %d at device offset %llu: %s, %s",
			  (ull)id->owner, (ull)id->addr, i, (ull)copy[i].off, copy[i].why,
			  done	 ? "mended"
			  : good ? "it cannot be rewritten"
				 : "there is no good one");
	}
}

int scrub_node(struct scrub_run *r, const struct node_ident *id, void *buf)
{
	uint64_t off[GROUP_STRIPES_MAX];
	struct copy copy[GROUP_STRIPES_MAX];
	int n = block_group_map(r->fs, id->addr, NODE_SIZE, off), good = -1;
	bool bad = false, have;

	if (n < 0) {
		r->found++;
		return n;
	}
	for (int i = 0; i < n; i++)
		copy[i].off = off[i];
	read_copies(r, id, copy, n);
	for (int i = 0; i < n; i++) {
		if (copy[i].error == 0 && good >= 0 && memcmp(r->copy[good], r->copy[i], NODE_SIZE) != 0)
			copy[i] = (struct copy){copy[i].off, -EUCLEAN, "valid, but not the same as its twin"};
		bad |= copy[i].error != 0;
		if (copy[i].error == 0 && good < 0)
			good = i;
	}
	have = good >= 0;
	if (have)
		memcpy(buf, r->copy[good], NODE_SIZE);
	else
		have = from_memory(r, id, buf);
	if (bad)
		mend_copies(r, id, copy, n, have ? buf : NULL);
	return have ? 0 : copy[0].error;
}

/* ---- superblocks ----------------------------------------------------------- */

/* How many copies are bad or not of the last commit. A commit under way makes that many too. */
static unsigned bad_supers(struct scrub_run *r)
{
	static const uint64_t offsets[SUPER_COPIES] = SUPER_OFFSETS;
	const struct super_block *sb = (const struct super_block *)r->copy[0];
	uint64_t newest = 0, generation[SUPER_COPIES] = {0};
	unsigned bad = 0;
	const char *why;

	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		if (scrub_read(r, offsets[i], r->copy[0], SUPER_SIZE) == 0 &&
		    super_validate(sb, offsets[i], 0, &why) == 0)
			generation[i] = le64_to_cpu(sb->generation);
		newest = max_u64(newest, generation[i]);
	}
	for (unsigned i = 0; i < SUPER_COPIES; i++)
		bad += generation[i] != newest || newest == 0;
	return bad;
}

static unsigned bad_supers_at_rest(struct scrub_run *r)
{
	unsigned bad = bad_supers(r);

	if (bad == 0)
		return 0;
	lock_take(&r->fs->commit_lock); /* which may be held across I/O: no commit is under way now */
	bad = bad_supers(r);
	lock_drop(&r->fs->commit_lock);
	return bad;
}

static int commit_anew(struct scrub_run *r)
{
	lock_take(&r->fs->commit_lock);
	r->fs->super_dirty = true;
	lock_drop(&r->fs->commit_lock);
	return fs_is_read_only(r->fs) ? -EROFS : fs_commit(r->fs);
}

void scrub_supers(struct scrub_run *r)
{
	unsigned bad = bad_supers_at_rest(r), left = bad;

	if (bad == 0)
		return;
	if (commit_anew(r) == 0)
		left = bad_supers_at_rest(r);
	r->found += bad;
	r->repaired += bad - min_u64(left, bad);
	atomic_fetch_add(&r->fs->stats.errors_checksum, bad);
	atomic_fetch_add(&r->fs->stats.errors_corrected, bad - min_u64(left, bad));
	scrub_log(r, left ? FS_LOG_ERROR : FS_LOG_WARNING, "scrub: %u of %u superblocks are damaged: %s", bad,
		  SUPER_COPIES, left ? "they cannot be rewritten" : "rewritten");
}

/* ---- free-space caches ------------------------------------------------------ */

/*
 * How many copies of a cache are bad. A commit may be writing the slot by now: then the group has a newer
 * cache (renew).
 */
static unsigned bad_copies(struct scrub_run *r, const struct scrub_cache *sc)
{
	uint64_t len = round_up_u64(sc->expect.bytes, DEVICE_ALIGN);
	unsigned bad = 0;

	for (unsigned i = 0; i < sc->copies; i++) {
		struct free_space *space;
		int e = scrub_read(r, sc->off[i], r->copy[0], len);

		if (e == 0)
			e = free_space_cache_decode(r->copy[0], len, &sc->ident, &sc->expect, &space);
		if (e == 0)
			free_space_free(space);
		bad += e != 0 && e != -ENOMEM;
	}
	return bad;
}

/*
 * The next commit writes it anew, from memory or, where both copies are bad, from the trees. Not in an epoch:
 * a commit holds the lock while it waits for old ones to end, where it has to. What is read here under the
 * lock is one slot. False: that cache is nobody's any more, since commits went on while it was read.
 */
static bool renew(struct scrub_run *r, const struct scrub_cache *sc, bool *ret_done)
{
	struct block_group *g;
	bool valid;

	lock_take(&r->fs->commit_lock);
	g = block_group_find(r->fs, sc->ident.group_start);
	valid = g && g->cache_generation == sc->ident.generation;
	*ret_done = false;
	if (valid && !fs_is_read_only(r->fs) && block_group_load(r->fs, r->q, g) == 0) {
		*ret_done = atomic_load(&g->state) == GROUP_LOADED;
		if (*ret_done)
			block_group_set_dirty(r->fs, g);
		else
			*ret_done = atomic_load(&g->state) == GROUP_REBUILDING;
	}
	lock_drop(&r->fs->commit_lock);
	return valid;
}

void scrub_caches_read(struct scrub_run *r)
{
	for (unsigned i = 0; i < r->caches; i++)
		r->cache[i].bad = bad_copies(r, &r->cache[i]);
}

void scrub_caches_renew(struct scrub_run *r)
{
	for (unsigned i = 0; i < r->caches; i++) {
		const struct scrub_cache *sc = &r->cache[i];
		bool done;

		if (sc->bad == 0 || !renew(r, sc, &done))
			continue;
		r->found += sc->bad;
		r->repaired += done ? sc->bad : 0;
		atomic_fetch_add(&r->fs->stats.errors_checksum, sc->bad);
		if (done)
			atomic_fetch_add(&r->fs->stats.errors_corrected, sc->bad);
		scrub_log(r, FS_LOG_WARNING,
			  "scrub: block group %llu: %u of %u copies of its free-space cache are damaged: %s",
			  (ull)sc->ident.group_start, sc->bad, sc->copies,
			  done ? "the next commit rewrites it" : "it is not rewritten");
	}
}
