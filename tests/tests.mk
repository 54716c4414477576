# SPDX-License-Identifier: BSD-3-Clause
#
# Targets that run the built programs from outside. Included by the Makefile.
#
# Switches
#   PYTEST_ARGS="-k full"   passed to pytest (check-e2e)
#   KILLS=8                 kill -9 rounds of check-e2e (fio, crash); SQLITE_KILLS=3, FULL_ATTEMPTS=500: see the tests
#   NJOBS=2                 processes of the crash simulator, and end-to-end tests, at a time
#   SEEDS=1000              seeds of check-crash;  CRASH_SEEDS=20000 those of crash
#   MUTATION_SEEDS=20000    within which check-mutation finds each deliberate mistake
#   FUZZ_SECONDS=60         for each fuzzer;  FUZZ="pattern" only fuzzers whose name matches
#   BENCH_ARGS="--help"     options of tests/bench/bench.py (bench), of tests/bench/scale.py (bench-scale);  SIZE, ROUNDS, OUT as described there
#   RESULTS=docs/bench.json  what bench-picture draws: results.json of a run of bench, or the figures that README has
#   COUNTS=file             each target appends "NAME PASSED FAILED SKIPPED" to it

SEEDS ?= 1000
CRASH_SEEDS ?= 20000
FUZZ_SECONDS ?= 60
NJOBS ?= 2
RESULTS ?= docs/bench.json
COUNT = [ -z "$$COUNTS" ] || echo

check-e2e: all tools
	@BYRE_BUILD=$(abspath $(BUILD)) PYTHON=$(PYTHON) NJOBS=$(NJOBS) sh tests/lib/run-e2e $(PYTEST_ARGS)

check-house:
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest tests/house $(PYTEST_ARGS)

CRASH_BIN := $(BUILD)/tests/crash/crash
define run_crash
	@if $(CRASH_BIN) --seeds $(1) --jobs $(NJOBS); then \
		$(COUNT) "crash 1 0 0" >>"$$COUNTS"; \
	else \
		$(COUNT) "crash 0 1 0" >>"$$COUNTS"; exit 1; \
	fi
endef

# The simulator brings its own base/lock.c and threads: its objects stand before the library.
CRASH_OBJ := $(patsubst %.c,$(BUILD)/obj/%.o,tests/crash/crash.c $(wildcard tests/crash/sim/*.c))
$(CRASH_BIN): $(CRASH_OBJ) $(BUILD)/libfs.a
	@mkdir -p $(@D)
	@echo "  LD    $@"
	@$(LINK) -o $@ $(CRASH_OBJ) $(BUILD)/libfs.a $(FS_LIBS) $(LDLIBS)

check-crash: $(CRASH_BIN)
	@for h in tests/crash/histories/*.history; do $(CRASH_BIN) --replay $$h || exit 1; done
	$(call run_crash,$(SEEDS))
	@$(CRASH_BIN) --prefixes 2 --jobs $(NJOBS)

crash: $(CRASH_BIN)
	$(call run_crash,$(CRASH_SEEDS))
	@$(CRASH_BIN) --prefixes 20 --jobs $(NJOBS)

# One simulator for each deliberate mistake (fs/core/fault.h): only the files that know of them are compiled again.
FAULTS    := $(shell sed -n 's/^\tFAULT_\([A-Z_]*\)\( = 1\)*,.*/\1/p' fs/core/fault.h | awk '{ print NR }')
FAULT_SRC := $(shell grep -l '"fs/core/fault.h"' $(FS_SRC))
define fault_rules
$(BUILD)/fault-$(1)/%.o: %.c
	@mkdir -p $$(@D)
	@$$(COMPILE) -DBYRE_FAULT=$(1) -MMD -MP -c -o $$@ $$<
$(BUILD)/fault-$(1)/crash: $(FAULT_SRC:%.c=$(BUILD)/fault-$(1)/%.o) $(CRASH_OBJ) $(BUILD)/libfs.a
	@echo "  LD    $$@"
	@$$(LINK) -o $$@ $(CRASH_OBJ) $(FAULT_SRC:%.c=$(BUILD)/fault-$(1)/%.o) $(BUILD)/libfs.a $$(FS_LIBS) $$(LDLIBS)
endef
$(foreach n,$(FAULTS),$(eval $(call fault_rules,$(n))))

check-mutation: $(CRASH_BIN) $(FAULTS:%=$(BUILD)/fault-%/crash)
	@JOBS=$(NJOBS) sh tests/crash/mutation.sh $(abspath $(BUILD))

check-vm: all
	@BYRE_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/vm/run.py

bench: all
	@BYRE_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/bench/bench.py $(BENCH_ARGS)
	@BYRE_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/bench/scale.py

bench-picture:
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/bench/chart.py $(RESULTS) docs/bench.svg

bench-scale: all
	@BYRE_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/bench/scale.py $(BENCH_ARGS)

# Fuzzers are clang's libFuzzer: the sources are compiled again, instrumented, into one library.
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZ_SRC))
FUZZ_LIB_SRC := $(BASE_SRC) $(FS_SRC) $(PROTO_SRC) $(filter-out server/main.c,$(SERVER_SRC)) $(LIBBYRE_SRC) $(TESTLIB_SRC)
FUZZ_OBJ := $(patsubst %.c,$(BUILD)/fuzz/obj/%.o,$(FUZZ_LIB_SRC)) $(patsubst $(BUILD)/proto/%.c,$(BUILD)/fuzz/obj/pb/%.o,$(PB_C))
FUZZ_CC := clang -std=gnu17 -g -O1 -fno-omit-frame-pointer -pthread -DBYRE_DEBUG=1 -DBYRE_FUZZ=1 $(BYRE_CPPFLAGS) $(CPPFLAGS)
FUZZ_SAN := address,undefined

$(FUZZ_OBJ): | $(PB_H)

$(BUILD)/fuzz/obj/pb/%.o: $(BUILD)/proto/%.c
	@mkdir -p $(@D)
	@$(FUZZ_CC) -fsanitize=fuzzer-no-link,$(FUZZ_SAN) -c -o $@ $<

$(BUILD)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC    $< (fuzz)"
	@$(FUZZ_CC) -fsanitize=fuzzer-no-link,$(FUZZ_SAN) -MMD -MP -c -o $@ $<

$(BUILD)/fuzz/libfuzzed.a: $(FUZZ_OBJ)
	@rm -f $@
	@$(AR) rcs $@ $^

$(BUILD)/fuzz/fuzz_nbd: OBJECTS = $(BUILD)/fuzz/obj/tests/lib/fake/nbd_fs.o
$(BUILD)/fuzz/fuzz_nbd: $(BUILD)/fuzz/obj/tests/lib/fake/nbd_fs.o
$(BUILD)/fuzz/%: tests/fuzz/%.c $(BUILD)/fuzz/libfuzzed.a
	@echo "  LD    $@"
	@$(FUZZ_CC) -fsanitize=fuzzer,$(FUZZ_SAN) -o $@ $< $(OBJECTS) -Wl,--start-group $(BUILD)/fuzz/libfuzzed.a -Wl,--end-group \
		$(SERVER_LIBS) $(CLIENT_LIBS) $(FS_LIBS) -lm $(LDLIBS)

fuzzers: $(FUZZ_BIN)

# Each fuzzer has a corpus that grows in the build folder; tests/fuzz/corpus/NAME, where it exists, seeds it.
fuzz: $(FUZZ_BIN)
	@for f in $(if $(FUZZ),$(foreach b,$(FUZZ_BIN),$(if $(findstring $(FUZZ),$(b)),$(b))),$(FUZZ_BIN)); do \
		n=$$(basename $$f); c=$(BUILD)/fuzz/corpus/$$n; mkdir -p $$c; seed=tests/fuzz/corpus/$$n; \
		[ -d $$seed ] || seed=; \
		if $$f -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -timeout=25 -print_final_stats=1 \
			-artifact_prefix=$(BUILD)/fuzz/$$n- $$c $$seed >$(BUILD)/fuzz/$$n.log 2>&1; then \
			echo "  ok    $$n  $$(awk '/number_of_executed_units/ { print $$2 }' $(BUILD)/fuzz/$$n.log) runs"; \
			$(COUNT) "fuzz 1 0 0" >>"$$COUNTS"; \
		else \
			echo "  FAIL  $$n; input in $(BUILD)/fuzz/$$n-*, log:"; tail -n 60 $(BUILD)/fuzz/$$n.log; \
			$(COUNT) "fuzz 0 1 0" >>"$$COUNTS"; exit 1; \
		fi; \
	done

# For tests/lib/tidy.py: generated headers, and the flags that clang-tidy needs.
tidy-flags: $(PB_H)
	@echo $(call quoted,-std=gnu17 -Wall -Wextra -Wno-unused-parameter $(BYRE_CPPFLAGS) $(CPPFLAGS))

-include $(shell find $(BUILD)/fuzz -name '*.d' 2>/dev/null)
-include $(shell find $(BUILD) -path '*/fault-*.d' 2>/dev/null)
.PHONY: check-e2e check-house check-crash check-mutation check-vm crash bench bench-picture bench-scale fuzzers fuzz tidy-flags
