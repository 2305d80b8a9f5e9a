// What a method holds and leaves behind: cache bytes against its formula, native memory and JavaScript memory after requests.
import { heapStats } from "bun:jsc";
import { formatBytes } from "../bench/format.ts";
import { positionsOf } from "../engine/kept.ts";
import { type Subject, tokenIds } from "./subject.ts";

const promptTokens = 300;
const newTokens = 4;

/** Bytes of the cache after a prompt, as its formula gives them, and no more storage than those rows take. */
export async function bytesFault(subject: Subject): Promise<string | undefined> {
  const { tight, model } = subject;
  const method = subject.method(tight);
  const done = await subject.generate(method, tokenIds(promptTokens, 5), { maxNewTokens: newTokens });
  const after = `after a prompt of ${promptTokens} tokens`;
  const label = subject.label(tight);
  const rows = Array.from({ length: model.layers }, (_, layer) => subject.expectedRows(tight, promptTokens, layer));
  if (done.cacheBytes !== done.expectedCacheBytes) {
    const held = done.kept!.prompt.map((heads) => heads.map((ranges) => positionsOf(ranges).length).join("/"));
    return (
      `${label} holds ${formatBytes(done.cacheBytes)} of cache ${after}; expectedRows gives ` +
      `${formatBytes(done.expectedCacheBytes)} (rows by layer: ${held.join(", ")} held, ${rows.join(", ")} expected)`
    );
  }
  const most = mostBytes(subject, rows);
  if (done.cacheAllocatedBytes <= most) return undefined;
  return `${label} has ${formatBytes(done.cacheAllocatedBytes)} of storage ${after}; its rows need ${formatBytes(most)}`;
}

/** Storage of so many rows a layer, with room for the new tokens and the ends of parts. */
function mostBytes(subject: Subject, rows: readonly number[]): number {
  const { layers, kvHeads, headDim } = subject.model;
  const { needs = {} } = subject.plugin.create(subject.values(subject.tight) as never, subject.model);
  const { sideArrays = [], unrotatedKeys = 0 } = needs;
  const keys = unrotatedKeys === "all" ? 2 : 1;
  const rowBytes = (keys + 1) * headDim * 4 + 4 + 4 * sideArrays.length;
  const parts = keys + 2 + sideArrays.length; // each of a head's parts ends at a multiple of 128 bytes
  const kept = rows.reduce(
    (sum, count, layer) => sum + (count + newTokens) * rowBytes + parts * 128 + addedBytes(subject, count, layer),
    0,
  );
  return (
    kvHeads * kept + layers * kvHeads * 128 * Math.ceil(((keys === 1 ? Number(unrotatedKeys) : 0) * headDim * 4) / 128)
  );
}

/** What a KV head's rows take beyond full precision, where a method keeps something of its own beside them. */
function addedBytes(subject: Subject, rows: number, layer: number): number {
  const { plugin, model, tight } = subject;
  const bytes = rows * model.headDim * 4;
  const plain = { rows, keyBytes: bytes, valueBytes: bytes, keyChannels: model.headDim, elementBytes: 4 };
  const stored = plugin.expectedStorage?.(subject.values(tight) as never, plain, model, layer) ?? plain;
  return Math.max(0, stored.keyBytes + stored.valueBytes - 2 * bytes);
}

/** JavaScript memory may differ by so much from one collection to the next. */
const noise = 256 * 1024;
const requests = 12;
/** What is held grows in every one of them; what the engine's compiler takes does not. */
const rounds = 3;

function nativeBytes({ engine }: Subject): number {
  const { context } = engine.decoder;
  context.sync();
  context.trim();
  return context.memory().bytes;
}

function heapBytes(): number {
  Bun.gc(true);
  const { heapSize, extraMemorySize } = heapStats();
  return heapSize + extraMemorySize;
}

/** Native memory is as before once requests are done, and JavaScript memory does not grow with their number. */
export async function releaseFault(subject: Subject): Promise<string | undefined> {
  const method = subject.method(subject.tight);
  const many = async () => {
    for (let n = 0; n < requests; n++) await subject.generate(method, tokenIds(160, n), { maxNewTokens: 2 });
  };
  await many();
  const after = `after ${requests} more requests`;
  let heapGrowth = Infinity;
  for (let round = 0; round < rounds; round++) {
    const [native, heap] = [nativeBytes(subject), heapBytes()];
    await many();
    const nativeGrowth = nativeBytes(subject) - native;
    if (nativeGrowth > 0) return `${subject.name} leaves ${formatBytes(nativeGrowth)} of device memory ${after}`;
    heapGrowth = Math.min(heapGrowth, heapBytes() - heap);
    if (heapGrowth <= noise) return undefined;
  }
  return `${subject.name} holds ${formatBytes(heapGrowth)} more of JavaScript memory ${after}: what a hook stores must live in create's closure`;
}
