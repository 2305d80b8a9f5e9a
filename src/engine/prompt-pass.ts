// The prompts of a batch in one packed prefill: their sequences, and what is left of the pass for decoding.
import type { Decoder } from "../model/decoder.ts";
import { Scope } from "../native/scope.ts";
import type { Tensor } from "../native/tensor.ts";
import type { ModelInfo } from "../plugin/index.ts";
import type { LoadedMethod } from "./method.ts";
import { type Around, gatherRows, type PackedPrompts, packPrompts, prefill } from "./prefill.ts";
import type { Request } from "./protocol.ts";
import { Sequence } from "./sequence.ts";

export class PromptPass {
  readonly sequences: Sequence[];
  /** tokens of all prompts */
  readonly rows: number;
  private readonly packed: PackedPrompts;

  /** Everything lives as long as the scope. */
  constructor(
    private readonly scope: Scope,
    private readonly decoder: Decoder,
    method: LoadedMethod,
    model: ModelInfo,
    requests: readonly Request[],
  ) {
    this.sequences = requests.map((request) => new Sequence(scope, decoder, request, method, model));
    this.rows = this.sequences.reduce((rows, sequence) => rows + sequence.promptTokens, 0);
    this.packed = packPrompts(scope, this.sequences);
  }

  /** Queues the prefill. The result: hidden states of each prompt's last row, and the milliseconds in hooks, which wait. */
  async run(around: Around): Promise<PassResult> {
    // what the pass needs is freed at its end, except for the rows and the timers behind methodMs
    using pass = new Scope(this.decoder.context);
    const { hidden, starts, methodMs } = await prefill(
      pass,
      this.decoder,
      this.sequences,
      around,
      this.packed,
      this.scope,
    );
    const ends = starts.map((at, s) => at + this.sequences[s]!.promptTokens - 1);
    return { last: gatherRows(this.scope, hidden, ends), methodMs };
  }
}

export interface PassResult {
  /** `[sequences, hiddenSize]`, on the last stage's device */
  last: Tensor;
  methodMs(): number;
}
