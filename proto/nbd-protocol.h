/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proto/nbd-protocol.h: the bytes of the NBD protocol (fixed newstyle handshake; simple, structured and
 * extended messages), as its specification (doc/proto.md of the reference implementation) names them. All
 * integers are big-endian; being structs they cannot be used in arithmetic without a conversion.
 */
#ifndef PROTO_NBD_PROTOCOL_H
#define PROTO_NBD_PROTOCOL_H

#include <assert.h>
#include <endian.h>
#include <stdint.h>

typedef struct {
	uint16_t raw;
} __attribute__((packed)) be16;
typedef struct {
	uint32_t raw;
} __attribute__((packed)) be32;
typedef struct {
	uint64_t raw;
} __attribute__((packed)) be64;

static inline be16 cpu_to_be16(uint16_t v)
{
	return (be16){htobe16(v)};
}
static inline be32 cpu_to_be32(uint32_t v)
{
	return (be32){htobe32(v)};
}
static inline be64 cpu_to_be64(uint64_t v)
{
	return (be64){htobe64(v)};
}
static inline uint16_t be16_to_cpu(be16 v)
{
	return be16toh(v.raw);
}
static inline uint32_t be32_to_cpu(be32 v)
{
	return be32toh(v.raw);
}
static inline uint64_t be64_to_cpu(be64 v)
{
	return be64toh(v.raw);
}

/* ---- handshake ------------------------------------------------------------ */

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)	      /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC UINT64_C(0x0003e889045565a9)
#define NBD_STRING_MAX 4096u /* of any string, names of exports included */
#define NBD_ZEROES 124u	     /* after NBD_OPT_EXPORT_NAME, unless NO_ZEROES was agreed on */

enum nbd_handshake_flag { NBD_FLAG_FIXED_NEWSTYLE = 1 << 0, NBD_FLAG_NO_ZEROES = 1 << 1 };

struct nbd_greeting {
	be64 magic;
	be64 option_magic;
	be16 flags;
} __attribute__((packed));

struct nbd_option {
	be64 magic;
	be32 option;
	be32 len;
} __attribute__((packed));

struct nbd_option_reply {
	be64 magic;
	be32 option;
	be32 type;
	be32 len;
} __attribute__((packed));

enum nbd_option_type {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

enum nbd_reply_type {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR(n) (UINT32_C(1) << 31 | (n))
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3)
#define NBD_REP_ERR_PLATFORM NBD_REP_ERR(4)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6)
#define NBD_REP_ERR_SHUTDOWN NBD_REP_ERR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERR(8)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10)

enum nbd_info_type {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3
};

struct nbd_info_export {
	be16 type;
	be64 size;
	be16 flags;
} __attribute__((packed));

struct nbd_info_block_size {
	be16 type;
	be32 minimum;
	be32 preferred;
	be32 maximum;
} __attribute__((packed));

/* The answer to NBD_OPT_EXPORT_NAME. */
struct nbd_export_reply {
	be64 size;
	be16 flags;
	uint8_t zeroes[NBD_ZEROES];
} __attribute__((packed));

enum nbd_transmission_flag {
	NBD_FLAG_HAS_FLAGS = 1 << 0,
	NBD_FLAG_READ_ONLY = 1 << 1,
	NBD_FLAG_SEND_FLUSH = 1 << 2,
	NBD_FLAG_SEND_FUA = 1 << 3,
	NBD_FLAG_SEND_TRIM = 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
	NBD_FLAG_SEND_DF = 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
	NBD_FLAG_SEND_CACHE = 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
	NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

/* ---- transmission --------------------------------------------------------- */

#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_SIMPLE_REPLY_MAGIC UINT32_C(0x67446698)
#define NBD_STRUCTURED_REPLY_MAGIC UINT32_C(0x668e33ef)
#define NBD_EXTENDED_REQUEST_MAGIC UINT32_C(0x21e41c71)
#define NBD_EXTENDED_REPLY_MAGIC UINT32_C(0x6e8a278c)

struct nbd_request_header {
	be32 magic;
	be16 flags;
	be16 type;
	be64 cookie; /* the client's, copied to the reply as it is */
	be64 off;
	be32 len;
} __attribute__((packed));

/* After NBD_OPT_EXTENDED_HEADERS. It begins like a compact one. */
struct nbd_extended_request_header {
	be32 magic;
	be16 flags;
	be16 type;
	be64 cookie;
	be64 off;
	be64 len; /* of the payload with NBD_CMD_FLAG_PAYLOAD_LEN, else of the range */
} __attribute__((packed));

/* The payload that BLOCK_STATUS may have; more contexts may follow. */
struct nbd_status_filter {
	be64 len;
	be32 context;
} __attribute__((packed));

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_command_flag {
	NBD_CMD_FLAG_FUA = 1 << 0,
	NBD_CMD_FLAG_NO_HOLE = 1 << 1,
	NBD_CMD_FLAG_DF = 1 << 2,
	NBD_CMD_FLAG_REQ_ONE = 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

struct nbd_simple_reply {
	be32 magic;
	be32 error;
	be64 cookie;
} __attribute__((packed));

struct nbd_chunk {
	be32 magic;
	be16 flags;
	be16 type;
	be64 cookie;
	be32 len;
} __attribute__((packed));

struct nbd_extended_chunk {
	be32 magic;
	be16 flags;
	be16 type;
	be64 cookie;
	be64 off; /* the request's */
	be64 len;
} __attribute__((packed));

enum nbd_chunk_flag { NBD_CHUNK_DONE = 1 << 0 };
enum nbd_chunk_type {
	NBD_CHUNK_NONE = 0,
	NBD_CHUNK_OFFSET_DATA = 1,
	NBD_CHUNK_OFFSET_HOLE = 2,
	NBD_CHUNK_BLOCK_STATUS = 5,
	NBD_CHUNK_BLOCK_STATUS_EXT = 6,
	NBD_CHUNK_ERROR = 1 << 15 | 1,
};

/* What follows the header of a chunk. */
struct nbd_chunk_data {
	be64 off;
} __attribute__((packed));

/* The text follows. */
struct nbd_chunk_error {
	be32 error;
	be16 msg_len;
} __attribute__((packed));

struct nbd_chunk_status {
	be32 context;
} __attribute__((packed));

struct nbd_chunk_status_ext {
	be32 context;
	be32 count;
} __attribute__((packed));

struct nbd_extent {
	be32 len;
	be32 flags;
} __attribute__((packed));

struct nbd_extent_ext {
	be64 len;
	be64 flags;
} __attribute__((packed));

enum nbd_state_flag { NBD_STATE_HOLE = 1 << 0, NBD_STATE_ZERO = 1 << 1 };

enum nbd_error {
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

static_assert(sizeof(struct nbd_greeting) == 18, "wire format");
static_assert(sizeof(struct nbd_option) == 16, "wire format");
static_assert(sizeof(struct nbd_option_reply) == 20, "wire format");
static_assert(sizeof(struct nbd_info_export) == 12, "wire format");
static_assert(sizeof(struct nbd_info_block_size) == 14, "wire format");
static_assert(sizeof(struct nbd_export_reply) == 134, "wire format");
static_assert(sizeof(struct nbd_request_header) == 28, "wire format");
static_assert(sizeof(struct nbd_simple_reply) == 16, "wire format");
static_assert(sizeof(struct nbd_chunk) == 20, "wire format");
static_assert(sizeof(struct nbd_extended_request_header) == 32, "wire format");
static_assert(sizeof(struct nbd_extended_chunk) == 32, "wire format");
static_assert(sizeof(struct nbd_status_filter) == 12, "wire format");
static_assert(sizeof(struct nbd_chunk_data) == 8, "wire format");
static_assert(sizeof(struct nbd_chunk_error) == 6, "wire format");
static_assert(sizeof(struct nbd_chunk_status) == 4, "wire format");
static_assert(sizeof(struct nbd_chunk_status_ext) == 8, "wire format");
static_assert(sizeof(struct nbd_extent_ext) == 16, "wire format");
static_assert(sizeof(struct nbd_extent) == 8, "wire format");

#endif
