/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group.h: block groups: where logical addresses are on the device, and which of them are
 * free.
 *
 * Logical addresses are cut into steps (fs->group_step); a group begins at a step and is at most as long. The
 * length of new groups depends on the pool's size (fs->group_size), so that a pool of any size, however it
 * grew, has at most some hundred thousand groups.
 *
 * Each loaded group has four bitmaps: `avail` (what may be given out now), `committed` (what the trees of the
 * last commit do not use: the content of the free-space cache; the committer alone touches it), and two of
 * pinned blocks: one gathers what is freed, the other waits for readers (pins.h).
 *
 * Invariants
 * 1. A block that a committed tree refers to is not available.
 * 2. A block that was freed is pinned until the transaction that freed it is committed and no reader is left;
 *    then it is available. No memory is needed for that.
 * 3. `committed` changes only when a transaction's delayed refs are run, and equals what its trees say.
 * 4. A group whose free space is not known (not loaded, or being rebuilt) gives nothing out.
 * 5. A cache slot is written only if the block group item of the last commit names the other one, or none. A
 *    group of which nothing is used needs no cache: all of it is free.
 * 6. An empty group's device space is unallocated only after a commit without the group.
 * 7. What is in a group may be one generation older than the group, but no more: while a commit freezes the
 *    volumes one by one, the running generation has already moved on, and a volume that is not frozen yet
 *    takes space of a group just made.
 * 8. Whoever holds a pointer to a group is in an epoch that it entered before it found the group, or holds
 *    the commit lock or the table's lock, or holds space of the group. A group that leaves is taken out of
 *    the table first, and freed when the pins of that commit are released.
 * 9. A loaded data group whose `avail` equals `committed` and that is not dirty can be unloaded: its cache,
 *    or its being empty, says the same. Only the committer unloads.
 *
 * Growth: finding a group by address, taking, giving back and pinning do not depend on the number of groups;
 * making and removing one are logarithmic. A commit costs in proportion to the groups that it changes (and
 * looks at EMPTY_TRIES empty ones). Opening reads each item once. Memory: about 400 bytes a group; bitmaps
 * are 157 KiB a GiB for data groups that are loaded, which are kept within loaded_max as far as invariant 9
 * allows (what one commit changes is loaded while it runs), and 39 KiB a GiB for all metadata groups.
 */
#ifndef FS_SPACE_BLOCK_GROUP_H
#define FS_SPACE_BLOCK_GROUP_H

#include <bsd/sys/queue.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "fs/device/device_space.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

struct free_space;

struct fs;
struct device_queue;
struct delayed_refs;
struct write_batch;

#define GROUP_QUANTUM_MIN (256ull << 10) /* every stripe of a data group is a multiple of it */

enum group_state {
	GROUP_UNLOADED, /* the cache has not been read */
	GROUP_LOADED,
	GROUP_REBUILDING, /* the cache is not valid: waits for the trees to be walked */
	GROUP_REMOVING,	  /* empty; leaves with the commit under way */
};

/* What the commit in progress does with a group's cache (btrfs's disk cache states). */
enum group_cache_state {
	FREE_SPACE_CACHE_CLEAR,
	FREE_SPACE_CACHE_SETUP,
	FREE_SPACE_CACHE_NEED_WRITE,
	FREE_SPACE_CACHE_WRITTEN,
	FREE_SPACE_CACHE_ERROR
};

TAILQ_HEAD(group_list, block_group);

/*
 * Groups are kept in order of free space, by this and by type: those with bitmaps, without, and without that
 * need no reading.
 */
enum group_order { ORDER_LOADED, ORDER_UNLOADED, ORDER_EMPTY, GROUP_ORDERS };
#define GROUP_TYPES 3u
#define GROUP_BUCKETS 32u /* by the power of two of free units; 0: none */

struct block_group {
	uint64_t start, len; /* logical bytes */
	uint64_t generation; /* when it was made: what running_generation was */
	/* bytes of a block of the bitmaps: 4096, or NODE_SIZE in metadata and system groups */
	uint32_t unit;
	uint32_t nblocks;
	uint32_t slot_bytes; /* of a cache slot; 0 in system groups */
	uint8_t type;
	uint8_t nr_stripes;
	uint64_t stripe[GROUP_STRIPES_MAX];

	struct lock lock;		 /* protects everything from here to the next remark */
	_Atomic(enum group_state) state; /* changes under the lock; also read without it */
	struct free_space *avail;
	uint64_t *pinned[2];
	uint32_t pinned_blocks[2];
	uint32_t hint;
	uint64_t touched;      /* the generation that used it last */
	uint64_t *freed;       /* a bitmap of what to discard if it is still free; NULL: nothing */
	bool freed_all;	       /* discard everything that is free */
	uint32_t discard_from; /* the first block that was not looked at yet */
	bool in_discard;       /* on the list of those with something to discard: */
	TAILQ_ENTRY(block_group) discard_link; /* order_lock */

	/* Places in the table's lists. */
	uint8_t order, bucket;				  /* the table's order_lock, and this lock */
	bool in_loaded;					  /* order_lock */
	TAILQ_ENTRY(block_group) order_link, loaded_link; /* order_lock */
	struct block_group *pinned_next[2];
	TAILQ_ENTRY(block_group) fresh_link; /* the table's lock; then of `removed`: the committer's */
	TAILQ_ENTRY(block_group) empty_link; /* the committer's */
	bool in_empty;

	/* The committer's. */
	struct free_space *committed;
	uint64_t used;	      /* bytes that committed trees refer to */
	_Atomic bool in_tree; /* the group tree has an item for it; the flush log looks too */
	bool dirty;
	struct block_group *dirty_next;
	uint64_t *lost; /* while rebuilding: blocks freed since the walk began (bitmap) */
	/*
	 * of a sparse pool, and no commit names it yet (backing.h, invariant 2); the committer's once it is
	 * in the table
	 */
	bool uncounted;
	/* the trees refer to more or less of it than its item says: it stays in state REBUILDING */
	bool contradicts;
	enum group_cache_state cache_state;
	uint8_t cache_slot;
	uint64_t cache_generation;
	uint32_t cache_crc, cache_bytes;
	void *cache_buf;
	int cache_error;

	bool logged; /* LOCK_LOG: a group that no commit knows yet is in the flush log */
};

struct group_table {
	struct fs *fs;
	_Atomic bool unlogged; /* data groups were made or loaded that the flush log may have to name */
	struct lock lock;      /* creation, removal, unallocated space, `fresh`, `system` */
	/* by logical address / group_step; GROUP_INDEX_MAX entries, of which only used pages take memory */
	_Atomic(struct block_group *) *at_step;
	_Atomic uint32_t count;		/* steps in use are below this */
	struct device_space free_index; /* steps that are not in use */
	struct device_space unallocated;
	/* the same as in `unallocated`, for those without the lock */
	_Atomic uint64_t unallocated_bytes, unallocated_ranges;
	_Atomic uint32_t data_cursor; /* the group that gave last */
	struct fs_work load_ahead;    /* on a worker, while this is true: */
	_Atomic bool loads_ahead;
	struct group_list fresh; /* groups that no commit knows */
	struct block_group *system[SUPER_SYSTEM_GROUPS];
	unsigned nr_system;

	/* the lists by free space and by last use: innermost, when a group changes by much */
	struct lock order_lock;
	struct group_list by_free[GROUP_ORDERS * GROUP_TYPES][GROUP_BUCKETS];
	uint32_t bucket_used[GROUP_ORDERS * GROUP_TYPES]; /* a bit for each list that is not empty */
	struct group_list discard; /* data groups with something to discard (backing_discard.c) */
	struct group_list loaded;  /* data groups, least recently used first */
	uint32_t nr_loaded;
	_Atomic uint64_t loaded_bytes; /* of bitmaps of data groups */
	uint64_t loaded_max;

	_Atomic(struct block_group *) pinned[2]; /* groups with pins, by set */

	/* The committer's: */
	struct block_group *dirty;
	struct block_group *node_cursor[2]; /* metadata, system */
	struct group_list empty;
	struct group_list removed[2]; /* by set of pins */
	uint64_t nr_empty;
	_Atomic uint64_t empty_data_bytes;    /* of data groups in it */
	_Atomic uint32_t rebuilding;	      /* groups in that state */
	_Atomic uint32_t metadata_unknown;    /* metadata groups whose free space is not known, but may be */
	_Atomic uint32_t number[GROUP_TYPES]; /* groups: data, metadata, system */
	_Atomic uint32_t live;		      /* groups but for the system's */
	_Atomic uint32_t live_max;	      /* that the system groups have room for in the group tree */
};

int group_table_init(struct fs *fs);
/* One that is in no table (any more). Accepts NULL. */
void group_free(struct block_group *g);
void group_table_fini(struct fs *fs);

/* How long new groups are in a pool of that size, and the smallest piece of device space given to groups. */
uint64_t group_size_for(uint64_t pool_bytes);
uint64_t group_quantum(const struct fs *fs);

/* Declares device space as unallocated, or takes it. -ENOMEM; take: -EUCLEAN when it was not unallocated. */
int group_space_add(struct fs *fs, uint64_t off, uint64_t len);
int group_space_take(struct fs *fs, uint64_t off, uint64_t len);

/* The group of an address; NULL: none. */
struct block_group *block_group_find(struct fs *fs, uint64_t addr);

/* Which block of the group's bitmaps stands at an address that is in the group. */
static inline uint32_t block_group_index(const struct block_group *g, uint64_t addr)
{
	return (uint32_t)((addr - g->start) / g->unit);
}
/* Whether [addr, addr+len) consists of such blocks, and is in the group, as block_group_find says of addr. */
static inline bool block_group_holds(const struct block_group *g, uint64_t addr, uint64_t len)
{
	return len <= g->len - (addr - g->start) && (addr - g->start) % g->unit == 0 && len % g->unit == 0;
}

/* Device offsets of each copy of [addr, addr+len): how many, or -EUCLEAN when it is not inside one group. */
int block_group_map(struct fs *fs, uint64_t addr, uint64_t len, uint64_t ret_off[GROUP_STRIPES_MAX]);

/* Registers a group read from the trees. The stripes' device space is taken. */
struct group_desc {
	uint64_t start, len, used, generation;
	uint32_t slot_bytes;
	uint8_t type, nr_stripes;
	uint64_t stripe[GROUP_STRIPES_MAX];
	uint8_t cache_slot;
	uint64_t cache_generation;
	uint32_t cache_crc, cache_bytes;
	bool in_tree;	/* a commit knows it */
	bool uncounted; /* as in struct block_group */
};
int block_group_add(struct fs *fs, const struct group_desc *desc, struct block_group **ret_group);

/*
 * Makes a group from up to max_bytes of unallocated space; the caller accounts for *ret_bytes. In memory
 * only: the next commit writes it. -ENOSPC, -ENOMEM. 0 bytes: it is accounted for once a commit has named it.
 * On a sparse pool (backing.h) it waits for the host; elsewhere it does not.
 */
int block_group_create(struct fs *fs, uint8_t type, uint64_t max_bytes, uint64_t *ret_bytes);

/*
 * A system group of up to `bytes`, in memory: the next commit's superblock has it. Under the space lock,
 * whose owner knows that metadata can spare the space. -ENOSPC, -ENOMEM.
 */
int block_group_create_system_locked(struct fs *fs, uint64_t bytes);
/* The same on a sparse pool, without the lock. Waits. */
int block_group_create_system_backed(struct fs *fs, uint64_t bytes);
/* For the superblock of a commit. Under the commit lock. */
void block_group_pack_system(struct fs *fs, struct super_block *sb);
/* Adds those that the superblock names. At open. */
int block_group_read_system(struct fs *fs);
/* Bytes of system groups that this many groups need; and that there are. */
uint64_t block_group_system_for(uint64_t groups);
uint64_t block_group_system_bytes(struct fs *fs);

/* A node of the group tree stands there: these are what is used of the system groups. At open. */
int block_group_take_system(struct fs *fs, uint64_t addr);

/*
 * Takes up to want blocks of data space in a row. Returns how many (0: none without waiting; *ret_unloaded
 * says whether a group has to be loaded first). Does no accounting.
 */
uint32_t block_group_take_data(struct fs *fs, uint32_t want, uint64_t *ret_addr, bool *ret_unloaded);

/* Gives back what was taken (a run's rest; an extent that no tree and no log knows). */
void block_group_give(struct fs *fs, uint64_t addr, uint64_t len);

/*
 * Marks as allocated what the flush log refers to (replay). -EUCLEAN when it is in use. Loads the group:
 * waits.
 */
int block_group_claim(struct fs *fs, struct device_queue *q, uint64_t addr, uint64_t len);

/* Frees a range in a transaction: pinned until it is committed. The group is loaded. Never fails. */
void block_group_pin(struct fs *fs, uint64_t addr, uint64_t len, uint64_t generation);

/*
 * A node's place for the committer. -ENOSPC only if reservations were wrong. May wait for a cache slot to be
 * read.
 */
int block_group_alloc_node(struct fs *fs, struct device_queue *q, uint8_t type, uint64_t *ret_addr);

/*
 * Reads the free space of a group if need be. 0 also if it turned out to need a rebuild, or is leaving (see
 * its state). Waits.
 */
int block_group_load(struct fs *fs, struct device_queue *q, struct block_group *group);

/* Reads the caches of this many unloaded groups at the same time. What fails is left to block_group_load. */
void block_group_load_ahead(struct fs *fs, struct device_queue *q, struct block_group **group, unsigned n);
#define GROUP_LOAD_AHEAD 64u

/*
 * Loads all metadata groups. True when the free space of some is not known: to be rebuilt, or there was no
 * memory. Waits.
 */
bool block_group_load_metadata(struct fs *fs, struct device_queue *q);

/* Loads the next group with free data space; for workers. True when there was one. */
bool block_group_load_next(struct fs *fs, struct device_queue *q);

/*
 * Hands over a group's free space that does not come from a cache: a rebuild found it, or all is free in a
 * group that is new or has no cache. Takes `committed` on success. -ENOMEM.
 */
int block_group_rebuilt(struct fs *fs, struct block_group *g, struct free_space *committed);

/* The next commit writes its item and cache. Under the commit lock. */
void block_group_set_dirty(struct fs *fs, struct block_group *g);

/* ---- the committer's steps, in order --------------------------------------- */

/*
 * Runs settled refs: committed bitmaps, used bytes, pins; dirties groups. -EUCLEAN when the trees contradict
 * the bitmaps.
 */
int block_group_run_refs(struct fs *fs, struct device_queue *q, const struct delayed_refs *refs,
			 uint64_t generation);

/* Chooses empty groups to remove, then starts the writes of the dirty groups' caches. -ENOMEM. */
int block_group_write_caches(struct fs *fs, struct write_batch *wb, uint64_t generation);

/*
 * After the caches' writes: what the item of a dirty group says about its cache. One that could not be
 * written is none.
 */
void block_group_end_cache(struct fs *fs, struct block_group *g);

/* The commit is durable: removed groups' space is unallocated, written caches are the valid ones. */
void block_group_commit_done(struct fs *fs, uint64_t generation);

/* No reader needs this set of pins any more: its blocks become available. Under the commit lock. */
void block_group_release_pinned(struct fs *fs, unsigned set);

/*
 * Unloads data groups that nobody uses, least recently used first, until they fit loaded_max. Under the
 * commit lock.
 */
void block_group_unload(struct fs *fs);

/*
 * Frees the groups removed by the commits of this set, which nobody can hold any more. Under the commit lock.
 */
void block_group_free_removed(struct fs *fs, unsigned set);

/* Walks all groups, from any thread; fn is called in an epoch, without the table's lock. */
void block_group_each(struct fs *fs, void (*fn)(struct block_group *group, void *arg), void *arg);

#endif
