// What the report reads of manifest.json and results.json; everything else in them passes through untouched.
import * as v from "valibot";

const nullable = v.nullable(v.number());
const interval = v.tuple([v.number(), v.number()]);
const measure = v.nullable(v.object({ median: v.number(), interval }));

const method = v.object({
  label: v.string(),
  hash: v.string(),
  parts: v.array(
    v.object({ name: v.string(), file: v.string(), preset: v.string(), params: v.record(v.string(), v.unknown()) }),
  ),
});

export const manifestSchema = v.looseObject({
  version: v.string(),
  commit: v.nullable(v.string()),
  bun: v.string(),
  platform: v.string(),
  driver: v.nullable(v.string()),
  model: v.looseObject({ path: v.string(), hash: v.string(), tokenizer_hash: v.string(), dtype: v.string() }),
  seed: v.optional(v.number()),
  view: v.string(),
  benchmark: v.looseObject({ file: v.string(), name: v.string(), remarks: v.array(v.string()) }),
  methods: v.array(method),
  devices: v.array(v.looseObject({ deviceName: v.string(), buildInfo: v.string() })),
  runs: v.array(v.looseObject({ run: v.number(), fresh: v.boolean(), started: v.string() })),
});
export type Manifest = v.InferOutput<typeof manifestSchema>;

const counts = {
  n: v.number(),
  oom: v.number(),
  errors: v.number(),
  missing: v.number(),
  status: v.picklist(["full", "partial", "oom", "error", "missing"]),
};
const scored = { ...counts, method: v.string(), length: nullable, score: nullable, interval: v.nullable(interval) };

export const resultsSchema = v.looseObject({
  date: v.string(),
  cells: v.object({
    by_task: v.array(v.object({ ...scored, task: v.string(), stderr: nullable, nulls: v.number() })),
    accuracy: v.array(v.object(scored)),
    cost: v.array(
      v.object({
        ...counts,
        method: v.string(),
        length: nullable,
        batch: v.number(),
        ttftMs: measure,
        methodMs: nullable,
        selectMs: v.optional(nullable, null),
        density: v.optional(nullable, null),
        msPerToken: measure,
        tokensPerSecond: nullable,
        cacheBytes: nullable,
        cacheAllocatedBytes: nullable,
        expectedCacheBytes: nullable,
        steps: v.number(),
        cacheShare: nullable,
        peakBytes: nullable,
        sharedWeightBytes: v.optional(nullable, null),
        speedUp: nullable,
        idleShare: v.optional(nullable, null),
        throughput: v.optional(nullable, null),
      }),
    ),
    totals: v.array(v.object({ method: v.string(), batch: v.number(), ms: v.number(), partial: v.boolean() })),
  }),
});
