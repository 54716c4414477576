/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/sim/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/crash/sim/fail.h"

#define NEVER UINT64_MAX
#define LOST_HASH 0x10510510510510ull /* of no content */
#define WORDS (MODEL_BLOCK / sizeof(uint64_t))

/* A partly written block's bytes. */
struct patched {
	unsigned refs;
	uint8_t bytes[MODEL_BLOCK];
};

struct version {
	uint64_t hash;
	uint64_t dead_at; /* NEVER: it may be the content now */
	uint32_t number;  /* of the last write in it; 0: zeros */
	uint32_t applied; /* requests under way that are in it, by bit */
	uint32_t missed;  /* those that are not, and can no longer come: one that was sent behind them is */
	struct patched *patched; /* NULL: all of it is that write's, or zeros */
};

/* ---- contents ------------------------------------------------------------------ */

static uint64_t hash_block(const void *data)
{
	const uint64_t k = 0x9e3779b97f4a7c15u;
	uint64_t h[4] = {1, 2, 3, 4}, w[4];

	for (unsigned i = 0; i < MODEL_BLOCK; i += sizeof(w)) {
		memcpy(w, (const char *)data + i, sizeof(w));
		for (unsigned j = 0; j < 4; j++) {
			h[j] = (h[j] ^ w[j]) * k;
			h[j] ^= h[j] >> 29;
		}
	}
	return ((h[0] * k ^ h[1]) * k ^ h[2]) * k ^ h[3];
}

/* Each word says which write, volume, block and place it is of. */
static uint64_t word_of(uint32_t number, uint32_t tag, uint64_t blk, unsigned i)
{
	return (uint64_t)number << 32 | (uint64_t)(tag & 0xff) << 24 | (blk & 0x7fff) << 9 | i;
}

static void fill_block(uint32_t number, uint32_t tag, uint64_t blk, void *buf)
{
	uint64_t *w = buf, base = word_of(number, tag, blk, 0);

	for (unsigned i = 0; i < WORDS; i++)
		w[i] = base + i;
}

static void bytes_of(const struct model_volume *vol, uint64_t blk, const struct version *v, void *buf)
{
	if (v->patched)
		memcpy(buf, v->patched->bytes, MODEL_BLOCK);
	else if (v->number)
		fill_block(v->number, vol->tag, blk, buf);
	else
		memset(buf, 0, MODEL_BLOCK);
}

static uint64_t hash_of_zeros(void)
{
	static const uint64_t zeros[WORDS];
	static uint64_t hash;

	if (!hash)
		hash = hash_block(zeros);
	return hash;
}

static void version_fini(struct version *v)
{
	if (v->patched && --v->patched->refs == 0)
		free(v->patched);
}

/* ---- versions of a block ------------------------------------------------------- */

static struct version *version_add(struct model_block *b, const struct version *v)
{
	if (b->count == b->room) {
		b->room = b->room ? b->room * 2 : 2;
		b->v = realloc(b->v, b->room * sizeof(*v));
		ASSERT(b->v);
	}
	b->v[b->count] = *v;
	return &b->v[b->count++];
}

static void version_drop(struct model_block *b, unsigned i)
{
	version_fini(&b->v[i]);
	b->v[i] = b->v[--b->count];
}

static void block_clear(struct model_block *b)
{
	while (b->count)
		version_drop(b, b->count - 1);
	free(b->v);
	*b = (struct model_block){0};
}

static void need_version(struct model_block *b)
{
	struct version zeros = {.hash = hash_of_zeros(), .dead_at = NEVER};

	if (b->count == 0)
		version_add(b, &zeros);
}

static bool has_living(const struct model_block *b, const struct version *v, unsigned upto)
{
	for (unsigned i = 0; i < upto; i++)
		if (b->v[i].dead_at == NEVER && b->v[i].hash == v->hash && b->v[i].applied == v->applied &&
		    b->v[i].missed == v->missed)
			return true;
	return false;
}

static uint64_t oldest_moment(const struct model *m)
{
	uint64_t oldest = NEVER;

	for (unsigned i = 0; i < MODEL_OPS_MAX; i++)
		if (m->op[i])
			oldest = min_u64(oldest, m->op[i]->submitted_at);
	return oldest;
}

/* What no read and no crash can show any more; and doubles. */
static void block_prune(const struct model *m, struct model_block *b, uint64_t oldest)
{
	uint64_t durable = max_u64(m->durable_at, b->durable_at);

	for (unsigned i = b->count; i-- > 0;) {
		const struct version *v = &b->v[i];

		if (v->dead_at == NEVER ? has_living(b, v, i) : v->dead_at <= durable && v->dead_at < oldest)
			version_drop(b, i);
	}
}

/* ---- volumes ------------------------------------------------------------------- */

struct model *model_new(void)
{
	struct model *m = calloc(1, sizeof(*m));

	ASSERT(m);
	return m;
}

void model_free(struct model *m)
{
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		if (m->volume[i].exists)
			model_volume_remove(m, &m->volume[i]);
	free(m);
}

struct model_volume *model_volume_add(struct model *m, const char *name, uint64_t blocks)
{
	struct model_volume *vol = m->volume;

	while (vol->exists)
		vol++;
	ASSERT(vol < m->volume + MODEL_VOLUMES_MAX);
	vol->exists = true;
	snprintf(vol->name, sizeof(vol->name), "%s", name);
	vol->comment[0] = '\0';
	vol->tag = ++m->last_tag;
	vol->blocks = blocks;
	vol->block = calloc(blocks, sizeof(*vol->block));
	ASSERT(vol->block);
	return vol;
}

static bool may_be_lost_now(const struct model_block *b)
{
	for (unsigned i = 0; i < b->count; i++)
		if (b->v[i].hash == LOST_HASH && b->v[i].dead_at == NEVER)
			return true;
	return false;
}

void model_volume_resize(struct model *m, struct model_volume *vol, uint64_t blocks)
{
	uint64_t old = vol->blocks;
	bool lost = old && blocks > old && (vol->end_lost || may_be_lost_now(&vol->block[old - 1]));

	for (uint64_t i = blocks; i < old; i++)
		block_clear(&vol->block[i]);
	vol->block = realloc(vol->block, max_u64(blocks, 1) * sizeof(*vol->block));
	ASSERT(vol->block);
	if (blocks > old)
		memset(vol->block + old, 0, (blocks - old) * sizeof(*vol->block));
	vol->blocks = blocks;
	/* The range of the last leaf reaches to the end, wherever that is. */
	for (uint64_t i = old; lost && i < blocks; i++)
		model_may_lose(m, vol, i);
}

void model_volume_remove(struct model *m, struct model_volume *vol)
{
	model_volume_resize(m, vol, 0);
	free(vol->block);
	memset(vol, 0, sizeof(*vol));
}

struct model_volume *model_volume_find(struct model *m, const char *name)
{
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		if (m->volume[i].exists && strcmp(m->volume[i].name, name) == 0)
			return &m->volume[i];
	return NULL;
}

/* ---- requests ------------------------------------------------------------------ */

static uint64_t first_block(const struct model_op *op)
{
	return op->off / MODEL_BLOCK;
}
static uint64_t end_block(const struct model_op *op)
{
	return (op->off + op->len + MODEL_BLOCK - 1) / MODEL_BLOCK;
}

/* The part of the block that the request touches. */
static void part_of_block(const struct model_op *op, uint64_t blk, unsigned *ret_from, unsigned *ret_to)
{
	uint64_t at = blk * MODEL_BLOCK;

	*ret_from = op->off > at ? (unsigned)(op->off - at) : 0;
	*ret_to = (unsigned)min_u64(op->off + op->len - at, MODEL_BLOCK);
}

bool model_may_submit(const struct model *m, const struct model_volume *vol, uint64_t off, uint64_t len)
{
	unsigned changes = 0;

	for (unsigned i = 0; i < MODEL_OPS_MAX; i++)
		changes += m->op[i] != NULL;
	if (changes >= MODEL_OPS_MAX - 1)
		return false;
	for (uint64_t blk = off / MODEL_BLOCK; blk < (off + len + MODEL_BLOCK - 1) / MODEL_BLOCK; blk++)
		if (vol->block[blk].under_way >= MODEL_OVERLAP_MAX)
			return false;
	return true;
}

void model_fill(struct model *m, struct model_op *op, void *buf)
{
	uint64_t block[WORDS];

	op->number = ++m->last_number;
	for (uint64_t blk = first_block(op); blk < end_block(op); blk++) {
		unsigned from, to;

		part_of_block(op, blk, &from, &to);
		fill_block(op->number, op->vol->tag, blk, block);
		memcpy((char *)buf + (blk * MODEL_BLOCK + from - op->off), (char *)block + from, to - from);
	}
}

/* Whether the request changes this block. */
static bool changes_block(const struct model_op *op, const struct model_volume *vol, uint64_t blk)
{
	return op && op->vol == vol && (op->kind == MODEL_WRITE || op->kind == MODEL_ZERO) &&
	       blk >= first_block(op) && blk < end_block(op);
}

/*
 * What was sent to the same loop before, and changes the block too: from now on it is in it, or never will
 * be.
 */
static uint32_t sent_before(const struct model *m, const struct model_op *op, uint64_t blk)
{
	uint32_t before = 0;

	for (unsigned k = 0; k < MODEL_OPS_MAX; k++)
		if (m->op[k] != op && changes_block(m->op[k], op->vol, blk) && m->op[k]->loop == op->loop &&
		    m->op[k]->submitted_at < op->submitted_at)
			before |= 1u << k;
	return before;
}

/* The version that the request makes of v. */
static struct version apply(const struct model *m, const struct model_op *op, uint64_t blk,
			    const struct version *v)
{
	struct version out = {.dead_at = NEVER,
			      .number = op->number,
			      .applied = v->applied | 1u << op->bit,
			      .missed = v->missed | (sent_before(m, op, blk) & ~v->applied)};
	uint64_t base[WORDS], new[WORDS];
	unsigned from, to;

	part_of_block(op, blk, &from, &to);
	if (op->kind == MODEL_WRITE)
		fill_block(op->number, op->vol->tag, blk, new);
	else
		memset(new, 0, sizeof(new));
	if (from > 0 || to < MODEL_BLOCK) {
		bytes_of(op->vol, blk, v, base);
		memcpy((char *)base + from, (char *)new + from, to - from);
		memcpy(new, base, sizeof(new));
		out.patched = malloc(sizeof(*out.patched));
		ASSERT(out.patched);
		out.patched->refs = 1;
		memcpy(out.patched->bytes, new, MODEL_BLOCK);
	}
	out.hash = op->kind == MODEL_ZERO && !out.patched ? hash_of_zeros() : hash_block(new);
	return out;
}

/* A part of a block cannot be changed where the rest is lost: such a request fails. */
static bool can_apply(const struct model_op *op, uint64_t blk, const struct version *v)
{
	unsigned from, to;

	part_of_block(op, blk, &from, &to);
	return v->hash != LOST_HASH || (from == 0 && to == MODEL_BLOCK);
}

/* Everything that the requests under way may make of the block, in any order that rule 5 leaves. */
static void block_close(struct model *m, struct model_volume *vol, uint64_t blk)
{
	struct model_block *b = &vol->block[blk];

	for (unsigned i = 0; i < b->count; i++) {
		for (unsigned k = 0; k < MODEL_OPS_MAX && b->v[i].dead_at == NEVER; k++) {
			const struct model_op *op = m->op[k];
			struct version v;

			if (!changes_block(op, vol, blk) ||
			    (b->v[i].applied | b->v[i].missed) & 1u << op->bit ||
			    !can_apply(op, blk, &b->v[i]))
				continue;
			v = apply(m, op, blk, &b->v[i]);
			if (has_living(b, &v, b->count))
				version_fini(&v);
			else
				version_add(b, &v);
		}
	}
}

static void submit_change(struct model *m, struct model_op *op)
{
	for (uint64_t blk = first_block(op); blk < end_block(op); blk++) {
		struct model_block *b = &op->vol->block[blk];

		need_version(b);
		if (b->under_way++)
			b->mixed_at = m->now;
		b->changed_at = m->now;
		block_close(m, op->vol, blk);
	}
}

void model_submit(struct model *m, struct model_op *op)
{
	op->submitted_at = ++m->now;
	for (op->bit = 0; m->op[op->bit]; op->bit++)
		ASSERT(op->bit < MODEL_OPS_MAX - 1);
	m->op[op->bit] = op;
	if (op->kind == MODEL_WRITE || op->kind == MODEL_ZERO)
		submit_change(m, op);
}

static void end_change(struct model *m, struct model_op *op, int error)
{
	uint32_t mask = 1u << op->bit;
	uint64_t oldest = oldest_moment(m);

	for (uint64_t blk = first_block(op); blk < min_u64(end_block(op), op->vol->blocks); blk++) {
		struct model_block *b = &op->vol->block[blk];

		for (unsigned i = 0; i < b->count; i++) {
			if (b->v[i].dead_at != NEVER)
				continue;
			if (!error && !(b->v[i].applied & mask))
				b->v[i].dead_at = m->now;
			b->v[i].applied &= ~mask;
			b->v[i].missed &= ~mask;
		}
		if (!error && op->fua)
			b->durable_at = max_u64(b->durable_at,
						b->mixed_at >= op->submitted_at ? op->submitted_at : m->now);
		b->under_way--;
		b->changed_at = m->now;
		block_prune(m, b, oldest);
	}
}

/* ---- reads --------------------------------------------------------------------- */

static void print_versions(const struct model *m, const struct model_volume *vol, uint64_t blk)
{
	const struct model_block *b = &vol->block[blk];

	fprintf(stderr, "  now %llu; durable at %llu (this block: %llu); %u requests under way on it\n",
		(unsigned long long)m->now, (unsigned long long)m->durable_at,
		(unsigned long long)b->durable_at, b->under_way);
	for (unsigned i = 0; i < b->count; i++) {
		fprintf(stderr, "  version: write %u%s%s", b->v[i].number, b->v[i].number ? "" : " (zeros)",
			b->v[i].patched ? ", patched" : "");
		if (b->v[i].dead_at == NEVER)
			fprintf(stderr, ", may be current\n");
		else
			fprintf(stderr, ", replaced at %llu\n", (unsigned long long)b->v[i].dead_at);
	}
}

/* What is there instead, in runs of words of the same origin. */
static void print_content(const void *data)
{
	const uint64_t *w = data;

	for (unsigned i = 0, runs = 0; i < WORDS && runs < 12; runs++) {
		unsigned from = i;
		uint64_t key = w[i] >> 9;

		while (i < WORDS && w[i] >> 9 == key)
			i++;
		if (key == 0)
			fprintf(stderr, "  found: words %u to %u: zeros\n", from, i - 1);
		else
			fprintf(stderr, "  found: words %u to %u: write %u of volume tag %u, block %u\n",
				from, i - 1, (unsigned)(key >> 23), (unsigned)(key >> 15 & 0xff),
				(unsigned)(key & 0x7fff));
	}
}

static bool lived_after(const struct version *v, uint64_t moment)
{
	return v->dead_at == NEVER || v->dead_at > moment;
}

static bool matches_part(const struct model_op *op, uint64_t blk, const struct version *v, const char *part,
			 unsigned from, unsigned to)
{
	uint64_t bytes[WORDS];

	if (v->hash == LOST_HASH)
		return false;
	bytes_of(op->vol, blk, v, bytes);
	return memcmp((char *)bytes + from, part, to - from) == 0;
}

/* The read has told which of several it is. */
static void narrow(struct model *m, struct model_block *b, uint64_t hash)
{
	for (unsigned i = 0; i < b->count; i++)
		if (b->v[i].dead_at == NEVER && b->v[i].hash != hash)
			b->v[i].dead_at = m->now;
}

static void check_block_read(struct model *m, const struct model_op *op, uint64_t blk, const char *data)
{
	struct model_block *b = &op->vol->block[blk];
	const char *part;
	unsigned from, to;
	uint64_t hash = 0;
	bool ok = false;

	part_of_block(op, blk, &from, &to);
	part = data + (blk * MODEL_BLOCK + from - op->off);
	need_version(b);
	if (to - from == MODEL_BLOCK)
		hash = hash_block(part);
	for (unsigned i = 0; !ok && i < b->count; i++)
		if (lived_after(&b->v[i], op->submitted_at))
			ok = to - from == MODEL_BLOCK ? b->v[i].hash == hash
						      : matches_part(op, blk, &b->v[i], part, from, to);
	if (!ok) {
		print_versions(m, op->vol, blk);
		if (to - from == MODEL_BLOCK)
			print_content(part);
		sim_fail("wrong data: a read of volume %s, block %llu, bytes %u to %u (submitted at %llu)",
			 op->vol->name, (unsigned long long)blk, from, to,
			 (unsigned long long)op->submitted_at);
	}
	if (to - from == MODEL_BLOCK && b->under_way == 0 && b->changed_at < op->submitted_at)
		narrow(m, b, hash);
}

/* ---- ends ---------------------------------------------------------------------- */

void model_durable(struct model *m, uint64_t since)
{
	m->durable_at = max_u64(m->durable_at, since);
}

void model_end(struct model *m, struct model_op *op, int error, const void *data)
{
	m->now++;
	m->op[op->bit] = NULL;
	switch (op->kind) {
	case MODEL_WRITE:
	case MODEL_ZERO: end_change(m, op, error); break;
	case MODEL_FLUSH:
		if (!error)
			model_durable(m, op->submitted_at);
		break;
	case MODEL_READ:
		for (uint64_t blk = first_block(op); !error && blk < end_block(op); blk++)
			check_block_read(m, op, blk, data);
		break;
	}
}

void model_crash(struct model *m)
{
	for (unsigned i = 0; i < MODEL_OPS_MAX; i++)
		ASSERT(!m->op[i]);
	m->now++;
}

static void recovered(struct model *m, struct model_volume *vol, uint64_t blk, uint64_t hash,
		      const void *data)
{
	struct model_block *b = &vol->block[blk];
	uint64_t durable = max_u64(m->durable_at, b->durable_at);
	int found = -1;

	need_version(b);
	for (unsigned i = 0; found < 0 && i < b->count; i++)
		if (lived_after(&b->v[i], durable) && b->v[i].hash == hash)
			found = (int)i;
	if (found < 0) {
		print_versions(m, vol, blk);
		if (data)
			print_content(data);
		sim_fail(data ? "lost or wrong data: after a crash, volume %s, block %llu"
			      : "after a crash, volume %s, block %llu cannot be read",
			 vol->name, (unsigned long long)blk);
	}
	b->v[found].dead_at = NEVER;
	b->v[found].applied = b->v[found].missed = 0;
	if (found != 0) {
		struct version keep = b->v[found];

		b->v[found] = b->v[0];
		b->v[0] = keep;
	}
	while (b->count > 1)
		version_drop(b, b->count - 1);
	b->under_way = 0;
	b->changed_at = m->now;
}

void model_recovered(struct model *m, struct model_volume *vol, uint64_t blk, const void *data)
{
	recovered(m, vol, blk, hash_block(data), data);
}

void model_recovered_lost(struct model *m, struct model_volume *vol, uint64_t blk)
{
	recovered(m, vol, blk, LOST_HASH, NULL);
}

void model_may_lose(struct model *m, struct model_volume *vol, uint64_t blk)
{
	struct version lost = {.hash = LOST_HASH, .dead_at = NEVER};

	(void)m;
	/* also when the last block has been written since: that node is replaced by a commit */
	vol->end_lost |= blk + 1 == vol->blocks;
	need_version(&vol->block[blk]);
	version_add(&vol->block[blk], &lost);
}

bool model_may_be_lost(const struct model *m, const struct model_op *op)
{
	(void)m;
	for (uint64_t blk = first_block(op); blk < min_u64(end_block(op), op->vol->blocks); blk++)
		for (unsigned i = 0; i < op->vol->block[blk].count; i++)
			if (op->vol->block[blk].v[i].hash == LOST_HASH &&
			    lived_after(&op->vol->block[blk].v[i], op->submitted_at))
				return true;
	return false;
}

bool model_is_data(const struct model *m, const struct model_volume *vol, uint64_t blk)
{
	const struct model_block *b = &vol->block[blk];
	uint64_t zeros = hash_of_zeros();

	(void)m;
	for (unsigned i = 0; i < b->count; i++)
		if (b->v[i].dead_at == NEVER && b->v[i].hash == zeros)
			return false;
	return b->count > 0;
}
