/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/budget.h: the memory that clients can make the daemon hold: one budget (--memory) for NBD, RPC and
 * HTTP.
 *
 * Each connection has an account. It takes from the budget together with the memory itself, not when a
 * request announces that it will want some, and gives back as soon as the memory is free.
 *
 * 1. `free` and what all accounts hold add up to the budget without its reserve. A forced charge, for memory
 *    that is already taken and known to be small, may make `free` negative; then nobody is granted anything.
 * 2. Fair: an account is granted memory only if at least as much stays free as it then holds. So n accounts
 *    that want all they can get hold an (n+1)th part each, and as much is left for the next one, which gets
 *    half of that at once.
 * 3. Progress: the reserve is as large as what the largest request needs. It belongs to one account at a
 *    time, for one request, first come, first served; that request gets everything it still needs. So
 *    whatever the others hold, one request can always complete, and each that waits gets its turn.
 * 4. A member (an event loop) that has waiters is woken by the next give. It must try again after
 *    budget_member_wait, because a give may just have happened. All are woken when memory becomes short
 *    (budget_is_short), to give up what they only keep in store.
 *
 * Cost: one atomic operation for each take and give; a lock for the queue of the reserve; while somebody
 * waits, a give looks at each member. Threads: an account is used by its member's thread only; everything
 * else by any thread.
 */
#ifndef SERVER_BUDGET_H
#define SERVER_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/lock.h"

struct budget_member {
	struct budget *budget;
	struct budget_member *next;
	_Atomic bool waiting;
	void (*wake)(struct budget_member *m); /* from any thread */
};

enum budget_reserve { BUDGET_NONE, BUDGET_QUEUED, BUDGET_GRANTED };

struct budget_account {
	struct budget *budget;
	struct budget_member *member;
	uint64_t held;
	_Atomic int reserve; /* enum budget_reserve; QUEUED becomes GRANTED on any thread */
	TAILQ_ENTRY(budget_account) entry;
};

struct budget {
	int64_t size, connections; /* without the reserve */
	_Atomic int64_t free;
	_Atomic int64_t room;	       /* for connections */
	struct budget_member *members; /* fixed before threads start */
	_Atomic unsigned waiting;      /* members that are */
	_Atomic unsigned queued;
	struct lock lock; /* protects what follows */
	TAILQ_HEAD(, budget_account) queue;
	struct budget_account *holder;
};

void budget_init(struct budget *b, uint64_t bytes, uint64_t connections);
void budget_fini(struct budget *b); /* everything must be back */
/* Before the threads of the members run. */
void budget_add_member(struct budget *b, struct budget_member *m);

void budget_account_init(struct budget_account *acct, struct budget *b, struct budget_member *m);
/* It must hold nothing. */
void budget_account_fini(struct budget_account *acct);

/* See invariant 2. */
bool budget_take(struct budget_account *acct, uint64_t n);
void budget_force(struct budget_account *acct, uint64_t n);
void budget_give(struct budget_account *acct, uint64_t n);
/* How much budget_take would grant now. */
uint64_t budget_room(const struct budget_account *acct);
/*
 * What connections take for themselves comes from a part of its own, so that clients that hold all the rest
 * do not keep others from connecting. budget_admits only looks; enter and exit count.
 */
bool budget_admits(const struct budget *b, uint64_t n);
void budget_enter(struct budget *b, uint64_t n);
void budget_exit(struct budget *b, uint64_t n);

/* The member has waiters. Try again afterwards. */
void budget_member_wait(struct budget_member *m);
/* Wakes it if it waits, also for something other than memory. */
void budget_member_wake(struct budget_member *m);
/* Asks for the reserve; true when the account has it. */
bool budget_queue(struct budget_account *acct);
/* No longer wants it: gives up its place, or the reserve itself. May be called at any time. */
void budget_leave(struct budget_account *acct);
/* Somebody waits for the reserve: memory is short. */
static inline bool budget_is_short(const struct budget *b)
{
	return atomic_load_explicit(&b->queued, memory_order_relaxed) > 0;
}

#endif
