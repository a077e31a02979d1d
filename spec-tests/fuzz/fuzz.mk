# fuzz.mk: builds the fuzz targets with clang. Run it through `run`, which knows where things are:
#   make -f spec-tests/fuzz/fuzz.mk TOP=CHECKOUT OUT=DIRECTORY [TARGETS="json sio ..."]
# The sources a target needs are compiled with the fuzzer's flags into one archive, of which each
# target takes its part; nothing that is generated is among them.
CLANG ?= clang
TARGETS ?= $(patsubst $(TOP)/spec-tests/fuzz/%.c,%,$(wildcard $(TOP)/spec-tests/fuzz/*.c))

SOURCES := $(wildcard $(TOP)/src/base/*.c $(TOP)/src/call/*.c $(TOP)/src/conf*.c) \
	$(addprefix $(TOP)/src/in/,as_event.c as_scan.c classify.c cors.c proxy.c router.c session_token.c sio_packet.c) \
	$(addprefix $(TOP)/src/store/,change.c keys.c later.c mem.c mem_apply.c mem_kv.c spool_file.c spool_rec.c) \
	$(TOP)/src/registration_read.c \
	$(TOP)/modules/calls/input.c \
	$(addprefix $(TOP)/modules/matrix/,content.c event.c sdp.c)
OBJECTS := $(patsubst $(TOP)/%.c,$(OUT)/obj/%.o,$(SOURCES))

CHECKS := address,undefined
CFLAGS := -std=gnu11 -g -O1 -fno-omit-frame-pointer -Wall -Wextra -D_GNU_SOURCE \
	-I$(TOP)/src -I$(TOP)/modules -I$(TOP)/spec-tests/fuzz -fno-sanitize-recover=all -MMD -MP
PQ_CFLAGS ?= $(shell pkg-config --cflags libpq) # its header's types stand in the spool's; the library is not linked
CFLAGS += $(PQ_CFLAGS)
LIBS := -ljansson -lsodium

all: $(addprefix $(OUT)/,$(TARGETS))

$(OUT)/obj/%.o: $(TOP)/%.c
	@mkdir -p $(@D)
	$(CLANG) $(CFLAGS) -fsanitize=fuzzer-no-link,$(CHECKS) -c -o $@ $<

$(OUT)/product.a: $(OBJECTS)
	@rm -f $@
	$(AR) rcs $@ $^

$(addprefix $(OUT)/,$(TARGETS)): $(OUT)/%: $(OUT)/obj/spec-tests/fuzz/%.o $(OUT)/product.a
	$(CLANG) -g -fsanitize=fuzzer,$(CHECKS) -o $@ $^ $(LIBS)

.SECONDARY:
.PHONY: all
-include $(OBJECTS:.o=.d) $(TARGETS:%=$(OUT)/obj/spec-tests/fuzz/%.d)
