// What every plugin must keep, one promise at a time: each is checked on the CPU with a tiny random model.
import { positionsOf } from "../engine/kept.ts";
import type { LoadedMethod } from "../engine/method.ts";
import type { Completion } from "../engine/protocol.ts";
import { difference, rowFault } from "./faults.ts";
import { bytesFault, releaseFault } from "./memory.ts";
import { runSettings } from "./parameters.ts";
import { type Subject, steps, tokenIds } from "./subject.ts";
import { breathe } from "./trace.ts";

/** What was found: a fault in a sentence, or a note on what was looked at. */
export type Finding = { fault: string } | { note: string };

export interface Promised {
  name: string;
  check(subject: Subject): Promise<Finding>;
}

const found = (fault: string | undefined, note: string): Finding => (fault === undefined ? { note } : { fault });

/** The first fault of checks that run one after the other. */
async function first<T>(items: readonly T[], check: (item: T) => Promise<string | undefined>) {
  for (const item of items) {
    const fault = await check(item);
    if (fault !== undefined) return fault;
  }
}

async function parameters(subject: Subject): Promise<Finding> {
  if (subject.tightRefusal !== undefined) {
    return { fault: `${subject.name} takes no capacity from 24 to 128 beside its defaults: ${subject.tightRefusal}` };
  }
  const { run, refused, fault } = await runSettings(subject);
  return found(fault, `${run} settings run, ${refused} refused in a sentence`);
}

async function fullAtLargeBudget(subject: Subject): Promise<Finding> {
  if (!subject.hasCapacity) return { note: "it has no capacity" };
  const longest = subject.inputs[0]!;
  const capacities = [10_000, longest.promptTokens + steps];
  const full = await subject.trace(subject.full);
  const fault = await first(capacities, async (capacity) => {
    const words = { got: `with capacity=${capacity}`, wanted: "under Full" };
    const traces = await subject.trace(subject.method({ capacity }));
    return await first([...traces.keys()], async (s) => difference(subject.name, traces[s]!, full[s]!, words));
  });
  return found(fault, `capacity ${capacities.join(" and ")}, prompts of 1 to ${longest.promptTokens} tokens`);
}

async function keptRows(subject: Subject): Promise<Finding> {
  const { tight, inputs, name } = subject;
  const traces = await subject.trace(subject.method(tight));
  const fault = await first([...traces.keys()], async (s) => {
    const { promptTokens } = inputs[s]!;
    const expected = (layer: number) => subject.expectedRows(tight, promptTokens, layer);
    const wrong = rowFault(name, traces[s]!, promptTokens, expected, subject.plugin.sharesRows);
    const silent = "; the plugin declares no expectedRows, which stands for all rows of the prompt";
    return wrong && wrong + (subject.plugin.expectedRows ? "" : silent);
  });
  const kept = traces[0]!.kept[0]!.map((heads) => heads.map((positions) => positions.length));
  return found(
    fault ?? budgetFault(subject, kept),
    `${subject.label(tight)}: ${kept.map(([rows]) => rows).join(", ")}`,
  );
}

/** At least one layer keeps to the capacity; layers may share a budget unevenly, or be left whole. */
function budgetFault({ tight, inputs, name, plugin }: Subject, kept: readonly number[][]): string | undefined {
  const capacity = tight.capacity as number | undefined;
  if (capacity === undefined || plugin.category === "sparse-decode") return undefined; // there it says what is read
  const ofHeads = plugin.sharesRows === "heads" ? Math.min : Math.max;
  const least = Math.min(...kept.map((heads) => ofHeads(...heads)));
  if (least <= capacity) return undefined;
  const { promptTokens } = inputs[0]!;
  return `${name}.prefill keeps at least ${least} rows of ${promptTokens} in every layer; capacity=${capacity} allows ${capacity}`;
}

async function determinism(subject: Subject): Promise<Finding> {
  const method = subject.method(subject.tight);
  const before = await subject.trace(method);
  const again = await subject.trace(method);
  const words = { got: "the second time", wanted: "the first time" };
  const fault = await first([...again.keys()], async (s) => difference(subject.name, again[s]!, before[s]!, words));
  return found(fault, "rows and logits of two runs");
}

const interleavedWords = { got: "beside another request", wanted: "alone" };
const outside = "; does a variable outside of create change?";

function requestFault(name: string, got: Completion, wanted: Completion): string | undefined {
  const rows = ({ kept }: Completion) => {
    const positions = kept!.prompt.map((heads) => heads.map(positionsOf));
    return { kept: [positions], logits: [new Float32Array()], ordered: true };
  };
  const fault = difference(name, rows(got), rows(wanted), interleavedWords);
  if (fault !== undefined) return fault + outside;
  if (got.ids.join() === wanted.ids.join()) return undefined;
  return `${name}.decode: a request beside another gives other tokens than alone${outside}`;
}

async function interleaving(subject: Subject): Promise<Finding> {
  const turns = async () => await new Promise<void>((resolve) => setImmediate(resolve));
  const method = subject.method(subject.tight);
  const prompts = [tokenIds(150, 100), tokenIds(140, 101)];
  const run = (s: number, breathing = breathe) =>
    subject.generate(method, prompts[s]!, { id: `request ${s}` }, { breathe: breathing });
  const alone = [await run(0), await run(1)];
  const together = await Promise.all([run(0, turns), run(1, turns)]);
  const fault = await first([0, 1], async (s) => requestFault(subject.name, together[s]!, alone[s]!));
  return found(fault, "two requests taking turns");
}

async function batches(subject: Subject): Promise<Finding> {
  const method = subject.method(subject.tight);
  const together = await subject.trace(method);
  const words = { got: `in a batch of ${together.length}`, wanted: "alone" };
  const fault = await first([...together.keys()], async (s) => {
    const [alone] = await subject.trace(method, [subject.inputs[s]!]);
    const wrong = difference(subject.name, together[s]!, alone!, words);
    return wrong && wrong + outside;
  });
  return found(fault, `a batch of ${together.length}`);
}

async function chunks(subject: Subject): Promise<Finding> {
  const method = subject.method(subject.tight);
  const input = subject.inputs[0]!;
  const [whole] = await subject.trace(method, [input]);
  const sizes = [7, 64];
  const fault = await first(sizes, async (size) => await chunkFault(subject, method, size, whole!));
  return found(fault, `${sizes.join(" and ")} rows at a time`);
}

async function chunkFault(
  subject: Subject,
  method: LoadedMethod,
  size: number,
  whole: Parameters<typeof difference>[2],
) {
  const engine = subject.openEngine(size);
  try {
    const [chunked] = await subject.trace(method, [subject.inputs[0]!], engine);
    return difference(subject.name, chunked!, whole, { got: `in chunks of ${size} rows`, wanted: "in one pass" });
  } finally {
    engine.dispose();
  }
}

export const promises: readonly Promised[] = [
  { name: "parameters at their bounds", check: parameters },
  { name: "a large budget is Full, bit for bit", check: fullAtLargeBudget },
  { name: "kept rows: sorted, in range, in budget", check: keptRows },
  { name: "the same input gives the same output", check: determinism },
  { name: "interleaved requests do not mix", check: interleaving },
  { name: "a batch equals single runs", check: batches },
  { name: "prefill in chunks equals one pass", check: chunks },
  {
    name: "bytes held are the expected ones",
    check: async (subject) => found(await bytesFault(subject), "300 tokens"),
  },
  { name: "memory is released", check: async (subject) => found(await releaseFault(subject), "24 requests") },
];

/** The two promises that are kept or broken before anything runs. */
export const loads = "loads";
export const declares = "declares itself as a plugin";
export const promiseNames: readonly string[] = [loads, declares, ...promises.map(({ name }) => name)];
