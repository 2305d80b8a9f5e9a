// One sequence while it runs: its cache, its hooks in order, its tokens.
import { createHash } from "node:crypto";
import type { Decoder } from "../model/decoder.ts";
import type { StagedCache } from "../model/staged-cache.ts";
import { queryMoments } from "../native/heads.ts";
import { Batch, EVERY_ROW } from "../native/kv.ts";
import { boundPages } from "../native/pages.ts";
import { Scope } from "../native/scope.ts";
import type { Tensor } from "../native/tensor.ts";
import type { Category, ModelInfo } from "../plugin/index.ts";
import type { ChunkState } from "./attend.ts";
import { TensorBlocks } from "./block-ops.ts";
import { own } from "./handles.ts";
import { HookOps } from "./hook-ops.ts";
import { rangesOf } from "./kept.ts";
import { HookLayer, type LayerState, type Pass } from "./layer.ts";
import {
  type AllNeeds,
  createHooks,
  guarded,
  isHooked,
  type LoadedMethod,
  type NamedHooks,
  selecting,
  sideName,
  sumNeeds,
} from "./method.ts";
import { RecordedPages } from "./page-ops.ts";
import type { Request } from "./protocol.ts";
import { type DecodeOp, plan, replay } from "./recorded.ts";
import { Selection } from "./selection.ts";
import { Spans } from "./spans.ts";

/** What a hook call is about, besides the layer. */
interface Inside {
  record?: DecodeOp[];
  chunk?: ChunkState;
  pass?: Pass;
  decoding?: boolean;
}

/** Storage for tokens to come is made in advance up to this many rows; past it, it grows as decoding goes. */
const MAX_SPARE_ROWS = 1024;

export class Sequence {
  readonly cache: StagedCache;
  readonly needs: AllNeeds;
  readonly hooks: NamedHooks[];
  /** tokens prefilled in one pass; the rest of the prompt is fed through decode */
  readonly promptTokens: number;
  readonly spareRows: number;
  /** prompt tokens still to be fed one by one */
  private readonly forced: number[];
  readonly newIds: number[] = [];
  readonly tokenMs: number[] = [];
  finish: "stop" | "length" | null = null;
  /** the last accepted token came from the prompt, not from sampling */
  wasFed = false;
  prefillMs = 0;
  /** kept queries: one tensor that each layer of a stage overwrites, or one per layer where hooks look back */
  private readonly rings: Tensor[];
  /** of the layer that is being prefilled: f32 `[heads, headDim + headDim^2]` */
  private moments: Tensor | null = null;
  /** time on the device of what is done for the method while a layer attends: chunk hooks, moments of queries */
  readonly spans: Spans;
  /** this sequence alone, on each stage */
  private readonly solos: readonly Batch[];
  /** null where no hook selects in prefill */
  readonly selection: Selection | null;
  /** pages that each layer reads while decoding; null: everything */
  readonly pages: (RecordedPages | null)[];
  readonly stream: number;
  private readonly hookedLayers = new Map<Category, readonly number[]>();

  constructor(
    private readonly scope: Scope,
    private readonly decoder: Decoder,
    readonly request: Request,
    method: LoadedMethod,
    private readonly model: ModelInfo,
    /** a sequence whose cache and hooks are taken over as they are; the request's ids are fed after its tokens */
    origin?: Sequence,
  ) {
    this.hooks = origin?.hooks ?? createHooks(method, model);
    this.needs = sumNeeds(this.hooks);
    this.spans = new Spans(scope);
    this.promptTokens = origin?.promptTokens ?? request.questionStart ?? request.ids.length;
    this.forced = origin ? [...request.ids] : request.ids.slice(this.promptTokens);
    this.spareRows = Math.min(MAX_SPARE_ROWS, this.forced.length + request.maxNewTokens);
    this.stream = createHash("sha256").update(request.id).digest().readUInt32BE(0);
    this.cache = scope.own(
      origin?.cache.fork() ?? decoder.newCache(this.needs.sideArrays.length, this.needs.unrotatedRows),
    );
    this.solos = decoder.stages.map(({ context }) => scope.own(Batch.create(context, 1)));
    this.pages = origin?.pages ?? new Array<RecordedPages | null>(decoder.config.layers).fill(null);
    const selects = !origin && selecting(this.hooks, "prefill");
    this.selection = selects ? new Selection(scope, decoder, request.density ?? null) : null;
    if (origin) {
      this.rings = origin.rings;
      return;
    }
    const window = Math.min(this.needs.queryRing, this.promptTokens);
    const { heads, headDim } = decoder.config;
    this.rings = decoder.stages.flatMap(({ context, first, end }) => {
      const count = window === 0 ? 0 : this.needs.cascade ? end - first : 1;
      return Array.from({ length: count }, () => scope.on(context).tensor(decoder.dtype, window, heads * headDim));
    });
    this.cache.seek(this.promptTokens - 1, this.stream);
  }

  /** rows beyond the prompt that a layer's first storage gets: none where a hook is going to make new storage */
  get prefillSpareRows(): number {
    return this.hooks.some(({ hooks }) => hooks.prefill) ? 0 : this.spareRows;
  }

  /** tokens that a rotation which depends on the length goes by: those of the text, or those held where keys stand at places in the cache */
  get rotatedLength(): number {
    const { position, longestRows } = this.cache.info();
    return this.needs.unrotatedRows === EVERY_ROW ? longestRows : position;
  }

  /** tokens that the moments of a whole layer stand for */
  private get momentTokens(): number {
    return this.promptTokens - (this.needs.queryMoments?.skip ?? 0);
  }

  private ring(layer: number): Tensor | null {
    return this.rings[this.needs.cascade ? layer : this.decoder.stageOf(layer)] ?? null;
  }

  /** joins a row chunk's queries before rotation, tokens [first, first + rows) of the prompt, with the layer's moments */
  noteQueries(queries: Tensor, first: number): void {
    const skip = this.needs.queryMoments?.skip;
    if (skip === undefined || first + queries.rows <= skip || this.promptTokens <= skip) return;
    const skipped = Math.max(0, skip - first);
    using part = queries.view(skipped, queries.rows - skipped);
    const { heads, headDim } = this.decoder.config;
    if (this.moments?.context !== queries.context) {
      this.moments = this.scope.on(queries.context).tensor("float32", heads, headDim + headDim * headDim);
    }
    const { moments } = this;
    this.spans.time(queries.context, () => queryMoments(part, heads, first + skipped - skip, moments));
  }

  /** keeps the last of a layer's queries, `[promptTokens, heads * headDim]`, for the hooks */
  keepQueries(layer: number, queries: Tensor): void {
    const ring = this.ring(layer);
    if (!ring) return;
    using last = queries.view(this.promptTokens - ring.rows, ring.rows);
    last.copyTo(ring);
  }

  /** the blocks that a layer's attention reads, as the select hook says; null: everything */
  selectBlocks(layer: number, pass: Pass): TensorBlocks | null {
    const named = selecting(this.hooks, "prefill");
    if (!named || !this.selection) return null;
    return this.selection.choose(layer, () => {
      let chosen: TensorBlocks | null = null;
      this.call(named, "select", layer, { pass }, (view, ops) => {
        const said = named.hooks.select!(view, ops);
        if (said !== undefined) chosen = own(said, TensorBlocks, "select: its result");
      });
      return chosen;
    });
  }

  get watchesChunks(): boolean {
    return this.hooks.some(({ hooks }) => hooks.chunk);
  }

  chunkHooks(layer: number, chunk: ChunkState): void {
    for (const named of this.hooks) {
      const { chunk: hook } = named.hooks;
      if (!hook || !this.hooked(named).includes(layer)) continue;
      this.spans.time(chunk.queries.context, () =>
        this.call(named, "chunk", layer, { chunk }, (view, ops) => hook.call(named.hooks, view, ops)),
      );
    }
  }

  /** what the select hook says of the tokens after the prompt; the layer's rows are those that stay */
  private recordPages(layer: number): void {
    const named = selecting(this.hooks, "decode");
    if (!named || this.decoder.window(layer) > 0) return;
    this.call(named, "select", layer, { decoding: true }, (view, ops) => {
      const said = named.hooks.select!(view, ops);
      if (said === undefined) return;
      const pages = own(said, RecordedPages, "select: its result");
      boundPages(view.state.cache, layer, pages.pageRows);
      this.pages[layer] = pages;
    });
  }

  /** whether something of the method runs when a layer attended over the whole prompt */
  get worksAfterLayers(): boolean {
    return this.hooks.some(({ hooks }) => hooks.prefill) || selecting(this.hooks, "decode") !== undefined;
  }

  /**
   * The layer attended over the whole prompt: the prefill hooks run, in order, then the choice for decode. Hooks behind one that changes
   * earlier layers run for all layers after the last.
   */
  prefillHooks(layer: number): void {
    const cascades = this.hooks.findIndex(({ hooks }) => hooks.needs?.cascade);
    const prompt = cascades < 0 ? this.hooks : this.hooks.slice(0, cascades + 1);
    for (const named of prompt) this.prefillHook(named, layer);
    if (layer + 1 === this.cache.shape.layers) {
      for (const named of this.hooks.slice(prompt.length)) {
        for (let earlier = 0; earlier <= layer; earlier++) this.prefillHook(named, earlier);
      }
    }
    // Heads of different lengths were kept with room of their own: the longest one's would give back what the others saved.
    const lengths = this.cache.lengths(layer);
    if (lengths.every((rows) => rows === lengths[0])) this.cache.reserve(layer, lengths[0]! + this.spareRows);
    if (cascades < 0) this.recordPages(layer);
    else if (layer + 1 === this.cache.shape.layers)
      for (let earlier = 0; earlier <= layer; earlier++) this.recordPages(earlier);
  }

  private prefillHook(named: NamedHooks, layer: number): void {
    const { prefill } = named.hooks;
    if (prefill && this.hooked(named).includes(layer))
      this.call(named, "prefill", layer, {}, (view, ops) => prefill.call(named.hooks, view, ops));
  }

  /** what the decode hooks of a layer record */
  recordDecode(layer: number): DecodeOp[] {
    const record: DecodeOp[] = [];
    for (const named of this.hooks) {
      const { decode } = named.hooks;
      if (decode && this.hooked(named).includes(layer))
        this.call(named, "decode", layer, { record }, (view, ops) => decode.call(named.hooks, view, ops));
    }
    return record;
  }

  /** the layers that hooks of a plugin run in */
  private hooked({ category }: NamedHooks): readonly number[] {
    let layers = this.hookedLayers.get(category);
    if (!layers) {
      const all = Array.from({ length: this.model.layers }, (_, layer) => layer);
      layers = all.filter((layer) => isHooked(category, this.model, layer, this.promptTokens));
      this.hookedLayers.set(category, layers);
    }
    return layers;
  }

  private call(
    named: NamedHooks,
    hook: "select" | "chunk" | "prefill" | "decode",
    layer: number,
    inside: Inside,
    run: (view: HookLayer, ops: HookOps) => void,
  ): void {
    using scope = new Scope(this.cache.of(layer).context);
    const view = new HookLayer(layer, this.layerState(layer, named, inside), scope);
    guarded(`${named.name}.${hook} in layer ${layer}`, () => run(view, new HookOps(view, scope)));
  }

  private layerState(at: number, named: NamedHooks, inside: Inside): LayerState {
    const { name, hooks } = named;
    const { record = null, chunk = null, pass = null, decoding = false } = inside;
    const sync = hooks.needs?.hostSync;
    const sides = hooks.needs?.sideArrays ?? [];
    return {
      cache: this.cache.of(at),
      cacheOf: (layer) => this.cache.of(layer),
      promptTokens: this.promptTokens,
      scale: this.decoder.scale,
      ring: (layer) => this.ring(layer),
      sides: new Map(sides.map((side) => [side, this.needs.sideArrays.indexOf(sideName(name, side))])),
      chunk,
      pass,
      decoding,
      moments: this.moments ? { tensor: this.moments, seen: this.momentTokens } : null,
      rope: (scope) => this.decoder.rotationFor(scope, this.promptTokens),
      hooked: this.hooked(named),
      cascade: hooks.needs?.cascade === true,
      maySync: sync === "both" || sync === (record ? "decode" : "prefill"),
      unrotatedRows: this.needs.unrotatedRows,
      spareRows: this.spareRows,
      record,
      apply: (layer, op) => {
        const cache = this.cache.of(layer);
        const solo = this.solos[this.decoder.stageOf(layer)]!;
        using scope = new Scope(cache.context);
        solo.set([cache]);
        const slots = op.kind === "rotateSlots" ? Math.max(...cache.lengths(layer)) + 1 : this.promptTokens;
        const rope = this.decoder.rotationFor(scope, slots);
        replay(solo, layer, plan([[op]]), { rope, probs: null });
      },
    };
  }

  /** takes the token sampled after the last fed one; the token to feed next, or null when the sequence is done */
  accept(sampled: number): number | null {
    const forced = this.forced.shift();
    this.wasFed = forced !== undefined;
    if (forced !== undefined) return forced;
    const { ignoreStop, stopIds, minNewTokens = 0 } = this.request;
    if (!ignoreStop && this.newIds.length >= minNewTokens && stopIds.includes(sampled)) {
      this.finish = "stop";
      return null;
    }
    this.newIds.push(sampled);
    if (this.newIds.length < this.request.maxNewTokens) return sampled;
    this.finish = "length";
    return null;
  }

  /** true while tokens of the prompt are still being fed */
  get feeding(): boolean {
    return this.forced.length > 0;
  }

  /** numbers that the plugins give at the end */
  end(): Record<string, number> {
    const kept = () => this.keptPositions();
    return Object.assign(
      this.selection ? { density: this.selection.density() } : {},
      ...this.hooks.map(({ name, hooks }) => guarded(`${name}.end`, () => hooks.end?.(kept) ?? {})),
    );
  }

  /** [layer][kvHead] -> kept positions, ascending; waits for the device */
  keptPositions(): number[][][] {
    return this.eachHead((positions) => Array.from(positions));
  }

  /** [layer][kvHead] -> kept positions as ranges; waits for the device */
  keptRanges(): string[][] {
    return this.eachHead(rangesOf);
  }

  private eachHead<T>(of: (positions: Int32Array) => T): T[][] {
    const { layers, kvHeads } = this.cache.shape;
    return Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: kvHeads }, (_, head) => of(this.cache.positions(layer, head).sort())),
    );
  }
}
