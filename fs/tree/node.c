/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/tree/node.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/core/lock_rank.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"

static struct node_slot *slots(const struct node_header *node)
{
	return (struct node_slot *)(uintptr_t)(node + 1);
}

struct key node_key(const struct node_header *node, unsigned slot)
{
	const struct node_slot *s = &slots(node)[slot];

	return (struct key){(const uint8_t *)node + le16_to_cpu(s->off), le16_to_cpu(s->key_len)};
}

struct value node_value(const struct node_header *node, unsigned slot)
{
	const struct node_slot *s = &slots(node)[slot];

	return (struct value){(const uint8_t *)node + le16_to_cpu(s->off) + le16_to_cpu(s->key_len),
			      le16_to_cpu(s->value_len)};
}

int node_floor(const struct node_header *node, struct key key)
{
	int lo = 0, hi = (int)node_count(node); /* keys before lo are <= key, from hi on they are greater */

	while (lo < hi) {
		int mid = (lo + hi) / 2;

		if (key_cmp(node_key(node, (unsigned)mid), key) <= 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo - 1;
}

static const char *validate_items(const struct node_header *node)
{
	unsigned n = node_count(node), level = node->level;
	uint32_t data_off = le32_to_cpu(node->data_off), total = 0;

	if (data_off > NODE_SIZE || sizeof(*node) + n * sizeof(struct node_slot) > data_off)
		return "item array runs into the items";
	for (unsigned i = 0; i < n; i++) {
		const struct node_slot *s = &slots(node)[i];
		uint32_t off = le16_to_cpu(s->off), klen = le16_to_cpu(s->key_len),
			 vlen = le16_to_cpu(s->value_len);

		if (off < data_off || off + klen + vlen > NODE_SIZE)
			return "an item lies outside";
		if (klen == 0 || klen > NODE_KEY_MAX)
			return "a key's length is impossible";
		if (level > 0 && vlen != sizeof(struct node_pointer))
			return "a pointer's length is wrong";
		if (i > 0 && key_cmp(node_key(node, i - 1), node_key(node, i)) >= 0)
			return "keys are not in order";
		total += klen + vlen;
	}
	return total == NODE_SIZE - data_off ? NULL : "items do not fill their space";
}

int node_validate(const struct node_header *node, const struct node_ident *id, const uint8_t uuid[16],
		  const char **ret_why)
{
	const char *why = NULL;

	if (le32_to_cpu(node->magic) != NODE_MAGIC)
		why = "not a node";
	else if (le32_to_cpu(node->crc) != node_checksum(node))
		why = "checksum does not match";
	else if (memcmp(node->pool, uuid, sizeof(node->pool)) != 0)
		why = "belongs to another pool";
	else if (le64_to_cpu(node->addr) != id->addr)
		why = "was written to another address";
	else if (le64_to_cpu(node->owner) != id->owner)
		why = "belongs to another tree";
	else if (le64_to_cpu(node->generation) != id->generation)
		why = "is of another generation";
	else if (node->level != id->level || node->level >= NODE_LEVEL_MAX)
		why = "is of another level";
	else if (node_count(node) == 0)
		why = "is empty";
	else
		why = validate_items(node);
	if (!why)
		return 0;
	*ret_why = why;
	return -EUCLEAN;
}

static bool same_ident(const struct node_header *node, const struct node_ident *id)
{
	return le64_to_cpu(node->generation) == id->generation && le64_to_cpu(node->owner) == id->owner &&
	       node->level == id->level;
}

/* ---- nodes without a good copy --------------------------------------------- */

void bad_nodes_init(struct bad_nodes *bn)
{
	lock_init(&bn->lock, LOCK_BAD_NODES);
}
void bad_nodes_fini(struct bad_nodes *bn)
{
	lock_fini(&bn->lock);
}

bool bad_nodes_note(struct bad_nodes *bn, uint64_t addr, unsigned bit)
{
	uint64_t *found = NULL;
	bool first;

	lock_take(&bn->lock);
	for (unsigned i = 0; !found && i < BAD_NODES_MAX; i++)
		if ((bn->addr[i] & ~3ull) == addr)
			found = &bn->addr[i];
	if (!found) {
		found = &bn->addr[bn->next++ % BAD_NODES_MAX];
		atomic_fetch_add(&bn->count, *found == 0);
		*found = addr;
	}
	first = !(*found >> bit & 1);
	*found |= 1ull << bit;
	lock_drop(&bn->lock);
	return first;
}

/* It can be read again. */
static void bad_nodes_forget(struct bad_nodes *bn, uint64_t addr)
{
	if (!atomic_load(&bn->count))
		return;
	lock_take(&bn->lock);
	for (unsigned i = 0; i < BAD_NODES_MAX; i++) {
		if (addr && (bn->addr[i] & ~3ull) == addr) {
			bn->addr[i] = 0;
			atomic_fetch_sub(&bn->count, 1);
		}
	}
	lock_drop(&bn->lock);
}

/* ---- reading --------------------------------------------------------------- */

struct copy_result {
	int error;
	const char *why; /* a constant string */
};

/* What is wrong with the first n copies; `mended`: the next one is good. */
static void report_copies(struct fs *fs, const struct node_ident *id, const struct copy_result *res, int n,
			  bool mended)
{
	for (int i = 0; i < n; i++)
		fs_log(fs, FS_LOG_WARNING, "tree %llu: node at %llu, copy %d: %s%s",
		       (unsigned long long)id->owner, (unsigned long long)id->addr, i,
		       res[i].error == -EUCLEAN ? res[i].why : strerror(-res[i].error),
		       mended ? ", reading its twin" : ": no copy is good");
}

static void mend_copies(struct fs *fs, struct device_queue *q, const uint64_t *off, int n, void *good)
{
	for (int bad = 0; bad < n && !fs_is_read_only(fs); bad++)
		if (device_sync(q, DEVICE_WRITE, off[bad], good, NODE_SIZE) == 0)
			atomic_fetch_add(&fs->stats.errors_corrected, 1);
}

/* Reads one copy after the other until one is valid; earlier ones are mended with it. */
static int read_copies(struct fs *fs, struct device_queue *q, const struct node_ident *id, void *buf)
{
	uint64_t off[GROUP_STRIPES_MAX];
	struct copy_result res[GROUP_STRIPES_MAX];
	int n = block_group_map(fs, id->addr, NODE_SIZE, off), err = -EUCLEAN;

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		res[i].error = device_sync(q, DEVICE_READ, off[i], buf, NODE_SIZE);
		if (res[i].error == 0)
			res[i].error = node_validate(buf, id, fs->uuid, &res[i].why);
		if (res[i].error == 0) {
			if (i > 0)
				report_copies(fs, id, res, i, true);
			mend_copies(fs, q, off, i, buf);
			bad_nodes_forget(fs->bad_nodes, id->addr);
			return 0;
		}
		atomic_fetch_add(res[i].error == -EUCLEAN ? &fs->stats.errors_checksum : &fs->stats.errors_io,
				 1);
		if (res[i].error == -ENOMEM)
			err = -ENOMEM;
		else if (res[i].error != -EUCLEAN && err != -ENOMEM) /* whatever the device calls it */
			err = -EIO;
	}
	if (err != -ENOMEM && bad_nodes_note(fs->bad_nodes, id->addr, 0))
		report_copies(fs, id, res, n, false);
	return err;
}

int node_read(struct fs *fs, struct device_queue *q, const struct node_ident *id,
	      struct cache_entry **ret_entry)
{
	struct cache_entry *entry = cache_get(fs->cache, CACHE_NODE, id->addr);
	int r;

	if (entry && same_ident(node_header(entry), id)) {
		*ret_entry = entry;
		return 0;
	}
	cache_put(fs->cache, entry);
	if (!q)
		return -EAGAIN;
	entry = cache_alloc(fs->cache, CACHE_NODE);
	if (!entry)
		return -ENOMEM;
	r = read_copies(fs, q, id, entry->data);
	if (r) {
		cache_put(fs->cache, entry);
		return r;
	}
	cache_publish(fs->cache, entry, id->addr);
	*ret_entry = entry;
	return 0;
}

int node_child(const struct node_header *node, unsigned slot, uint64_t owner, struct node_ident *ret_id)
{
	struct node_pointer ptr;

	memcpy(&ptr, node_value(node, slot).data, sizeof(ptr));
	*ret_id = (struct node_ident){le64_to_cpu(ptr.addr), le64_to_cpu(ptr.generation), owner,
				      (uint8_t)(node->level - 1)};
	/* Children are never younger than their parents. */
	if (ret_id->addr % NODE_SIZE || ret_id->generation > le64_to_cpu(node->generation))
		return -EUCLEAN;
	return 0;
}

void node_init(struct node_header *node, const struct node_ident *id, const uint8_t uuid[16])
{
	memset(node, 0, NODE_SIZE);
	node->magic = cpu_to_le32(NODE_MAGIC);
	node->addr = cpu_to_le64(id->addr);
	node->owner = cpu_to_le64(id->owner);
	node->generation = cpu_to_le64(id->generation);
	memcpy(node->pool, uuid, sizeof(node->pool));
	node->level = id->level;
	node->data_off = cpu_to_le32(NODE_SIZE);
}

void node_append(struct node_header *node, struct key key, struct value value)
{
	unsigned n = node_count(node);
	uint32_t off = le32_to_cpu(node->data_off) - key.len - value.len;

	ASSERT(sizeof(*node) + (n + 1) * sizeof(struct node_slot) <= off);
	memcpy((char *)node + off, key.data, key.len);
	memcpy((char *)node + off + key.len, value.data, value.len);
	slots(node)[n] =
		(struct node_slot){cpu_to_le16((uint16_t)off), cpu_to_le16(key.len), cpu_to_le16(value.len)};
	node->nritems = cpu_to_le16((uint16_t)(n + 1));
	node->data_off = cpu_to_le32(off);
}

void node_seal(struct node_header *node)
{
	node->crc = cpu_to_le32(node_checksum(node));
}
