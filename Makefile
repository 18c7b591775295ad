# annex: the front door. Everything behind it is CMake with presets, which work alone too.
#
#   make demo     installs what the command needs, builds that and nothing else, runs the main job on real packets
#   make test     installs what the fast tests need, builds it, runs every fast test
#   make page     looks at the demo's page in Chromium: its numbers, and that it fits from 360 to 1600 pixels
#   make asan     the same tests under AddressSanitizer and UndefinedBehaviorSanitizer      make tsan    under ThreadSanitizer
#   make fuzz     fuzzes for FUZZ_SECONDS (60) a target
#   make bench    annex and its peers in one run (an hour; FILTER=regex, ROUNDS=n: 5, HUGE_PAGES=never); build/bench.html has the plots
#   make torture  kills every operation wherever a death leaves something else (KILLS=n deaths of each: 0, all), then workers at
#                 random moments for SECONDS (300), damages segments at rest (DAMAGES=n: 10000), holds who attaches and leaves
#                 at every instruction while others go on (HOLDS=n of each: 0, all), and whoever does whatever for SECONDS,
#                 and overwrites tables under a working process (3,000 seeds)
#   make models   checks the models
#   make dpdk     the drop-in against this machine's DPDK (Debian's 22.11): HOW=quick or all (every suite, 30 minutes)
#   make guest    devices this machine lacks, in QEMU: an IOMMU with DMA devices (VFIO, IOMMUFD), RDMA, NUMA nodes, persistent memory
#   make docs     the documentation site, build/docs/html: every page and public symbol, links checked (Doxygen)
#   make deb      Debian packages of this tree in build/packages      make tarball   what is installed, in one archive, there too
#   make packages-test   builds, installs, uses and removes the packages in a bare Debian 12 and 13 (root; 20 minutes the first time)
#   make abi      the C face against the record of the last release; RECORD=1 records it
#   make lint     clang-tidy by .clang-tidy over src, tools and examples: any finding fails
#   make format   make install   make clean

.PHONY: all demo test page asan tsan fuzz torture models bench dpdk guest docs format install clean packages device-packages deb tarball packages-test abi lint
FUZZ_SECONDS ?= 60
SECONDS ?= 300
KILLS ?= 0
DAMAGES ?= 10000
HOLDS ?= 0
FILTER ?= .
ROUNDS ?= 5
HUGE_PAGES ?= as-is
HOW ?= quick
JOBS := $(shell nproc)

all: packages
	cmake --preset dev >/dev/null && cmake --build --preset dev

packages:
	@./cmake/install-packages base

device-packages:
	@./cmake/install-packages base devices test

demo:
	@./cmake/install-packages command
	cmake --preset demo >/dev/null && cmake --build --preset demo
	build/demo/tools/annex demo --html build/demo.html

test: device-packages
	cmake --preset dev >/dev/null && cmake --build --preset dev
	ctest --preset dev -j $(JOBS)

page: demo
	@./cmake/install-packages page
	tests/page/run build/demo/tools/annex

asan tsan: device-packages
	cmake --preset $@ >/dev/null && cmake --build --preset $@
	ANNEX_MODEL_OPERATIONS=200000 ctest --preset $@ -j $(JOBS)

fuzz:
	@./cmake/install-packages base fuzz
	cmake --preset fuzz >/dev/null && cmake --build --preset fuzz
	@for target in api_sequence corrupt_segment packet_parser; do \
	  mkdir -p build/fuzz-found/$$target; \
	  build/fuzz/fuzz/fuzz_$$target -max_total_time=$(FUZZ_SECONDS) -timeout=20 -print_final_stats=1 build/fuzz-found/$$target fuzz/corpus/$$target || exit 1; done

torture: all
	build/dev/torture/torture_steps --kills $(KILLS)
	build/dev/torture/torture_kills --seconds $(SECONDS)
	build/dev/torture/torture_damage --runs $(DAMAGES)
	build/dev/torture/torture_holds --triangles $(HOLDS) --holds 1000000 --seconds $(SECONDS)
	build/dev/torture/torture_scribble --runs 3000

models:
	@./cmake/install-packages models
	docs/design/models/check

bench:
	@./cmake/install-packages base bench
	cmake --preset bench >/dev/null && cmake --build --preset bench
	build/bench/bench/annex-bench --filter '$(value FILTER)' --rounds $(ROUNDS) --huge-pages $(HUGE_PAGES) --json build/bench.json --html build/bench.html

dpdk:
	@./cmake/install-packages base dpdk
	cmake --preset dev >/dev/null && cmake --build --preset dev --target all dpdk_programs
	tests/dpdk/run build/dev $(HOW)

guest:
	@./cmake/install-packages base devices guest
	cmake --preset dev >/dev/null && cmake --build --preset dev --target all guest_programs
	tests/guest/run build/dev

docs:
	@./cmake/install-packages docs
	docs/site/build

format:
	@git ls-files '*.cpp' '*.hpp' '*.h' '*.c' ':!include/annex_ffi.h' | xargs clang-format -i

install: packages
	cmake --preset release -DANNEX_TESTS=OFF >/dev/null && cmake --build --preset release && cmake --install build/release $(if $(PREFIX),--prefix "$(PREFIX)")

deb:
	packaging/deb

tarball: packages
	cmake --preset release -DANNEX_TESTS=OFF >/dev/null && cmake --build --preset release && cpack --config build/release/CPackConfig.cmake

packages-test:
	packaging/check bookworm
	packaging/check trixie

abi: packages
	@./cmake/install-packages abi
	cmake --preset dev >/dev/null && cmake --build build/dev --target annex
	packaging/abi/check build/dev/libannex.so $(if $(RECORD),--record)

lint:
	@./cmake/install-packages base devices lint
	cmake --preset lint >/dev/null && cmake/lint build/lint

clean:
	rm -rf build
