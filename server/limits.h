/* SPDX-License-Identifier: BSD-3-Clause */
/* server/limits.h: every bound on what clients can make the daemon hold, in one place. */
#ifndef SERVER_LIMITS_H
#define SERVER_LIMITS_H

#include "fs/fs.h"

/* ---- the daemon ---- */
#define SERVER_THREADS_MAX 256
#define SERVER_LISTENERS_MAX 16	   /* of each kind: --nbd, --rpc */
#define SERVER_FORCE_MS 3000	   /* what is under way may take after a second SIGTERM */
#define SERVER_ACCEPT_PAUSE_MS 200 /* after accept failed for want of descriptors or memory */

/* ---- connections ---- */
#define NBD_CONNECTIONS_MAX 4096   /* more are closed as soon as they are accepted */
#define NBD_HANDSHAKE_TIMEOUT_S 30 /* from accept to the end of option haggling */
#define NBD_LINGER_TIMEOUT_S 10	   /* how long a client that is being disconnected may take no replies */
#define NBD_LAST_MS 1000	   /* how long one that has got all of them may leave the connection open */
#define NBD_RATE_MIN 8192u	   /* bytes a second of a client that owes something, over the stall time */
#define NBD_SWEEPS 16u		   /* looks in a stall time, */
#define NBD_SWEEP_MIN_MS 50u	   /* not more often than so */

/* ---- handshake ---- */
#define NBD_OPTION_MAX (16u << 10)     /* payload of an option that is looked at */
#define NBD_OPTION_SKIP_MAX (1u << 20) /* longer payloads end the connection instead of being skipped */
#define NBD_LIST_BYTES_MAX (16u << 20) /* of the answer to LIST */
#define NBD_QUERIES_MAX 64	       /* of one LIST_META_CONTEXT or SET_META_CONTEXT */

/* ---- transmission ---- */
#define NBD_IO_MAX FS_IO_MAX /* data of one READ or WRITE */
#define NBD_BLOCK_PREFERRED 4096u
#define NBD_REQUESTS_MAX 128u	       /* under way on one connection */
#define NBD_REQUESTS_RESUME 96u	       /* input goes on when no more than so many are left */
#define NBD_CONN_BYTES_MAX (64u << 20) /* data under way on one connection, */
#define NBD_LOOP_BYTES_MAX \
	(512u << 20)	      /* and on one loop; a connection with none may always start one request */
#define NBD_ZERO_PIECE (512u << 10)	   /* zeros that keep their space are written so many at a time, */
#define NBD_ZERO_DIRECT_MAX (256u << 10)   /* unless there are no more than so many; */
#define NBD_ZERO_PIECES_MAX 2u		   /* so many pieces at once on a loop, one of a connection */
#define NBD_EXTENTS_MAX 2048u /* in one answer to BLOCK_STATUS */
#define NBD_TX_IOV 256	      /* pieces of one send; at most IOV_MAX */

/* ---- buffers ---- */
#define NBD_RX_BYTES (256u << 10)	/* one receive buffer */
#define NBD_RX_SPACE_MIN (64u << 10)	/* offered to one receive at least */
#define BUF_POOL_RX_KEEP 16		/* spare receive buffers that a loop keeps */
#define BUF_POOL_KEEP_BYTES (64u << 20) /* spare data buffers that a loop keeps */

#endif
