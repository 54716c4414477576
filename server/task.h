/* SPDX-License-Identifier: BSD-3-Clause */
/* server/task.h: a call that one thread hands to another thread's event loop (see loop_post). */
#ifndef SERVER_TASK_H
#define SERVER_TASK_H

struct task {
	void (*fn)(struct task *task);
	struct task *next; /* the queue's */
};

#endif
