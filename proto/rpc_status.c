/* SPDX-License-Identifier: BSD-3-Clause */
/* proto/rpc_status.c: errno values to wire statuses and back. */
#include "proto/rpc_status.h"

#include <errno.h>
#include <stddef.h>

#include "base/util.h"
#include "proto/byre.pb-c.h"

static const struct {
	int error;
	uint16_t status;
} statuses[] = {
	{0, BYRE__STATUS__STATUS_OK},
	{-EPERM, BYRE__STATUS__STATUS_EPERM},
	{-ENOENT, BYRE__STATUS__STATUS_ENOENT},
	{-EIO, BYRE__STATUS__STATUS_EIO},
	{-EAGAIN, BYRE__STATUS__STATUS_EAGAIN},
	{-ENOMEM, BYRE__STATUS__STATUS_ENOMEM},
	{-EACCES, BYRE__STATUS__STATUS_EACCES},
	{-EBUSY, BYRE__STATUS__STATUS_EBUSY},
	{-EEXIST, BYRE__STATUS__STATUS_EEXIST},
	{-EINVAL, BYRE__STATUS__STATUS_EINVAL},
	{-EFBIG, BYRE__STATUS__STATUS_EFBIG},
	{-ENOSPC, BYRE__STATUS__STATUS_ENOSPC},
	{-EROFS, BYRE__STATUS__STATUS_EROFS},
	{-ERANGE, BYRE__STATUS__STATUS_ERANGE},
	{-ENAMETOOLONG, BYRE__STATUS__STATUS_ENAMETOOLONG},
	{-ENOSYS, BYRE__STATUS__STATUS_ENOSYS},
	{-EPROTO, BYRE__STATUS__STATUS_EPROTO},
	{-EOVERFLOW, BYRE__STATUS__STATUS_EOVERFLOW},
	{-EUCLEAN, BYRE__STATUS__STATUS_EUCLEAN},
	{-EMSGSIZE, BYRE__STATUS__STATUS_EMSGSIZE},
	{-EPROTONOSUPPORT, BYRE__STATUS__STATUS_EPROTONOSUPPORT},
	{-EOPNOTSUPP, BYRE__STATUS__STATUS_EOPNOTSUPP},
	{-ESHUTDOWN, BYRE__STATUS__STATUS_ESHUTDOWN},
	{-ETIMEDOUT, BYRE__STATUS__STATUS_ETIMEDOUT},
	{-ECANCELED, BYRE__STATUS__STATUS_ECANCELED},
};

uint16_t rpc_status_from_errno(int error)
{
	for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
		if (statuses[i].error == error)
			return statuses[i].status;
	}
	return BYRE__STATUS__STATUS_EIO;
}

int rpc_status_to_errno(uint16_t status)
{
	for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
		if (statuses[i].status == status)
			return statuses[i].error;
	}
	return -EIO;
}
