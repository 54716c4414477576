/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fuzz/fuzz_config.c: the configuration file. Whatever stands in it, reading ends with 0 or a line that
 * names what is wrong; and what was read can be compared with itself.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config config, same;
	struct config_error err = {""};
	char path[64], diff[256];
	int fd = memfd_create("config", MFD_CLOEXEC), r;

	ASSERT(fd >= 0 && (!size || write(fd, data, size) == (ssize_t)size));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	config_init(&config);
	r = config_read_file(&config, path, &err);
	ASSERT(r == 0 || err.msg[0]);
	config_init(&same);
	ASSERT(config_read_file(&same, path, &err) == r);
	config_diff(&config, &same, diff, sizeof(diff));
	ASSERT(!diff[0]);
	close(fd);
	return 0;
}
