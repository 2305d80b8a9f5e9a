// The jobs of a part of the plan: tests that share an engine, with what each costs and needs on this card.
import { totalOf } from "../../src/engine/estimate.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import type { Backend } from "../../src/native/library.ts";
import type { Registry } from "../../src/plugin/loader.ts";
import type { Cost } from "./budget.ts";
import type { Ceilings } from "./device.ts";
import { Runner, rowNames, rowsOf, type Test } from "./end-to-end.ts";
import { memoryOf, methodOf, mostLayers, roomFor } from "./fit.ts";
import { decodeFloorMs, prefillFloorMs } from "./floors.ts";
import type { Part, PlannedTest } from "./plan.ts";
import type { Row } from "./row.ts";
import type { Group, Job } from "./schedule.ts";

/** The card, and what all parts run on it. */
export interface Card {
  shape: string;
  /** `cuda:0` */
  device: string;
  backend: Backend;
  top: Ceilings;
  /** bytes of its memory that nobody holds */
  free: number;
  registry: Registry;
  /** ends every engine when the time is over */
  lost?: AbortSignal;
}

/** What a test takes at the ceilings, a run and its cache as estimated. */
export function costOf(test: Test, config: ModelConfig, top: Ceilings, cacheBytes: number): Cost {
  const { method, prompt, newTokens, sequences = 1, density = 1, warm = false } = test;
  const prefill = prefillFloorMs(config, top, prompt, sequences, density);
  return {
    kind: method,
    floorMs: prefill + newTokens * decodeFloorMs(config, top, cacheBytes),
    leastRuns: warm ? 1 : 2,
  };
}

export function engineGroup(part: Part, card: Card): Group {
  const { shape, device, backend, top, registry } = card;
  const room = roomFor(card.free, backend, part.memoryLimit);
  const all = shapeConfig(shape).layers;
  const needs = (layers: number) => {
    const config = shapeConfig(shape, layers);
    return part.tests.map((test) => totalOf(memoryOf(test, config, backend, registry)));
  };
  const layers = mostLayers(part.layers, room.bytes, needs);
  const config = shapeConfig(shape, layers);
  const rows: Row[] = [];
  let runner: Runner | undefined;

  const jobOf = (test: PlannedTest): Job => {
    const memory = memoryOf(test, config, backend, registry);
    const names = rowNames(test, layers < all ? `${layers} of ${all} layers` : undefined);
    const wanted = () => (layers === part.layers ? (test.wanted?.(rows) ?? {}) : {}); // targets are for as much of the model as planned
    return {
      table: part.table,
      names,
      cost: costOf(test, config, top, memory.cache),
      needBytes: totalOf(memory),
      async run(turn) {
        const sample = await runner!.run(methodOf(test.method, registry, config), test, () => turn.more());
        const made = rowsOf(names, sample, { config, top, table: part.table, test, wanted: wanted() });
        const remark = part.remark?.(made[0]!, test, config);
        if (remark !== undefined) made[0]!.note = `${remark}, ${made[0]!.note}`;
        rows.push(...made);
        return made;
      },
    };
  };

  return {
    name: part.name,
    room,
    jobs: part.tests.map(jobOf),
    async open() {
      const limit = part.memoryLimit === undefined ? {} : { memoryLimit: part.memoryLimit };
      runner = await Runner.start({ shape, layers, device, ...limit }, card.lost);
    },
    async close() {
      await runner!.stop();
    },
  };
}
