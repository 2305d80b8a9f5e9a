# Targets of kvaccel; `make` prints them.
BUILD := build
CXX ?= g++
JOBS ?= $(shell nproc)
MAKEFLAGS += --no-builtin-rules $(if $(filter 0,$(MAKELEVEL)),-j$(JOBS))

.PHONY: help
help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

## make cpu     builds build/libkvaccel_cpu.so
CPU_LIBRARY := $(BUILD)/libkvaccel_cpu.so
CPU_FLAGS := -std=c++20 -O3 -g1 -fPIC -fvisibility=hidden -fno-math-errno -ffp-contract=off -Wall -Wextra -pthread
X86 := $(findstring x86_64,$(shell $(CXX) -dumpmachine))
CPU_FLAGS += $(if $(X86),-DKVA_X86)

# The inner loops are compiled once for each instruction set and picked at run time.
ISA_FLAGS_baseline :=
ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c
ISA_FLAGS_avx512 := $(ISA_FLAGS_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
ISA_FLAGS_avx512bf16 := $(ISA_FLAGS_avx512) -mavx512bf16
CPU_ISAS := baseline $(if $(X86),avx2 avx512 avx512bf16)

CPU_SOURCES := $(wildcard cuda/core/*.cpp cuda/api/*.cpp cuda/ops/*.cpp)
CPU_OBJECTS := $(CPU_SOURCES:%.cpp=$(BUILD)/cpu/%.o) $(CPU_ISAS:%=$(BUILD)/cpu/kernels_%.o)

.PHONY: cpu
cpu: $(CPU_LIBRARY)

$(CPU_LIBRARY): $(CPU_OBJECTS) cuda/exports.map
	@echo "link $@" >&2
	@$(CXX) -shared -pthread -Wl,--version-script=cuda/exports.map -Wl,-z,defs -o $@ $(CPU_OBJECTS)

$(BUILD)/cpu/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "c++  $<" >&2
	@$(CXX) $(CPU_FLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/cpu/kernels_%.o: cuda/ops/simd/kernels.cpp
	@mkdir -p $(@D)
	@echo "c++  $< ($*)" >&2
	@$(CXX) $(CPU_FLAGS) $(ISA_FLAGS_$*) -DKVA_ISA=$* -MMD -MP -c -o $@ $<

-include $(CPU_OBJECTS:.o=.d)

## make cuda    builds build/libkvaccel.so; CUDA_ARCHS="80 90a" narrows the architectures, CUDA_EXTRA adds flags of nvcc
CUDA_LIBRARY := $(BUILD)/libkvaccel.so
NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
ifeq ($(origin CUDA_ARCHS),undefined)
CUDA_ARCHS := 80 86 89 90a
CUDA_PTX ?= 90# so that later GPUs run, too
endif
CUDA_TARGETS := $(CUDA_ARCHS:%=sm_%) $(CUDA_PTX:%=compute_%)
CUDA_GENCODE := $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch)) \
	$(foreach arch,$(CUDA_PTX),-gencode arch=compute_$(arch),code=compute_$(arch))
CUDA_FLAGS := -std=c++20 -O3 -Xcompiler -fPIC,-fvisibility=hidden,-Wall '-DKVA_CUDA_TARGETS="$(strip $(CUDA_TARGETS))"' $(CUDA_GENCODE) $(CUDA_EXTRA)

# What a backend gives in C++ is in core/cpu*.cpp and core/pool.cpp, or in core/*.cu.
CUDA_HOST_SOURCES := $(filter-out cuda/core/cpu%.cpp cuda/core/pool.cpp,$(wildcard cuda/core/*.cpp)) $(wildcard cuda/api/*.cpp)
CUDA_DIR := $(BUILD)/cuda/$(subst $(eval) ,-,$(strip $(CUDA_TARGETS)))
CUDA_OBJECTS := $(patsubst %.cu,$(CUDA_DIR)/%.o,$(wildcard cuda/core/*.cu cuda/ops/*.cu)) $(CUDA_HOST_SOURCES:%.cpp=$(BUILD)/cuda/host/%.o)

.PHONY: cuda force
cuda: $(if $(NVCC),$(CUDA_LIBRARY),no-nvcc)

.PHONY: no-nvcc
no-nvcc:
	@echo "make cuda: nvcc was not found. It comes with the CUDA toolkit 12.4 or later (https://developer.nvidia.com/cuda-downloads, or" >&2
	@echo "'conda install -c nvidia cuda-nvcc cuda-cudart-dev'). Set CUDA_HOME to the toolkit or NVCC to the compiler. The CPU library needs neither: make cpu." >&2
	@exit 1

$(CUDA_LIBRARY): $(CUDA_OBJECTS) cuda/exports.map $(BUILD)/cuda/targets
	@echo "link $@" >&2
	@$(NVCC) -shared -cudart static $(CUDA_GENCODE) -Xlinker --version-script=cuda/exports.map -Xlinker -z -Xlinker defs -o $@ $(CUDA_OBJECTS) -ldl -lpthread -lrt

# Its time is that of the last change of architectures.
$(BUILD)/cuda/targets: force
	@mkdir -p $(@D)
	@echo "$(CUDA_TARGETS)" | cmp -s - $@ || echo "$(CUDA_TARGETS)" > $@

$(CUDA_DIR)/%.o: %.cu
	@mkdir -p $(@D)
	@echo "nvcc $<" >&2
	@$(NVCC) $(CUDA_FLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/cuda/host/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "c++  $<" >&2
	@$(CXX) -std=c++20 -O2 -g1 -fPIC -fvisibility=hidden -Wall -Wextra -MMD -MP -c -o $@ $<

-include $(CUDA_OBJECTS:.o=.d)

# ---- packages, tests, checks ----

BUN := $(or $(shell command -v bun 2>/dev/null),node_modules/.bin/bun)
INSTALLED := node_modules/.installed

# The lock file's hash stands in the stamp: where the packages are as locked, no registry is asked.
## make packages  installs bun and the packages, as locked
.PHONY: packages installed
packages:
	@test "$$(cat $(INSTALLED) 2>/dev/null)" = "$$(cksum < bun.lock)" || $(MAKE) -s install
.PHONY: install
install:
	@command -v bun >/dev/null 2>&1 || $(BUN) --version >/dev/null 2>&1 || { \
	  npm install --no-save --no-package-lock --no-audit --no-fund --loglevel=error bun@1.4.4 >&2 && \
	  { $(BUN) --version >/dev/null 2>&1 || node node_modules/bun/install.js; }; }
	@$(BUN) install --frozen-lockfile >&2 && cksum < bun.lock > $(INSTALLED)
installed:
	@cksum < bun.lock > $(INSTALLED)

# Where a GPU opens (or KVACCEL_BACKEND=cuda asks for it) and nvcc is there, the CUDA library is built for that GPU.
GPU_ARCH := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
WANTS_CUDA := $(if $(GPU_ARCH),yes,$(filter cuda,$(KVACCEL_BACKEND)))
.PHONY: libraries
libraries: cpu
ifneq ($(WANTS_CUDA),)
ifeq ($(NVCC),)
	@echo "There is a GPU but no nvcc, so this runs on the CPU. For the GPU, install the CUDA toolkit 12.4 or later." >&2
else
	@$(MAKE) cuda $(if $(GPU_ARCH),CUDA_ARCHS=$(patsubst 90,90a,$(GPU_ARCH)))
endif
endif

## make run     installs, builds, opens the wizard; without a terminal: the quick benchmark on the bundled model
.PHONY: run
run: packages libraries
	@if [ -t 0 ] && [ -t 1 ]; then $(BUN) src/main.ts; else $(BUN) src/main.ts run --cfg_path benchmarks/quick.yaml; fi

## make test    installs, builds what this machine can build, runs all tests; KVACCEL_BACKEND=cuda|cpu asks for one backend
.PHONY: test
test: packages libraries
	$(BUN) test --timeout 60000 $(if $(KVACCEL_JUNIT),--reporter=junit --reporter-outfile=$(KVACCEL_JUNIT)) $(TESTS)

## make test-kills  a run killed at 200 random moments loses no sample and has none twice, with one writer and with two
.PHONY: test-kills
test-kills: packages
	KILLS=200 $(BUN) test test/bench/runner.test.ts test/bench/joined.test.ts -t kill

## make test-slurm  accel launch slurm on a Slurm cluster of this machine (slurmctld, slurmd, munge: docs/slurm.md)
.PHONY: test-slurm
test-slurm: packages cpu
	$(BUN) test --timeout 120000 ./test/slurm/slurm.ts

## make check   types, lint, format
.PHONY: check
check: packages
	$(BUN) check
	$(BUN) x --no-install biome check --error-on-warnings .

## make bench   speed of the 8B shape on this machine's GPU within 8 minutes (a small shape on the CPU); OUT=DIR also saves the samples there
.PHONY: bench
bench: packages libraries
	@$(BUN) scripts/bench.ts $(OUT)

## make golden  rewrites test/golden with transformers (Python, for developers)
.PHONY: golden
golden:
	python3 scripts/golden/models.py && python3 scripts/golden/families.py && python3 scripts/golden/rope.py && python3 scripts/golden/texts.py && python3 scripts/golden/strings.py && python3 scripts/golden/templates.py && python3 scripts/golden/ggufs.py

## make clean   removes build/
.PHONY: clean
clean:
	rm -rf $(BUILD)
