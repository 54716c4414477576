/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/fs/volume/test_overlay.c: pending extents against an array that says everything about each block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "fs/fs.h"
#include "fs/volume/overlay.h"

#define BLOCKS 128
#define OPS 300000
#define ADDRS (1u << 22)

struct block_model {
	bool found, logged;
	uint64_t addr, gen;
	uint32_t crc; /* 0: none */
};

struct world {
	struct overlay ov;
	struct block_model model[BLOCKS];
	struct pending *spare;
	uint64_t next_addr; /* in blocks; 0 is the hole */
	uint64_t live;	    /* blocks of space that the overlay refers to */
	uint8_t *freed;	    /* by address in blocks */
	uint64_t rng;
};

static uint64_t rnd(struct world *w, uint64_t n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return w->rng % n;
}

static uint64_t seed_get(void)
{
	const char *env = getenv("SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20240229;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed * 2 + 1;
}

static void world_init(struct world *w, uint64_t seed)
{
	memset(w, 0, sizeof(*w));
	overlay_init(&w->ov);
	w->next_addr = 1;
	w->rng = seed;
	w->freed = calloc(ADDRS, 1);
	assert_non_null(w->freed);
}

static void world_fini(struct world *w)
{
	overlay_clear(&w->ov);
	overlay_check(&w->ov);
	pending_free(w->spare);
	free(w->freed);
}

static void note_freed(void *arg, uint64_t addr, uint64_t nblk)
{
	struct world *w = arg;

	assert_true(addr && addr % FS_BLOCK_SIZE == 0 && nblk);
	w->live -= nblk;
	for (addr /= FS_BLOCK_SIZE; nblk--; addr++) {
		assert_true(addr < w->next_addr);
		assert_int_equal(w->freed[addr], 0);
		w->freed[addr] = 1;
	}
}

/* The checksum that the block at this address has in these tests. */
static uint32_t crc_of(uint64_t addr)
{
	return (uint32_t)(addr / FS_BLOCK_SIZE * 2654435761u) | 1;
}

static struct pending *world_pending(struct world *w, uint64_t blk, uint64_t nblk, bool hole, bool crcs)
{
	struct pending *p = pending_new(nblk, crcs && !hole);

	if (!p)
		return NULL;
	p->blk = blk;
	p->gen = w->next_addr;
	p->addr = hole ? 0 : w->next_addr * FS_BLOCK_SIZE;
	for (uint32_t i = 0; i < p->crc_count; i++)
		p->crc[i] = crc_of(p->addr + i * FS_BLOCK_SIZE);
	return p;
}

static void world_insert(struct world *w, struct pending *p)
{
	uint64_t addr = p->addr, gen = p->gen, blk = p->blk, nblk = p->nblk;
	bool crcs = p->crc_count;

	if (addr) {
		w->next_addr += nblk;
		w->live += nblk;
	}
	assert_true(w->next_addr < ADDRS);
	mem_fail_at(1);
	overlay_insert(&w->ov, p, &w->spare, note_freed, w);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	for (uint64_t i = 0; i < nblk; i++) {
		struct block_model *m = &w->model[blk + i];

		m->found = true;
		m->logged = false;
		m->gen = gen;
		m->addr = addr ? addr + i * FS_BLOCK_SIZE : 0;
		m->crc = crcs ? crc_of(m->addr) : 0;
	}
}

static void world_write(struct world *w, uint64_t blk, uint64_t nblk, bool hole, bool crcs)
{
	assert_int_equal(overlay_insert_prealloc(&w->spare), 0);
	world_insert(w, world_pending(w, blk, nblk, hole, crcs));
}

/* One block's look-up against the model; how far the answer holds must be true too. */
static void world_compare_block(struct world *w, uint64_t blk)
{
	const struct block_model *m = &w->model[blk];
	struct overlay_piece piece;

	overlay_lookup(&w->ov, blk, &piece);
	assert_int_equal(piece.found, m->found);
	for (uint64_t i = 0; i < piece.nblk && blk + i < BLOCKS; i++) {
		m = &w->model[blk + i];
		assert_int_equal(piece.found, m->found);
		if (!m->found)
			continue;
		assert_true(m->gen == piece.gen);
		assert_true(m->addr == (piece.addr ? piece.addr + i * FS_BLOCK_SIZE : 0));
		assert_true((piece.crc ? piece.crc[i] : 0) == m->crc);
		if (m->addr)
			assert_int_equal(w->freed[m->addr / FS_BLOCK_SIZE], 0);
	}
	if (!piece.found && piece.nblk != UINT64_MAX)
		assert_true(blk + piece.nblk < BLOCKS && w->model[blk + piece.nblk].found);
	if (piece.found && blk + piece.nblk > BLOCKS)
		fail_msg("a pending reaches past the last block");
}

/* In order, everything that the model has and no more, with the right side of the log. */
static void world_compare_walk(struct world *w)
{
	uint64_t blk = 0, blocks = 0, crcs = 0;

	for (struct pending *p = overlay_first(&w->ov); p; p = overlay_next(p)) {
		for (; blk < p->blk; blk++)
			assert_false(w->model[blk].found);
		for (; blk < p->blk + p->nblk; blk++) {
			assert_true(w->model[blk].found);
			assert_int_equal(w->model[blk].logged, p->logged);
			blocks += w->model[blk].addr != 0;
			crcs += w->model[blk].crc != 0;
		}
	}
	for (; blk < BLOCKS; blk++)
		assert_false(w->model[blk].found);
	assert_true(w->ov.blocks == blocks && w->live == blocks && w->ov.crc_words == crcs);
}

static void world_log_some(struct world *w, uint64_t n)
{
	struct pending *p;

	while (n-- && (p = overlay_unlogged_first(&w->ov))) {
		for (uint64_t i = 0; i < p->nblk; i++)
			w->model[p->blk + i].logged = true;
		overlay_mark_logged(&w->ov, p);
	}
}

static void world_clear(struct world *w)
{
	overlay_clear(&w->ov);
	memset(w->model, 0, sizeof(w->model));
	w->live = 0;
}

static void world_random_op(struct world *w)
{
	uint64_t max = rnd(w, 4) ? 4 : rnd(w, 40) + 1, nblk = rnd(w, max) + 1,
		 blk = rnd(w, BLOCKS - nblk + 1);

	switch (rnd(w, 16)) {
	case 0: world_log_some(w, rnd(w, 6)); break;
	case 1: world_write(w, blk, nblk, true, false); break;
	case 2: world_write(w, blk, nblk, false, false); break;
	case 3:
		if (rnd(w, 60) == 0)
			world_clear(w);
		break;
	default: world_write(w, blk, nblk, false, true); break;
	}
}

static void test_overlay_random_against_model(void **state)
{
	struct world w;

	world_init(&w, seed_get());
	for (int i = 0; i < OPS; i++) {
		world_random_op(&w);
		world_compare_block(&w, rnd(&w, BLOCKS));
		if (i % 8)
			continue;
		overlay_check(&w.ov);
		world_compare_walk(&w);
	}
	world_fini(&w);
}

static void test_overlay_splits_keep_crcs_gen_and_log_state(void **state)
{
	struct world w;
	struct pending *p;

	world_init(&w, 7);
	world_write(&w, 10, 10, false, true);
	world_log_some(&w, 1);
	world_write(&w, 14, 2, true, false);
	assert_null(w.spare);
	assert_int_equal(w.ov.count, 3);
	p = overlay_first(&w.ov);
	assert_true(p->blk == 10 && p->nblk == 4 && p->logged && p->gen == 1);
	p = overlay_next(p);
	assert_true(p->blk == 14 && p->nblk == 2 && !p->logged && p->addr == 0);
	assert_ptr_equal(overlay_unlogged_first(&w.ov), p);
	assert_null(overlay_unlogged_next(p));
	p = overlay_next(p);
	assert_true(p->blk == 16 && p->nblk == 4 && p->logged && p->gen == 1 && p->addr == 7 * FS_BLOCK_SIZE);
	assert_null(overlay_next(p));
	world_compare_walk(&w);
	/* The array lives as long as the last piece of it. */
	world_write(&w, 10, 4, true, false);
	world_write(&w, 17, 3, false, true);
	for (uint64_t blk = 0; blk < BLOCKS; blk++)
		world_compare_block(&w, blk);
	world_fini(&w);
}

static void test_overlay_unlogged_in_order_of_arrival(void **state)
{
	static const uint64_t blks[] = {50, 10, 30, 20};
	struct world w;
	struct pending *p;
	int i = 0;

	world_init(&w, 7);
	for (i = 0; i < 4; i++)
		world_write(&w, blks[i], 1, false, true);
	i = 0;
	for (p = overlay_unlogged_first(&w.ov); p; p = overlay_unlogged_next(p))
		assert_true(i < 4 && p->blk == blks[i++]);
	assert_int_equal(i, 4);
	world_fini(&w);
}

static void test_overlay_empty_and_far_ends(void **state)
{
	struct overlay_piece piece;
	struct overlay ov;
	struct pending *p;

	overlay_init(&ov);
	overlay_lookup(&ov, 5, &piece);
	assert_true(!piece.found && piece.nblk == UINT64_MAX);
	assert_null(overlay_first(&ov));
	p = pending_new(UINT64_MAX / FS_BLOCK_SIZE, false);
	assert_non_null(p);
	overlay_insert(&ov, p, &(struct pending *){NULL}, NULL, NULL);
	overlay_lookup(&ov, 1, &piece);
	assert_true(piece.found && piece.addr == 0 && piece.nblk == UINT64_MAX / FS_BLOCK_SIZE - 1 &&
		    !piece.crc);
	assert_int_equal(ov.blocks, 0);
	overlay_check(&ov);
	overlay_clear(&ov);
	overlay_clear(&ov);
}

/* A write in the middle of another, with the n-th allocation failing: nothing changes, then it works. */
static void test_overlay_out_of_memory_changes_nothing(void **state)
{
	uint64_t n = 0;
	bool done = false;

	while (!done) {
		struct pending *p = NULL;
		struct world w;

		world_init(&w, 7);
		world_write(&w, 10, 10, false, true);
		pending_free(w.spare);
		w.spare = NULL;
		mem_fail_at(++n);
		if (overlay_insert_prealloc(&w.spare) == 0)
			p = world_pending(&w, 12, 3, false, true);
		done = mem_fail_pending();
		mem_fail_at(0);
		assert_int_equal(done, p != NULL);
		world_compare_walk(&w);
		if (p)
			world_insert(&w, p);
		world_compare_walk(&w);
		overlay_check(&w.ov);
		world_fini(&w);
	}
	assert_int_equal(n, 4);
}

static void test_overlay_many(void **state)
{
	enum { N = 100000 };
	struct overlay_piece piece;
	struct overlay ov;
	struct pending *spare = NULL;

	overlay_init(&ov);
	for (uint64_t i = 0; i < N; i++) {
		struct pending *p = pending_new(1, true);

		assert_non_null(p);
		p->blk = i * 7919 % N * 2;
		p->addr = (i + 1) * FS_BLOCK_SIZE;
		p->crc[0] = (uint32_t)i;
		overlay_insert(&ov, p, &spare, NULL, NULL);
	}
	overlay_check(&ov);
	assert_true(ov.count == N && ov.blocks == N && ov.crc_words == N);
	for (uint64_t i = 0; i < N; i++) {
		overlay_lookup(&ov, i * 7919 % N * 2, &piece);
		assert_true(piece.found && piece.addr == (i + 1) * FS_BLOCK_SIZE && piece.crc[0] == i);
	}
	overlay_clear(&ov);
	assert_int_equal(ov.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_overlay_random_against_model),
		cmocka_unit_test(test_overlay_splits_keep_crcs_gen_and_log_state),
		cmocka_unit_test(test_overlay_unlogged_in_order_of_arrival),
		cmocka_unit_test(test_overlay_empty_and_far_ends),
		cmocka_unit_test(test_overlay_out_of_memory_changes_nothing),
		cmocka_unit_test(test_overlay_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
