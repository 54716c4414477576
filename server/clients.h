/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/clients.h: who is connected to what, and what each volume's clients have done so far: the daemon's
 * one list of NBD connections, over all its loops.
 *
 * 1. A client is on the list from client_join to client_leave; its memory is its connection's.
 * 2. Only its own loop adds to its figures. What it did counts for its volume too: while it is connected by
 *    reading its figures, and from client_leave on in the volume's sum.
 * 3. A volume has an entry from its first opening until it is deleted: the list grows with volumes, not with
 *    connections.
 *
 * Joining, leaving and opening cost O(log volumes); the walks O(clients), and O(volumes + clients), under the
 * list's lock. No request takes it.
 */
#ifndef SERVER_CLIENTS_H
#define SERVER_CLIENTS_H

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "fs/fs.h"
#include "server/figures.h"

#define CLIENT_PEER_MAX 128

struct client_volume;

struct client {
	uint64_t id; /* never used again */
	char peer[CLIENT_PEER_MAX];
	int64_t since_ns; /* since 1970, UTC */
	bool read_only;
	struct figures_live figures;
	/* Ends the connection, soon. Called from any thread, with the list's lock held. */
	void (*drop)(struct client *client);

	struct client_volume *volume; /* NULL: none yet */
	TAILQ_ENTRY(client) link;
};

struct client_volume {
	uint64_t id;
	char name[FS_NAME_MAX + 1];
	unsigned clients;   /* open now */
	uint64_t opened;    /* since start */
	struct figures sum; /* of clients that are gone */
	RB_ENTRY(client_volume) link;
};

RB_HEAD(client_volume_tree, client_volume);

struct client_list {
	struct lock lock;
	TAILQ_HEAD(, client) clients; /* the oldest first */
	uint64_t last_id;
	struct client_volume_tree volumes; /* by id */
	struct figures gone;		   /* what clients that are gone have done, on whatever volume */
};

void client_list_init(struct client_list *list);
void client_list_fini(struct client_list *list); /* no client may be left */

/* The caller has filled in peer and drop. */
void client_join(struct client_list *list, struct client *client);
/* The client has opened a volume. Out of memory: its figures count for itself only. */
void client_open(struct client_list *list, struct client *client, const struct fs_volume_info *vol,
		 bool read_only);
void client_leave(struct client_list *list, struct client *client);

/* -ENOENT: there is no such client, or no longer. */
int client_drop(struct client_list *list, uint64_t id);

/* A volume has got another name, or is gone. */
void client_volume_renamed(struct client_list *list, uint64_t id, const char *name);
void client_volume_deleted(struct client_list *list, uint64_t id);

struct client_info {
	uint64_t id;
	char peer[CLIENT_PEER_MAX];
	char volume[FS_NAME_MAX + 1]; /* empty: none yet */
	int64_t since_ns;
	bool read_only;
	struct figures figures;
};

/*
 * Copies up to `max` clients whose ids are larger than `after`, in order. Returns how many; *ret_more: there
 * are more.
 */
unsigned client_page(struct client_list *list, uint64_t after, struct client_info *infos, unsigned max,
		     bool *ret_more);

struct client_volume_info {
	uint64_t id;
	char name[FS_NAME_MAX + 1];
	unsigned clients;
	uint64_t opened;
	struct figures figures;
};

/* The same for volumes that have been opened since the daemon's start, by their ids. */
unsigned client_volume_page(struct client_list *list, uint64_t after, struct client_volume_info *infos,
			    unsigned max, bool *ret_more);

/* What all clients have done, including those that are gone; how many there are, and were. */
void client_total(struct client_list *list, struct figures *ret_sum, uint64_t *ret_open, uint64_t *ret_total);

/*
 * A description of the other end of a socket: "tcp:10.0.0.7:4711", or "uid 1000, pid 4242" of a unix
 * socket's.
 */
void client_peer(int fd, char peer[CLIENT_PEER_MAX]);

#endif
