// Wrong calls: library, contexts, tensors, graphs and timers.
import type { Wrong } from "./wrong-calls.ts";

export const wrongTensors: Wrong[] = [
  [
    "device_info: an index below 0",
    ({ native, floats, longs }) => native.kva_device_info(-1, floats, 256, longs),
    /-1/,
  ],
  ["context_create: threads below 0", ({ native, slot }) => native.kva_context_create(0, -2, slot), /threads is -2/],
  ["memory: no such kind", ({ native, c, longs }) => native.kva_memory(c, 4, longs), /kind is 4/],
  ["memory_limit: below 0", ({ native, c }) => native.kva_memory_limit(c, -5), /-5/],
  ["tensor_create: no such type", ({ native, c, slot }) => native.kva_tensor_create(c, 9, 0, 1, 1, slot), /dtype 9/],
  [
    "tensor_create: no such memory",
    ({ native, c, slot }) => native.kva_tensor_create(c, 0, 4, 1, 1, slot),
    /memory is 4/,
  ],
  ["tensor_create: no rows", ({ native, c, slot }) => native.kva_tensor_create(c, 0, 0, 0, 5, slot), /\[0, 5\]/],
  [
    "tensor_create: columns below 0",
    ({ native, c, slot }) => native.kva_tensor_create(c, 0, 0, 5, -1, slot),
    /\[5, -1\]/,
  ],
  [
    "tensor_view: rows past the end",
    ({ native, f, slot }) => native.kva_tensor_view(f(4, 4), 2, 3, 0, 4, slot),
    /\[2, 5\).*\[4, 4\]/,
  ],
  ["tensor_view: a column below 0", ({ native, f, slot }) => native.kva_tensor_view(f(4, 4), 0, 1, -1, 2, slot), /-1/],
  [
    "tensor_view: sums past 2^31",
    ({ native, f, slot }) => native.kva_tensor_view(f(4, 4), 2 ** 31 - 1, 2 ** 31 - 1, 0, 4, slot),
    /\[4, 4\]/,
  ],
  ["tensor_upload: too few bytes", ({ native, f, floats }) => native.kva_tensor_upload(f(4, 4), floats, 60), /60.*64/],
  [
    "tensor_download: too many bytes",
    ({ native, f, floats }) => native.kva_tensor_download(f(4, 4), floats, 256),
    /256.*64/,
  ],
  ["tensor_copy: other shape", ({ native, f }) => native.kva_tensor_copy(f(4, 4), f(4, 5)), /\[4, 5\].*\[4, 4\]/],
  [
    "tensor_copy: integers to floats",
    ({ native, t }) => native.kva_tensor_copy(t("int32", 2, 2), t("float16", 2, 2)),
    /i32/,
  ],
  ["tensor_peer_pull: other shape", ({ native, f }) => native.kva_tensor_peer_pull(f(4, 4), f(5, 4)), /\[5, 4\]/],
  [
    "timer_wait: a slot that was not marked",
    ({ native, timer, c }) => native.kva_timer_wait(timer, 0, c),
    /slot 0 was never marked/,
  ],
  ["tensor_peer_copy: other shape", ({ native, f }) => native.kva_tensor_peer_copy(f(4, 4), f(5, 4)), /\[5, 4\]/],
  [
    "tensor_fill: not an integer's value",
    ({ native, t }) => native.kva_tensor_fill(t("int32", 1, 1), Number.NaN),
    /nan.*i32/i,
  ],
  ["tensor_random: integers", ({ native, t }) => native.kva_tensor_random(t("int32", 1, 1), 0, 1, 1), /i32/],
  ["tensor_random: no such kind", ({ native, f }) => native.kva_tensor_random(f(1, 1), 2, 1, 1), /kind is 2/],
  ["graph_end: nothing is captured", ({ native, c, slot }) => native.kva_graph_end(c, slot), /no graph/],
  ["timer_create: no slots", ({ native, c, slot }) => native.kva_timer_create(c, 0, slot), /slots is 0/],
  ["timer_mark: no such slot", ({ native, timer }) => native.kva_timer_mark(timer, 2), /slot is 2.*2/],
  [
    "timer_read: a slot that was not marked",
    ({ native, timer, floats }) => native.kva_timer_read(timer, 0, 1, floats),
    /slot|mark/,
  ],
  ["shared_create: no bytes", ({ native, c, slot }) => native.kva_shared_create(c, 0, 0, slot), /bytes is 0/],
  ["shared_create: no such memory", ({ native, c, slot }) => native.kva_shared_create(c, 4, 8, slot), /memory is 4/],
  [
    "shared_open: not a name",
    ({ native, c, slot }) => native.kva_shared_open(c, "cuda:cpu:", 0, 8, slot),
    /"cuda:cpu:" is not the name/,
  ],
  ["shared_name: no room", ({ native, shared, floats }) => native.kva_shared_name(shared, floats, 0), /0 bytes/],
  [
    "shared_tensor: no rows",
    ({ native, shared, slot }) => native.kva_shared_tensor(shared, 0, 0, 0, 4, slot),
    /\[0, 4\]/,
  ],
  [
    "shared_tensor: past the end",
    ({ native, shared, slot }) => native.kva_shared_tensor(shared, 256, 1, 2, 65, slot),
    /\[2, 65\] at offset 256.*512 bytes/,
  ],
  [
    "shared_open: no bytes",
    ({ native, c, slot }) => native.kva_shared_open(c, "cpu:1:1:1", 0, -1, slot),
    /bytes is -1/,
  ],
];
