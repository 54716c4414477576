/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/extent_state_int.h: what extent_state_tree.c (the states), extent_lock.c (range locks) and
 * extent_state.c (plain bits) share. Each uses only those before it. Everything here is called under the
 * tree's mutex, but for extent_lock_run_granted.
 *
 * Invariants
 * 1. A plain change reserves its nodes first (extent_state_reserve), and fails then or not at all; a change
 *    within a lock takes them from the lock.
 * 2. A state that is out of the tree, and lives only because a `cached` points to it, is empty: start and end
 *    are 0.
 */
#ifndef FS_VOLUME_EXTENT_STATE_INT_H
#define FS_VOLUME_EXTENT_STATE_INT_H

#include <stdint.h>

struct extent_lock;
struct extent_lock_list;
struct extent_prealloc;
struct extent_state;
struct extent_state_tree;

/* ---- extent_state_tree.c: nodes -------------------------------------------- */

/* Whether `need` nodes are at hand. -ENOMEM, and p->need says how many. p may be NULL. */
int extent_state_reserve(const struct extent_state_tree *tree, struct extent_prealloc *p, unsigned need);
/* One of them. */
struct extent_state *extent_state_take_plain(struct extent_state_tree *tree, struct extent_prealloc *p);
/* One of the lock's own. */
struct extent_state *extent_state_take_owned(struct extent_lock *lk);
/* Drops a reference on a plain one. */
void extent_state_put(struct extent_state_tree *tree, struct extent_state *s);

/* ---- extent_state_tree.c: states ------------------------------------------- */

/* The first state that ends after pos. NULL: none. */
struct extent_state *extent_state_find(struct extent_state_tree *tree, uint64_t pos);
struct extent_state *extent_state_next(struct extent_state *s);

/* Into the tree, without bits yet; and out of it, when its last bits are cleared. */
void extent_state_link(struct extent_state_tree *tree, struct extent_state *s, uint64_t start, uint64_t end,
		       struct extent_lock *owner);
void extent_state_unlink(struct extent_state_tree *tree, struct extent_state *s);

/* Changes the bits of all of s; the hooks see those that really change. */
void extent_state_set(struct extent_state_tree *tree, struct extent_state *s, uint32_t bits);
void extent_state_clear(struct extent_state_tree *tree, struct extent_state *s, uint32_t bits);

/* Cuts s in two at `at`; s stays the left part. Returns the right one. p: for a plain one's node. */
struct extent_state *extent_state_split(struct extent_state_tree *tree, struct extent_state *s, uint64_t at,
					struct extent_prealloc *p);
/* Joins s with equal neighbours; the leftmost node stays. Returns the state that now holds s. */
struct extent_state *extent_state_merge(struct extent_state_tree *tree, struct extent_state *s);

/* Clears bits from the part of s in [start, end). Returns the next state to look at. */
struct extent_state *extent_state_clear_part(struct extent_state_tree *tree, struct extent_state *s,
					     uint64_t start, uint64_t end, uint32_t bits,
					     struct extent_prealloc *p);

/* ---- extent_lock.c --------------------------------------------------------- */

/*
 * After plain states are gone: takes the locks that nothing blocks any more; `granted` gets those to notify.
 */
void extent_lock_retry_locked(struct extent_state_tree *tree, struct extent_lock_list *granted);
/* Notifies them. Without the mutex. */
void extent_lock_run_granted(struct extent_lock_list *granted);

#endif
