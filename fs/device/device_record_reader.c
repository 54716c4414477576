/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_record_reader.c: reads the log of a recorded device; nothing in it is believed before its
 * checksum is right. Format in device_record.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/mem.h"
#include "fs/device/device.h"
#include "fs/device/device_record.h"

struct record_reader {
	int fd;
	uint64_t at, end; /* of the file */
	uint64_t size, seq;
	bool cut;
	void *data;
	uint64_t room;
};

static int read_at(int fd, uint64_t off, void *buf, uint64_t len)
{
	char *at = buf;

	while (len) {
		ssize_t n = pread(fd, at, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		at += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int read_header(struct record_reader *r)
{
	struct record_header header;
	struct stat st;
	uint32_t crc;
	int err;

	if (fstat(r->fd, &st))
		return -errno;
	r->end = (uint64_t)st.st_size;
	if (r->end < sizeof(header))
		return -EBADMSG;
	err = read_at(r->fd, 0, &header, sizeof(header));
	if (err)
		return err;
	crc = le32_to_cpu(header.crc);
	header.crc = cpu_to_le32(0);
	if (memcmp(header.magic, RECORD_MAGIC, sizeof(header.magic)) != 0 ||
	    crc != crc32c(&header, sizeof(header)) || le32_to_cpu(header.version) != RECORD_VERSION)
		return -EBADMSG;
	r->at = sizeof(header);
	r->size = le64_to_cpu(header.size);
	return 0;
}

int record_reader_open(const char *path, struct record_reader **ret_reader)
{
	struct record_reader *r = mem_zalloc(sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	err = r->fd < 0 ? -errno : read_header(r);
	if (err) {
		record_reader_close(r);
		return err;
	}
	*ret_reader = r;
	return 0;
}

void record_reader_close(struct record_reader *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	mem_free(r->data);
	mem_free(r);
}

uint64_t record_reader_size(const struct record_reader *r)
{
	return r->size;
}

bool record_reader_is_cut(const struct record_reader *r)
{
	return r->cut;
}

static bool entry_is_valid(const struct record_reader *r, const struct record_entry *e)
{
	struct record_entry copy = *e;
	uint64_t off = le64_to_cpu(e->off), len = le64_to_cpu(e->len);

	copy.crc = cpu_to_le32(0);
	if (le32_to_cpu(e->crc) != crc32c(&copy, sizeof(copy)) || le64_to_cpu(e->seq) != r->seq + 1)
		return false;
	switch (le32_to_cpu(e->type)) {
	case RECORD_WRITE:
	case RECORD_DISCARD: return (off | len) % DEVICE_ALIGN == 0 && off <= r->size && len <= r->size - off;
	case RECORD_FLUSH: return le64_to_cpu(e->covers) <= r->seq;
	case RECORD_SIZE: return len % DEVICE_ALIGN == 0 && len >= r->size;
	default: return false;
	}
}

/* Reads a write's bytes, which are in the file whole, and verifies them. */
static int read_data(struct record_reader *r, const struct record_entry *e)
{
	uint64_t len = le64_to_cpu(e->len);
	uint32_t crc = 0;
	int err;

	if (len > r->room) {
		mem_free(r->data);
		r->data = mem_alloc(len);
		r->room = r->data ? len : 0;
		if (!r->data)
			return -ENOMEM;
	}
	err = read_at(r->fd, r->at + sizeof(*e), r->data, len);
	if (err)
		return err;
	for (uint64_t i = 0; i < len; i += DEVICE_ALIGN)
		crc = record_crc_block(crc, (const char *)r->data + i);
	return crc == le32_to_cpu(e->data_crc) ? 0 : -EBADMSG;
}

static int at_end(struct record_reader *r, bool cut)
{
	r->cut = cut;
	return 0;
}

int record_reader_next(struct record_reader *r, struct record *ret_record)
{
	struct record_entry e;
	uint64_t data_len = 0;
	int err;

	if (r->end - r->at < sizeof(e))
		return at_end(r, r->end != r->at);
	err = read_at(r->fd, r->at, &e, sizeof(e));
	if (err)
		return err;
	if (!entry_is_valid(r, &e))
		return -EBADMSG;
	if (le32_to_cpu(e.type) == RECORD_WRITE)
		data_len = le64_to_cpu(e.len);
	if (r->end - r->at - sizeof(e) < data_len)
		return at_end(r, true);
	if (data_len) {
		err = read_data(r, &e);
		if (err)
			return err;
	}
	if (le32_to_cpu(e.type) == RECORD_SIZE)
		r->size = le64_to_cpu(e.len);
	r->at += sizeof(e) + data_len;
	r->seq++;
	*ret_record = (struct record){.type = (enum record_type)le32_to_cpu(e.type),
				      .seq = r->seq,
				      .off = le64_to_cpu(e.off),
				      .len = le64_to_cpu(e.len),
				      .covers = le64_to_cpu(e.covers),
				      .data = data_len ? r->data : NULL};
	return 1;
}
