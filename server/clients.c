/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/clients.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"

static int by_id(const struct client_volume *a, const struct client_volume *b)
{
	return a->id < b->id ? -1 : a->id > b->id;
}

/* Not RB_GENERATE_STATIC: it needs __unused, which libbsd does not define here. */
RB_GENERATE_INTERNAL(client_volume_tree, client_volume, link, by_id, __attribute__((unused)) static)

void client_list_init(struct client_list *list)
{
	lock_init(&list->lock, LOCK_CLIENTS);
	TAILQ_INIT(&list->clients);
	RB_INIT(&list->volumes);
	list->last_id = 0;
	list->gone = (struct figures){0};
}

static void volume_free(struct client_list *list, struct client_volume *vol)
{
	RB_REMOVE(client_volume_tree, &list->volumes, vol);
	mem_free(vol);
}

void client_list_fini(struct client_list *list)
{
	struct client_volume *vol;

	ASSERT(TAILQ_EMPTY(&list->clients));
	while ((vol = RB_ROOT(&list->volumes)))
		volume_free(list, vol);
	lock_fini(&list->lock);
}

/* ---- clients come and go -------------------------------------------------- */

void client_join(struct client_list *list, struct client *client)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	client->since_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	lock_take(&list->lock);
	client->id = ++list->last_id;
	TAILQ_INSERT_TAIL(&list->clients, client, link);
	lock_drop(&list->lock);
}

static struct client_volume *volume_get_locked(struct client_list *list, const struct fs_volume_info *info)
{
	struct client_volume key = {.id = info->id}, *vol = RB_FIND(client_volume_tree, &list->volumes, &key);

	if (!vol) {
		vol = mem_zalloc(sizeof(*vol));
		if (!vol)
			return NULL;
		vol->id = info->id;
		RB_INSERT(client_volume_tree, &list->volumes, vol);
	}
	strcpy(vol->name, info->name);
	return vol;
}

void client_open(struct client_list *list, struct client *client, const struct fs_volume_info *info,
		 bool read_only)
{
	lock_take(&list->lock);
	client->read_only = read_only;
	client->volume = volume_get_locked(list, info);
	if (client->volume) {
		client->volume->clients++;
		client->volume->opened++;
	}
	lock_drop(&list->lock);
}

void client_leave(struct client_list *list, struct client *client)
{
	struct client_volume *vol;

	lock_take(&list->lock);
	TAILQ_REMOVE(&list->clients, client, link);
	figures_sum(&list->gone, &client->figures);
	vol = client->volume;
	if (vol) {
		figures_sum(&vol->sum, &client->figures);
		vol->clients--;
	}
	lock_drop(&list->lock);
}

int client_drop(struct client_list *list, uint64_t id)
{
	struct client *client;

	lock_take(&list->lock);
	TAILQ_FOREACH (client, &list->clients, link) {
		if (client->id == id) {
			client->drop(client);
			break;
		}
	}
	lock_drop(&list->lock);
	return client ? 0 : -ENOENT;
}

/* ---- volumes -------------------------------------------------------------- */

void client_volume_renamed(struct client_list *list, uint64_t id, const char *name)
{
	struct client_volume key = {.id = id}, *vol;

	lock_take(&list->lock);
	vol = RB_FIND(client_volume_tree, &list->volumes, &key);
	if (vol)
		snprintf(vol->name, sizeof(vol->name), "%s", name);
	lock_drop(&list->lock);
}

void client_volume_deleted(struct client_list *list, uint64_t id)
{
	struct client_volume key = {.id = id}, *vol;

	lock_take(&list->lock);
	vol = RB_FIND(client_volume_tree, &list->volumes, &key);
	if (vol && !vol->clients)
		volume_free(list, vol);
	lock_drop(&list->lock);
}

/* ---- looking -------------------------------------------------------------- */

static void copy_client(const struct client *c, struct client_info *ret_info)
{
	*ret_info = (struct client_info){.id = c->id, .since_ns = c->since_ns, .read_only = c->read_only};
	strcpy(ret_info->peer, c->peer);
	if (c->volume)
		strcpy(ret_info->volume, c->volume->name);
	figures_sum(&ret_info->figures, &c->figures);
}

unsigned client_page(struct client_list *list, uint64_t after, struct client_info *infos, unsigned max,
		     bool *ret_more)
{
	struct client *c;
	unsigned n = 0;

	*ret_more = false;
	lock_take(&list->lock);
	TAILQ_FOREACH (c, &list->clients, link) {
		if (c->id <= after)
			continue;
		if (n == max) {
			*ret_more = true;
			break;
		}
		copy_client(c, &infos[n++]);
	}
	lock_drop(&list->lock);
	return n;
}

static void add_clients_locked(struct client_list *list, struct client_volume_info *infos, unsigned n)
{
	struct client *c;

	TAILQ_FOREACH (c, &list->clients, link) {
		unsigned lo = 0, hi = n;

		if (!c->volume)
			continue;
		while (lo < hi) {
			unsigned mid = (lo + hi) / 2;

			if (infos[mid].id < c->volume->id)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (lo < n && infos[lo].id == c->volume->id)
			figures_sum(&infos[lo].figures, &c->figures);
	}
}

unsigned client_volume_page(struct client_list *list, uint64_t after, struct client_volume_info *infos,
			    unsigned max, bool *ret_more)
{
	struct client_volume key = {.id = after + 1}, *vol;
	unsigned n = 0;

	*ret_more = false;
	if (after == UINT64_MAX)
		return 0;
	lock_take(&list->lock);
	for (vol = RB_NFIND(client_volume_tree, &list->volumes, &key); vol && n < max;
	     vol = RB_NEXT(client_volume_tree, &list->volumes, vol), n++) {
		infos[n] = (struct client_volume_info){
			.id = vol->id, .clients = vol->clients, .opened = vol->opened, .figures = vol->sum};
		strcpy(infos[n].name, vol->name);
	}
	add_clients_locked(list, infos, n);
	*ret_more = vol != NULL;
	lock_drop(&list->lock);
	return n;
}

void client_total(struct client_list *list, struct figures *ret_sum, uint64_t *ret_open, uint64_t *ret_total)
{
	struct client *c;

	lock_take(&list->lock);
	*ret_sum = list->gone;
	*ret_total = list->last_id;
	*ret_open = 0;
	TAILQ_FOREACH (c, &list->clients, link) {
		figures_sum(ret_sum, &c->figures);
		(*ret_open)++;
	}
	lock_drop(&list->lock);
}

void client_peer(int fd, char peer[CLIENT_PEER_MAX])
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss), cred_len;
	char host[64], port[8];
	struct ucred cred;

	strcpy(peer, "unknown");
	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0)
		return;
	cred_len = sizeof(cred);
	if (ss.ss_family == AF_UNIX) {
		if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len))
			snprintf(peer, CLIENT_PEER_MAX, "uid %u, pid %d", cred.uid, cred.pid);
	} else if (!getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
				NI_NUMERICHOST | NI_NUMERICSERV)) {
		snprintf(peer, CLIENT_PEER_MAX, strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
	}
}
