/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/budget.h"

#include "base/util.h"
#include "fs/core/lock_rank.h"

void budget_init(struct budget *b, uint64_t bytes, uint64_t connections)
{
	*b = (struct budget){.size = (int64_t)bytes, .connections = (int64_t)connections};
	atomic_init(&b->room, b->connections);
	atomic_init(&b->free, (int64_t)bytes);
	lock_init(&b->lock, LOCK_BUDGET);
	TAILQ_INIT(&b->queue);
}

void budget_fini(struct budget *b)
{
	ASSERT(atomic_load(&b->free) == b->size && atomic_load(&b->room) == b->connections && !b->holder &&
	       TAILQ_EMPTY(&b->queue));
	lock_fini(&b->lock);
}

void budget_add_member(struct budget *b, struct budget_member *m)
{
	m->budget = b;
	m->next = b->members;
	b->members = m;
}

void budget_account_init(struct budget_account *acct, struct budget *b, struct budget_member *m)
{
	*acct = (struct budget_account){.budget = b, .member = m};
}

void budget_account_fini(struct budget_account *acct)
{
	if (!acct->budget)
		return;
	budget_leave(acct);
	ASSERT(!acct->held);
	acct->budget = NULL;
}

bool budget_take(struct budget_account *acct, uint64_t n)
{
	_Atomic int64_t *free = &acct->budget->free;
	int64_t left, have = atomic_load(free);

	do {
		left = have - (int64_t)n;
		if (left < (int64_t)(acct->held + n))
			return false;
	} while (!atomic_compare_exchange_weak(free, &have, left));
	acct->held += n;
	return true;
}

void budget_force(struct budget_account *acct, uint64_t n)
{
	atomic_fetch_sub(&acct->budget->free, (int64_t)n);
	acct->held += n;
}

void budget_member_wake(struct budget_member *m)
{
	if (!atomic_load(&m->waiting) || !atomic_exchange(&m->waiting, false))
		return;
	atomic_fetch_sub(&m->budget->waiting, 1);
	m->wake(m);
}

void budget_give(struct budget_account *acct, uint64_t n)
{
	struct budget *b = acct->budget;

	if (!n)
		return;
	ASSERT(acct->held >= n);
	acct->held -= n;
	atomic_fetch_add(&b->free, (int64_t)n);
	for (struct budget_member *m = b->members; m && atomic_load(&b->waiting); m = m->next)
		budget_member_wake(m);
}

uint64_t budget_room(const struct budget_account *acct)
{
	int64_t have = atomic_load_explicit(&acct->budget->free, memory_order_relaxed) - (int64_t)acct->held;

	return have > 0 ? (uint64_t)have / 2 : 0;
}

bool budget_admits(const struct budget *b, uint64_t n)
{
	return atomic_load_explicit(&b->room, memory_order_relaxed) >= (int64_t)n;
}

void budget_enter(struct budget *b, uint64_t n)
{
	atomic_fetch_sub(&b->room, (int64_t)n);
}

void budget_exit(struct budget *b, uint64_t n)
{
	atomic_fetch_add(&b->room, (int64_t)n);
}

void budget_member_wait(struct budget_member *m)
{
	if (!atomic_exchange(&m->waiting, true))
		atomic_fetch_add(&m->budget->waiting, 1);
}

/* ---- the reserve ------------------------------------------------------------ */

/* Passes the reserve to whoever has waited longest. Returns whom to wake; NULL: nobody. */
static struct budget_member *pass_on_locked(struct budget *b)
{
	struct budget_account *next = TAILQ_FIRST(&b->queue);

	if (b->holder || !next)
		return NULL;
	TAILQ_REMOVE(&b->queue, next, entry);
	atomic_fetch_sub(&b->queued, 1);
	b->holder = next;
	atomic_store(&next->reserve, BUDGET_GRANTED);
	return next->member;
}

static void join(struct budget_account *acct)
{
	struct budget *b = acct->budget;
	bool first;

	lock_take(&b->lock);
	TAILQ_INSERT_TAIL(&b->queue, acct, entry);
	atomic_store(&acct->reserve, BUDGET_QUEUED);
	atomic_fetch_add(&b->queued, 1);
	pass_on_locked(b); /* if it is free, nobody else waits: it goes to this account */
	first = TAILQ_FIRST(&b->queue) == acct;
	lock_drop(&b->lock);
	for (struct budget_member *m = b->members; m && first; m = m->next)
		m->wake(m);
}

bool budget_queue(struct budget_account *acct)
{
	if (atomic_load(&acct->reserve) == BUDGET_NONE)
		join(acct);
	return atomic_load(&acct->reserve) == BUDGET_GRANTED;
}

void budget_leave(struct budget_account *acct)
{
	struct budget *b = acct->budget;
	struct budget_member *wake;

	if (atomic_load(&acct->reserve) == BUDGET_NONE)
		return;
	lock_take(&b->lock);
	if (b->holder == acct) {
		b->holder = NULL;
	} else {
		TAILQ_REMOVE(&b->queue, acct, entry);
		atomic_fetch_sub(&b->queued, 1);
	}
	atomic_store(&acct->reserve, BUDGET_NONE);
	wake = pass_on_locked(b);
	lock_drop(&b->lock);
	if (wake)
		wake->wake(wake);
}
