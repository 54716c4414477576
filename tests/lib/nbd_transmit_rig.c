/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/nbd_transmit_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/le.h"

static void shake(struct rig *rig, const char *name, uint32_t option)
{
	static struct bytes b;

	b.len = 0;
	add_u32(&b, 3);
	if (option) {
		add_option(&b, option, NULL, 0);
		add_meta(&b, NBD_OPT_SET_META_CONTEXT, name, "base:allocation");
	}
	add_go(&b, NBD_OPT_GO, name);
	assert_int_equal(rig_feed(rig, b.data, b.len, SIZE_MAX), b.len);
	assert_int_equal(rig->s->state, NBD_TRANSMIT);
	rig->out_pos = rig->out_len;
}

void handshake(struct rig *rig, const char *name, bool structured)
{
	shake(rig, name, structured ? NBD_OPT_STRUCTURED_REPLY : 0);
}

void handshake_extended(struct rig *rig, const char *name)
{
	shake(rig, name, NBD_OPT_EXTENDED_HEADERS);
}

int setup(void **state)
{
	struct rig *rig = malloc(sizeof(*rig));

	rig_init(rig);
	*state = rig;
	return 0;
}

int setup_simple(void **state)
{
	setup(state);
	handshake(*state, "vm1", false);
	return 0;
}

int setup_structured(void **state)
{
	setup(state);
	handshake(*state, "vm1", true);
	return 0;
}

int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

const void *take(struct rig *rig, size_t len)
{
	const void *data = rig->out + rig->out_pos;

	assert_true(rig->out_len - rig->out_pos >= len);
	rig->out_pos += len;
	return data;
}

void feed(struct rig *rig, struct bytes *b)
{
	assert_int_equal(rig_feed(rig, b->data, b->len, SIZE_MAX), b->len);
	b->len = 0;
}

const uint8_t *expect_simple(struct rig *rig, uint64_t cookie, uint32_t error, size_t len)
{
	const struct nbd_simple_reply *rep = take(rig, sizeof(*rep));

	assert_int_equal(be32_to_cpu(rep->magic), NBD_SIMPLE_REPLY_MAGIC);
	assert_int_equal(be64_to_cpu(rep->cookie), cookie);
	assert_int_equal(be32_to_cpu(rep->error), error);
	return take(rig, error ? 0 : len);
}

const uint8_t *expect_chunk(struct rig *rig, uint64_t cookie, uint16_t type, uint32_t *ret_len)
{
	const struct nbd_chunk *c = take(rig, sizeof(*c));

	assert_int_equal(be32_to_cpu(c->magic), NBD_STRUCTURED_REPLY_MAGIC);
	assert_int_equal(be16_to_cpu(c->flags), NBD_CHUNK_DONE);
	assert_int_equal(be16_to_cpu(c->type), type);
	assert_int_equal(be64_to_cpu(c->cookie), cookie);
	*ret_len = be32_to_cpu(c->len);
	return take(rig, *ret_len);
}

const uint8_t *expect_extended(struct rig *rig, uint64_t cookie, uint16_t type, uint64_t off,
			       uint64_t *ret_len)
{
	const struct nbd_extended_chunk *c = take(rig, sizeof(*c));

	assert_int_equal(be32_to_cpu(c->magic), NBD_EXTENDED_REPLY_MAGIC);
	assert_int_equal(be16_to_cpu(c->flags), NBD_CHUNK_DONE);
	assert_int_equal(be16_to_cpu(c->type), type);
	assert_int_equal(be64_to_cpu(c->cookie), cookie);
	assert_int_equal(be64_to_cpu(c->off), off);
	*ret_len = be64_to_cpu(c->len);
	return take(rig, *ret_len);
}

const char *expect_extended_error(struct rig *rig, uint64_t cookie, uint32_t error, uint64_t off)
{
	static char text[NBD_ERROR_TEXT_MAX];
	const struct nbd_chunk_error *rep;
	uint64_t len;

	rep = (const void *)expect_extended(rig, cookie, NBD_CHUNK_ERROR, off, &len);
	assert_true(len >= sizeof(*rep));
	assert_int_equal(be32_to_cpu(rep->error), error);
	assert_int_equal(be16_to_cpu(rep->msg_len), len - sizeof(*rep));
	assert_in_range(len - sizeof(*rep), 1, sizeof(text) - 1);
	snprintf(text, sizeof(text), "%.*s", (int)(len - sizeof(*rep)), (const char *)(rep + 1));
	return text;
}

void expect_end(struct rig *rig)
{
	assert_int_equal(rig->out_len, rig->out_pos);
}

void request(struct rig *rig, uint16_t type, uint16_t flags, uint64_t off, uint32_t len, uint32_t error)
{
	static struct bytes b;

	b.len = 0;
	add_request(&b, type, flags, 0x1122334455667788, off, len);
	feed(rig, &b);
	rig_settle(rig);
	expect_simple(rig, 0x1122334455667788, error, type == NBD_CMD_READ ? len : 0);
	expect_end(rig);
}
