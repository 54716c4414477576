/* SPDX-License-Identifier: BSD-3-Clause */
/* What clients may ask for in the handshake beyond a volume: against the fake engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/le.h"
#include "server/nbd_handshake.h"
#include "tests/lib/nbd_transmit_rig.h"

static bool has_text(const uint8_t *data, uint32_t len, const char *text)
{
	return memmem(data, len, text, strlen(text));
}

static void begin(struct rig *rig)
{
	static struct bytes b;

	rig_pump(rig);
	take(rig, sizeof(struct nbd_greeting));
	b.len = 0;
	add_u32(&b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	feed(rig, &b);
}

/* The next reply must be of that type; returns its payload. */
static const uint8_t *expect_reply(struct rig *rig, uint32_t option, uint32_t type, uint32_t *ret_len)
{
	const struct nbd_option_reply *rep = take(rig, sizeof(*rep));
	uint32_t len = be32_to_cpu(rep->len);

	assert_true(be64_to_cpu(rep->magic) == NBD_REPLY_MAGIC);
	assert_int_equal(be32_to_cpu(rep->option), option);
	assert_int_equal(be32_to_cpu(rep->type), type);
	if (ret_len)
		*ret_len = len;
	return take(rig, len);
}

/* What is always told of an export. Returns its flags. */
static uint16_t expect_export(struct rig *rig, uint32_t option, uint64_t size)
{
	const struct nbd_info_export *info = (const void *)expect_reply(rig, option, NBD_REP_INFO, NULL);

	assert_int_equal(be16_to_cpu(info->type), NBD_INFO_EXPORT);
	assert_int_equal(be64_to_cpu(info->size), size);
	expect_reply(rig, option, NBD_REP_INFO, NULL);
	return be16_to_cpu(info->flags);
}

static void test_meta_context_before_chunks_says_so(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;
	const uint8_t *text;
	uint32_t len;

	b.len = 0;
	begin(rig);
	add_meta(&b, NBD_OPT_LIST_META_CONTEXT, "vm1", NULL);
	feed(rig, &b);
	text = expect_reply(rig, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID, &len);
	assert_true(has_text(text, len, "structured replies or extended headers"));
}

static void add_queries(struct bytes *b, uint32_t count, uint32_t sent)
{
	add_option(b, NBD_OPT_SET_META_CONTEXT, NULL, 4 + 3 + 4 + sent * (4 + 4));
	add_string(b, "vm1");
	add_u32(b, count);
	for (uint32_t i = 0; i < sent; i++)
		add_string(b, "x:yz");
}

static void test_too_many_queries_are_too_big(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	begin(rig);
	add_option(&b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_queries(&b, NBD_QUERIES_MAX, NBD_QUERIES_MAX);
	add_queries(&b, NBD_QUERIES_MAX + 1, NBD_QUERIES_MAX + 1);
	add_queries(&b, UINT32_MAX, 2); /* the length belies it */
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
	expect_reply(rig, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL);
	expect_reply(rig, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_TOO_BIG, NULL);
	expect_reply(rig, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID, NULL);
	expect_end(rig);
}

static void add_info(struct bytes *b, const char *name, uint16_t n, const uint16_t *infos)
{
	add_option(b, NBD_OPT_INFO, NULL, 4 + strlen(name) + 2 + 2 * n);
	add_string(b, name);
	add_u16(b, n);
	for (uint16_t i = 0; i < n; i++)
		add_u16(b, infos[i]);
}

static void expect_info_text(struct rig *rig, uint16_t type, const char *text)
{
	uint32_t len;
	const uint8_t *data = expect_reply(rig, NBD_OPT_INFO, NBD_REP_INFO, &len);

	assert_int_equal(be16_to_cpu(*(const be16 *)data), type);
	assert_int_equal(len, 2 + strlen(text));
	assert_memory_equal(data + 2, text, strlen(text));
}

static void test_name_and_description_are_told_to_who_asks(void **state)
{
	static const uint16_t both[] = {NBD_INFO_DESCRIPTION, NBD_INFO_NAME, 99, NBD_INFO_NAME};
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	strcpy(rig->fs.volumes[0].comment, "Ann's disk");
	begin(rig);
	add_info(&b, "vm1", 0, NULL);
	feed(rig, &b);
	expect_export(rig, NBD_OPT_INFO, 256 << 10);
	expect_reply(rig, NBD_OPT_INFO, NBD_REP_ACK, NULL);
	add_info(&b, "vm1", 4, both);
	add_info(&b, "frozen", 4, both); /* has no comment */
	feed(rig, &b);
	expect_export(rig, NBD_OPT_INFO, 256 << 10);
	expect_info_text(rig, NBD_INFO_NAME, "vm1");
	expect_info_text(rig, NBD_INFO_DESCRIPTION, "Ann's disk");
	expect_reply(rig, NBD_OPT_INFO, NBD_REP_ACK, NULL);
	expect_export(rig, NBD_OPT_INFO, 64 << 10);
	expect_info_text(rig, NBD_INFO_NAME, "frozen");
	expect_reply(rig, NBD_OPT_INFO, NBD_REP_ACK, NULL);
	expect_end(rig);
}

static void test_list_tells_comments(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;
	const uint8_t *data;
	uint32_t len;

	b.len = 0;
	strcpy(rig->fs.volumes[0].comment, "Ann's disk");
	begin(rig);
	add_option(&b, NBD_OPT_LIST, NULL, 0);
	feed(rig, &b);
	data = expect_reply(rig, NBD_OPT_LIST, NBD_REP_SERVER, &len);
	assert_int_equal(len, 4 + 3 + 10);
	assert_int_equal(be32_to_cpu(*(const be32 *)data), 3);
	assert_memory_equal(data + 4, "vm1Ann's disk", 13);
	expect_reply(rig, NBD_OPT_LIST, NBD_REP_SERVER, &len);
	assert_int_equal(len, 4 + 6);
	expect_reply(rig, NBD_OPT_LIST, NBD_REP_ACK, NULL);
}

static void test_default_export(void **state)
{
	static const uint16_t name[] = {NBD_INFO_NAME};
	struct rig *rig = *state;
	static struct bytes b;
	const uint8_t *text;
	uint32_t len;

	b.len = 0;
	begin(rig);
	add_info(&b, "", 1, name);
	feed(rig, &b);
	text = expect_reply(rig, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN, &len);
	assert_true(has_text(text, len, "default-export"));
	rig_disconnect(rig);
	rig->env.default_export = "vm1";
	rig_connect(rig);
	rig->out_pos = rig->out_len;
	begin(rig);
	add_info(&b, "", 1, name);
	feed(rig, &b);
	expect_export(rig, NBD_OPT_INFO, 256 << 10);
	expect_info_text(rig, NBD_INFO_NAME, "vm1");
	expect_reply(rig, NBD_OPT_INFO, NBD_REP_ACK, NULL);
	rig_disconnect(rig);
	rig->env.default_export = "gone";
	rig_connect(rig);
	rig->out_pos = rig->out_len;
	begin(rig);
	add_go(&b, NBD_OPT_GO, "");
	feed(rig, &b);
	text = expect_reply(rig, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, &len);
	assert_true(has_text(text, len, "'gone', which does not exist"));
}

static void test_extended_headers(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	begin(rig);
	add_option(&b, NBD_OPT_EXTENDED_HEADERS, "x", 1);
	add_option(&b, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	add_option(&b, NBD_OPT_STRUCTURED_REPLY, NULL, 0); /* there is no way back */
	add_go(&b, NBD_OPT_INFO, "vm1");
	add_go(&b, NBD_OPT_GO, "vm1");
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID, NULL);
	expect_reply(rig, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, NULL);
	expect_reply(rig, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD, NULL);
	assert_true(expect_export(rig, NBD_OPT_INFO, 256 << 10) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	expect_reply(rig, NBD_OPT_INFO, NBD_REP_ACK, NULL);
	/* no context was chosen: there is nothing to filter */
	assert_false(expect_export(rig, NBD_OPT_GO, 256 << 10) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	expect_reply(rig, NBD_OPT_GO, NBD_REP_ACK, NULL);
	assert_true(rig->s->extended && rig->s->structured);
}

static void test_extended_headers_go_with_go(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	begin(rig);
	add_option(&b, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	add_option(&b, NBD_OPT_EXPORT_NAME, "vm1", 3);
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	expect_reply(rig, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, NULL);
	expect_end(rig);
	assert_true(nbd_session_is_over(rig->s));
	assert_non_null(strstr(rig->s->refusal, "NBD_OPT_GO"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_meta_context_before_chunks_says_so),
		T(test_too_many_queries_are_too_big),
		T(test_name_and_description_are_told_to_who_asks),
		T(test_list_tells_comments),
		T(test_default_export),
		T(test_extended_headers),
		T(test_extended_headers_go_with_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
