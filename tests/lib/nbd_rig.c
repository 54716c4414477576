/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/nbd_rig.h"

#include <endian.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/util.h"
#include "server/nbd_handshake.h"

static void rig_on_dirty(struct nbd_session *s)
{
	(void)s;
}

static void rig_on_post(struct nbd_env *env, struct task *task)
{
	struct rig *rig = container_of(env, struct rig, env);

	task->next = rig->tasks;
	rig->tasks = task;
}

/* As a loop would: what waits is tried again, at the next pump. */
static void rig_wake(struct budget_member *m)
{
	nbd_env_wake(container_of(m, struct nbd_env, member), UINT_MAX);
}

void rig_connect(struct rig *rig)
{
	rig->s = nbd_session_new(&rig->env, rig);
	ASSERT(rig->s);
}

void rig_init_with(struct rig *rig, uint64_t memory)
{
	memset(rig, 0, sizeof(*rig));
	fake_fs_add(&rig->fs, "vm1", 256 << 10, 0);
	fake_fs_add(&rig->fs, "frozen", 64 << 10, FS_VOLUME_READ_ONLY);
	fs_ctx_new(&rig->fs, &rig->ctx);
	rig->env = (struct nbd_env){.fs = &rig->fs,
				    .ctx = rig->ctx,
				    .dirty = rig_on_dirty,
				    .post = rig_on_post,
				    .budget = &rig->budget,
				    .member = {.wake = rig_wake},
				    .requests_max = 1000,
				    .rx_max = 4,
				    .spare_max = 1 << 20};
	budget_init(&rig->budget, memory, 1 << 20);
	nbd_env_init(&rig->env);
	budget_add_member(&rig->budget, &rig->env.member);
	rig->send_max = SIZE_MAX;
	rig_connect(rig);
}

void rig_init(struct rig *rig)
{
	rig_init_with(rig, 1 << 30);
}

void rig_pump(struct rig *rig)
{
	struct iovec iov[NBD_TX_IOV];
	int n;

	do {
		while (rig->send_max && (n = nbd_session_tx(rig->s, iov, NBD_TX_IOV))) {
			size_t total = 0;

			for (int i = 0; i < n && total < rig->send_max; i++) {
				size_t len = min_u64(iov[i].iov_len, rig->send_max - total);

				if (rig->out_size - rig->out_len < len) {
					rig->out_size = rig->out_len * 2 + len + 4096;
					rig->out = realloc(rig->out, rig->out_size);
					ASSERT(rig->out);
				}
				memcpy(rig->out + rig->out_len, iov[i].iov_base, len);
				rig->out_len += len;
				total += len;
			}
			nbd_session_sent(rig->s, total);
		}
	} while (nbd_session_resume(rig->s));
}

void rig_settle(struct rig *rig)
{
	while (rig->ctx->pending || rig->fs.works || rig->tasks) {
		struct task *task = rig->tasks, *next;

		rig->tasks = NULL;
		for (; task; task = next) {
			next = task->next;
			task->fn(task);
		}
		fake_fs_run_works(&rig->fs);
		fs_ctx_run(rig->ctx);
		rig_pump(rig);
	}
	rig_pump(rig);
}

size_t rig_feed(struct rig *rig, const void *data, size_t len, size_t piece)
{
	size_t done = 0;

	while (done < len) {
		struct iovec iov[2];
		size_t put = 0, want = min_u64(piece, len - done);
		int n;

		rig_pump(rig);
		n = nbd_session_rx(rig->s, iov);
		for (int i = 0; i < n && put < want; i++) {
			size_t k = min_u64(iov[i].iov_len, want - put);

			memcpy(iov[i].iov_base, (const uint8_t *)data + done + put, k);
			put += k;
		}
		if (!put)
			break;
		nbd_session_received(rig->s, put);
		done += put;
	}
	rig_pump(rig);
	return done;
}

void rig_disconnect(struct rig *rig)
{
	nbd_session_break(rig->s, "test");
	rig_settle(rig);
	ASSERT(nbd_session_is_over(rig->s));
	nbd_session_free(rig->s);
	rig->s = NULL;
	ASSERT(!rig->env.bytes && !rig->fs.under_way);
}

void rig_fini(struct rig *rig)
{
	if (rig->s)
		rig_disconnect(rig);
	nbd_env_fini(&rig->env);
	budget_fini(&rig->budget);
	fs_ctx_free(rig->ctx);
	fake_fs_fini(&rig->fs);
	free(rig->out);
}

void add(struct bytes *b, const void *data, size_t len)
{
	ASSERT(b->len + len <= sizeof(b->data));
	if (len)
		memcpy(b->data + b->len, data, len);
	b->len += len;
}

void add_u16(struct bytes *b, uint16_t v)
{
	add(b, &(be16){htobe16(v)}, 2);
}

void add_u32(struct bytes *b, uint32_t v)
{
	add(b, &(be32){htobe32(v)}, 4);
}

void add_string(struct bytes *b, const char *s)
{
	add_u32(b, strlen(s));
	add(b, s, strlen(s));
}

void add_option(struct bytes *b, uint32_t option, const void *data, uint32_t len)
{
	struct nbd_option opt = {cpu_to_be64(NBD_OPTION_MAGIC), cpu_to_be32(option), cpu_to_be32(len)};

	add(b, &opt, sizeof(opt));
	if (data)
		add(b, data, len);
}

void add_go(struct bytes *b, uint32_t option, const char *name)
{
	uint32_t len = strlen(name);

	add_option(b, option, NULL, 4 + len + 2 + 2);
	add_string(b, name);
	add_u16(b, 1);
	add_u16(b, NBD_INFO_BLOCK_SIZE);
}

void add_meta(struct bytes *b, uint32_t option, const char *name, const char *query)
{
	add_option(b, option, NULL, 4 + strlen(name) + 4 + (query ? 4 + strlen(query) : 0));
	add_string(b, name);
	add_u32(b, query ? 1 : 0);
	if (query)
		add_string(b, query);
}

void add_request(struct bytes *b, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t off, uint32_t len)
{
	struct nbd_request_header h = {
		.magic = cpu_to_be32(NBD_REQUEST_MAGIC),
		.flags = cpu_to_be16(flags),
		.type = cpu_to_be16(type),
		.cookie = cpu_to_be64(cookie),
		.off = cpu_to_be64(off),
		.len = cpu_to_be32(len),
	};

	add(b, &h, sizeof(h));
}

void add_extended(struct bytes *b, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t off, uint64_t len)
{
	struct nbd_extended_request_header h = {
		.magic = cpu_to_be32(NBD_EXTENDED_REQUEST_MAGIC),
		.flags = cpu_to_be16(flags),
		.type = cpu_to_be16(type),
		.cookie = cpu_to_be64(cookie),
		.off = cpu_to_be64(off),
		.len = cpu_to_be64(len),
	};

	add(b, &h, sizeof(h));
}

void add_u64(struct bytes *b, uint64_t v)
{
	add(b, &(be64){htobe64(v)}, 8);
}

void add_fill(struct bytes *b, uint8_t value, size_t len)
{
	ASSERT(b->len + len <= sizeof(b->data));
	memset(b->data + b->len, value, len);
	b->len += len;
}
