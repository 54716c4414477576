# SPDX-License-Identifier: BSD-3-Clause
#
# Byre's one Makefile. Sources and tests are found by wildcard: add a file and it is built.
#
# Targets (those that run the built programs are in tests/tests.mk)
#   make                programs and libraries, into build/
#   make help           this text
#   make dev            sets up a checkout: compile_commands.json for editors, a git hook that checks formatting
#   make unit           the C unit tests, built;  make tools  the simulator and the measuring programs;  make fuzzers  the fuzzers
#   make check          unit tests, crash simulation (1,000 seeds) and end-to-end tests: quick, no timing
#   make check-unit     the C unit tests alone;  make check-e2e  the pytest ones alone;  make check-crash  the simulator alone
#   make check-asan     the same under AddressSanitizer and UBSan
#   make check-tsan     unit tests that have threads, under ThreadSanitizer
#   make check-mutation the simulator must find each deliberate mistake (fs/core/fault.h)
#   make check-vm       Debian's kernel in QEMU as an NBD client
#   make check-house    tests of this Makefile and of the rules of tidy
#   make crash          20,000 seeds of the crash simulator
#   make fuzz           every fuzzer for FUZZ_SECONDS (60) each
#   make bench          Byre and its peers side by side (tests/bench);  make bench-scale  how costs grow, alone
#   make bench-picture  docs/bench.svg, README's picture, from RESULTS (docs/bench.json)
#   make tidy           the rules of the tree (tests/lib/tidy.py), clang-tidy;  make tidy-flags  the flags that it gives to clang
#   make install        honours DESTDIR, PREFIX (/usr/local), LIBDIR, SYSCONFDIR, UNITDIR
#   make deb            Debian packages, into $(BUILD)/debs, with DEB_ARGS for dpkg-buildpackage
#   make check-package  these packages installed, upgraded, removed and purged in a fresh Debian (as root; slow)
#   make check-systemd  the package, its units and what operating.md says, under systemd in a virtual machine (likewise)
#   make clean
#
# Switches, on the command line or in the environment
#   BUILD=dir           where to build (build)      SAN=address,undefined | thread
#   DEBUG=1             costly checks, -O1          WERROR=1   warnings are errors
#   TESTS="pattern"     only tests whose path matches (check-unit)
#   TIDY_ARGS=--quick   without clang-tidy (tidy); --full: with what it only guesses; the names of rules: these alone
#   CC CPPFLAGS CFLAGS LDFLAGS LDLIBS   yours: they come after the project's own flags and never replace them
#   AR LD OBJCOPY PKG_CONFIG PROTOC_C PYTHON   the tools
#   Those of the tests (SEEDS, PYTEST_ARGS, ...) are in tests/tests.mk.

BUILD   ?= build
ifeq ($(origin CC),default)
CC      := gcc
endif
PREFIX  ?= /usr/local
VERSION := 0.1.0
PYTHON  ?= /usr/bin/python3
OBJCOPY ?= objcopy
PROTOC_C ?= protoc-c
PKG_CONFIG ?= pkg-config
pkg = $(shell $(PKG_CONFIG) $(1) 2>/dev/null)
FS_LIBS     := -luring -lisal -lbsd -lpthread
SERVER_LIBS := $(call pkg,--libs libevent libevent_pthreads openssl libprotobuf-c jansson libsystemd) -linih
CLIENT_LIBS := $(call pkg,--libs libprotobuf-c jansson)
CLI_LIBS    := $(call pkg,--libs blkid)

# The project's flags are variables of their own: CPPFLAGS, CFLAGS, LDFLAGS and LDLIBS are the user's, and stand behind.
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-unused-parameter
BYRE_CPPFLAGS := -I. -I$(BUILD) -D_GNU_SOURCE -DBYRE_VERSION='"$(VERSION)"' $(if $(DEBUG),-DBYRE_DEBUG=1) \
	$(call pkg,--cflags libevent openssl libprotobuf-c liburing jansson libsystemd)
BYRE_CFLAGS := -std=gnu17 $(if $(DEBUG),-O1,-O2) $(SANFLAGS) -fPIC -pthread $(WARNINGS) $(if $(WERROR),-Werror)
CFLAGS  ?= -g
COMPILE = $(CC) $(BYRE_CPPFLAGS) $(CPPFLAGS) $(BYRE_CFLAGS) $(CFLAGS)
LINK    = $(CC) $(SANFLAGS) -pthread $(CFLAGS) $(LDFLAGS)

BASE_SRC   := $(wildcard base/*.c)
FS_SRC     := $(wildcard fs/*/*.c)
PROTO_SRC  := $(wildcard proto/*.c)
SERVER_SRC := $(wildcard server/*.c)
LIBBYRE_SRC := $(wildcard client/libbyre*.c)
CLI_SRC    := $(filter-out $(LIBBYRE_SRC),$(wildcard client/*.c))
PB_C       := $(patsubst proto/%.proto,$(BUILD)/proto/%.pb-c.c,$(wildcard proto/*.proto))
PB_H       := $(PB_C:.c=.h)
obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
PB_OBJ     := $(PB_C:.c=.o)
quoted = '$(subst ','\'',$(1))'

TESTLIB_SRC := $(wildcard tests/lib/*.c)
UNIT_SRC   := $(foreach d,base fs/* proto server client,$(wildcard tests/$(d)/test_*.c))
# Unit tests with one thread: ThreadSanitizer has nothing to look for in them, and they are not built for it. What keeps
# this list true is a pthread_create that aborts, which they are linked with everywhere (tests/lib/one_thread).
ONE_THREAD := base/test_addr base/test_log base/test_size base/test_text fs/tree/test_cut fs/device/test_device_sim fs/device/test_device_sim_crash \
              fs/commit/test_flush_log_damage fs/space/test_free_said fs/space/test_free_space fs/space/test_free_space_cache fs/check/test_fuzzed_image fs/io/test_io fs/io/test_io_errors \
              fs/io/test_io_together fs/tree/test_node fs/volume/test_overlay fs/tree/test_prefetch fs/space/test_space fs/space/test_space_promise fs/space/test_space_ticket \
              fs/tree/test_tree fs/format/test_group_item fs/format/test_root_item fs/format/test_blocks proto/test_rpc_frame server/test_clients server/test_config server/test_http client/test_cli_args client/test_cli_output
ONE_THREAD_SRC := $(ONE_THREAD:%=tests/%.c)
UNIT       := $(patsubst %.c,$(BUILD)/%,$(if $(filter thread,$(SAN)),$(filter-out $(ONE_THREAD_SRC),$(UNIT_SRC)),$(UNIT_SRC)))
TOOLS_SRC  := $(wildcard tests/bench/*.c tests/crash/*.c)

all: $(BUILD)/libfs.a $(BUILD)/libbyre.a $(BUILD)/libbyre.so $(BUILD)/byred $(BUILD)/byre

help:
	@sed -n '3,/^$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST)); sed -n '4,/^$$/s/^# \{0,1\}//p' tests/tests.mk

dev: $(PB_H)
	@COMPILE=$(call quoted,$(COMPILE)) sh deploy/dev

$(BUILD)/libfs.a: $(call obj,$(FS_SRC) $(BASE_SRC))
$(BUILD)/libproto.a: $(call obj,$(PROTO_SRC)) $(PB_OBJ)
$(BUILD)/libserver.a: $(call obj,$(filter-out server/main.c,$(SERVER_SRC)))
$(BUILD)/libbyre.a: $(call obj,$(LIBBYRE_SRC) $(PROTO_SRC) $(BASE_SRC)) $(PB_OBJ)
$(BUILD)/libtest.a: $(call obj,$(TESTLIB_SRC))
$(BUILD)/lib%.a:
	@mkdir -p $(@D)
	@rm -f $@
	@echo "  AR    $@"
	@$(AR) rcs $@ $^

$(BUILD)/libbyre.so: $(call obj,$(LIBBYRE_SRC) $(PROTO_SRC) $(filter-out base/crc32c.c,$(BASE_SRC))) $(PB_OBJ) client/libbyre.map
	@echo "  LD    $@"
	@$(LINK) -shared -Wl,-soname,libbyre.so.0 -Wl,--version-script=client/libbyre.map -o $@ \
		$(filter-out %.map,$^) $(CLIENT_LIBS) -lbsd $(LDLIBS)

$(BUILD)/byred: $(BUILD)/obj/server/main.o $(BUILD)/libserver.a $(BUILD)/libproto.a $(BUILD)/libfs.a
	@echo "  LD    $@"
	@$(LINK) -o $@ $^ $(SERVER_LIBS) $(FS_LIBS) $(LDLIBS)

$(BUILD)/byre: $(call obj,$(CLI_SRC)) $(BUILD)/libbyre.a $(BUILD)/libfs.a
	@echo "  LD    $@"
	@$(LINK) -o $@ $^ $(CLIENT_LIBS) $(CLI_LIBS) $(FS_LIBS) $(LDLIBS)

# Everything that sees generated headers waits for them.
$(call obj,$(PROTO_SRC) $(SERVER_SRC) $(LIBBYRE_SRC) $(CLI_SRC) $(UNIT_SRC) $(TESTLIB_SRC)): | $(PB_H)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(COMPILE) -MMD -MP -c -o $@ $<

$(BUILD)/proto/%.pb-c.o: $(BUILD)/proto/%.pb-c.c
	@$(COMPILE) -c -o $@ $<

$(BUILD)/proto/%.pb-c.c $(BUILD)/proto/%.pb-c.h &: proto/%.proto
	@mkdir -p $(@D)
	@echo "  PROTO $<"
	@$(PROTOC_C) --c_out=$(BUILD)/proto --proto_path=proto $<

# ---- tests ----
TEST_LINK := $(patsubst %,$(BUILD)/lib%.a,test server byre proto fs)
# The two fakes of the engine are objects as well, of the programs that include them or a rig on them.
includers = $(patsubst %.c,$(BUILD)/%,$(shell grep -lE '"tests/lib/($(1))\.h"' $(UNIT_SRC)))
FAKE_NBD_USERS := $(call includers,fake/nbd_fs|nbd_rig|nbd_transmit_rig)
FAKE_RPC_USERS := $(call includers,fake/rpc_fs|rpc_fixture)
$(ONE_THREAD_SRC:%.c=$(BUILD)/%): OBJECTS = $(BUILD)/obj/tests/lib/one_thread/one_thread.o
$(ONE_THREAD_SRC:%.c=$(BUILD)/%): $(BUILD)/obj/tests/lib/one_thread/one_thread.o
$(FAKE_NBD_USERS): OBJECTS += $(BUILD)/obj/tests/lib/fake/nbd_fs.o
$(FAKE_NBD_USERS): $(BUILD)/obj/tests/lib/fake/nbd_fs.o
$(FAKE_RPC_USERS): OBJECTS += $(BUILD)/obj/tests/lib/fake/rpc_fs.o
$(FAKE_RPC_USERS): $(BUILD)/obj/tests/lib/fake/rpc_fs.o
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_LINK)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	@$(LINK) -o $@ $< $(OBJECTS) -Wl,--start-group $(TEST_LINK) -Wl,--end-group $(SERVER_LIBS) $(CLIENT_LIBS) $(FS_LIBS) -lcmocka -lm $(LDLIBS)

TOOLS := $(patsubst %.c,$(BUILD)/%,$(TOOLS_SRC))
tools: $(TOOLS)

unit: $(UNIT)

check-unit: $(UNIT)
	@sh tests/lib/run-unit $(if $(TESTS),$(foreach t,$(UNIT),$(if $(findstring $(TESTS),$(t)),$(t))),$(UNIT))

include tests/tests.mk

check: all tools
	@$(MAKE) --no-print-directory check-unit
	@$(MAKE) --no-print-directory check-crash
	@$(MAKE) --no-print-directory check-e2e

check-asan:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SAN=address,undefined DEBUG=1 check

check-tsan:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SAN=thread DEBUG=1 all tools check-unit

tidy:
	@BUILD=$(BUILD) PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/lib/tidy.py $(TIDY_ARGS)

# ---- installing ----
# Everything under DESTDIR; a packager sets the folders. The unit, and the template for one daemon a pool, are made of one file.
LIBDIR     ?= $(PREFIX)/lib
SYSCONFDIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc,$(PREFIX)/etc)
UNITDIR    ?= $(PREFIX)/lib/systemd/system
SHARE      := $(PREFIX)/share
IN         := $(DESTDIR)$(PREFIX)
UNIT_SED   := -e 's|/usr/local/sbin|$(PREFIX)/sbin|' -e 's|/etc/byre/|$(SYSCONFDIR)/byre/|g'

$(BUILD)/command_table: $(BUILD)/obj/deploy/command_table.o $(call obj,$(filter-out client/main.c,$(CLI_SRC))) \
		$(BUILD)/libbyre.a $(BUILD)/libfs.a
	@$(LINK) -o $@ $^ $(CLIENT_LIBS) $(CLI_LIBS) $(FS_LIBS) $(LDLIBS)

$(BUILD)/completion.%: deploy/completion.py $(BUILD)/command_table
	@$(BUILD)/command_table | $(PYTHON) deploy/completion.py $* >$@.new && mv $@.new $@

# The static library that others link shows what the shared one shows.
$(BUILD)/install/libbyre.a: $(call obj,$(LIBBYRE_SRC) $(PROTO_SRC) $(filter-out base/crc32c.c,$(BASE_SRC))) $(PB_OBJ)
	@mkdir -p $(@D)
	@rm -f $@
	@$(LD) -r -o $(@D)/byre.o $^
	@$(OBJCOPY) --wildcard --keep-global-symbol='byre_[a-z]*' $(@D)/byre.o
	@$(AR) rcs $@ $(@D)/byre.o

install: all $(BUILD)/completion.bash $(BUILD)/completion.zsh $(BUILD)/install/libbyre.a
	install -d $(IN)/bin $(IN)/sbin $(IN)/include $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSCONFDIR)/byre \
	           $(DESTDIR)$(SHARE)/man/man1 $(DESTDIR)$(SHARE)/man/man8 $(IN)/lib/sysusers.d $(IN)/lib/tmpfiles.d \
	           $(DESTDIR)$(SHARE)/bash-completion/completions $(DESTDIR)$(SHARE)/zsh/$(ZSHDIR) $(DESTDIR)$(SHARE)/doc/byre
	install -m 755 $(BUILD)/byre $(IN)/bin/byre
	install -m 755 $(BUILD)/byred $(IN)/sbin/byred
	install -m 644 client/byre.h $(IN)/include/byre.h
	install -m 644 $(BUILD)/install/libbyre.a $(DESTDIR)$(LIBDIR)/libbyre.a
	install -m 644 $(BUILD)/libbyre.so $(DESTDIR)$(LIBDIR)/libbyre.so.0
	ln -sf libbyre.so.0 $(DESTDIR)$(LIBDIR)/libbyre.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' deploy/byre.pc.in \
		>$(DESTDIR)$(LIBDIR)/pkgconfig/byre.pc
	install -m 644 client/byre.1 $(DESTDIR)$(SHARE)/man/man1/
	install -m 644 server/byred.8 $(DESTDIR)$(SHARE)/man/man8/
	sed $(UNIT_SED) deploy/byred.service >$(DESTDIR)$(UNITDIR)/byred.service
	sed $(UNIT_SED) -e 's|^Description=.*|& (%i)|' -e 's|/byre/byred.conf|/byre/%i.conf|' \
		-e 's|^RuntimeDirectory=byre|&-%i|' deploy/byred.service >'$(DESTDIR)$(UNITDIR)/byred@.service'
	install -m 644 deploy/byre.sysusers $(IN)/lib/sysusers.d/byre.conf
	install -m 644 deploy/byre.tmpfiles $(IN)/lib/tmpfiles.d/byre.conf
	[ -e $(DESTDIR)$(SYSCONFDIR)/byre/byred.conf ] || install -m 644 deploy/byred.conf $(DESTDIR)$(SYSCONFDIR)/byre/byred.conf
	install -m 644 $(BUILD)/completion.bash $(DESTDIR)$(SHARE)/bash-completion/completions/byre
	install -m 644 $(BUILD)/completion.zsh $(DESTDIR)$(SHARE)/zsh/$(ZSHDIR)/_byre
	install -m 644 docs/operating.md $(DESTDIR)$(SHARE)/doc/byre/
ZSHDIR := $(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)

# Debian packages, into $(BUILD)/debs. Built from a copy: dpkg-buildpackage writes beside its sources.
deb:
	rm -rf $(BUILD)/deb-src $(BUILD)/debs
	mkdir -p $(BUILD)/deb-src/byre $(BUILD)/debs
	git ls-files -z | tar -c --null -T - | tar -x -C $(BUILD)/deb-src/byre
	cd $(BUILD)/deb-src/byre && env -u MAKEFLAGS -u MAKELEVEL dpkg-buildpackage -b -uc -us $(DEB_ARGS)
	mv $(BUILD)/deb-src/*.deb $(BUILD)/debs/
	rm -rf $(BUILD)/deb-src

check-package: deb
	@sh tests/package/life $(BUILD)

check-systemd: deb
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/package/systemd.py $(BUILD)

clean:
	rm -rf $(BUILD)

.PHONY: all help dev tools unit check check-unit check-asan check-tsan tidy install deb check-package check-systemd clean
.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
