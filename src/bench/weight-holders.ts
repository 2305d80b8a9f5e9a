// Starts the engines of a run, and the processes that hold weights for them: one for each device whose engines share a copy.
import type { EngineOptions } from "../engine/protocol.ts";
import { EngineError, EngineProcess, type ProcessOptions } from "./engine-process.ts";

/** A holder with its weights loaded. When it is gone `lost` ends the engines that read them. */
interface Held {
  process: EngineProcess;
  lost: AbortController;
}

export class WeightHolders {
  private readonly held = new Map<string, Promise<Held>>();

  constructor(private readonly settings: ProcessOptions) {}

  /**
   * An engine over the weights that are held on its device, which the first one there has loaded; or with its own, where it shares none.
   * `died` of the error tells that another try may do better.
   */
  async engine(options: EngineOptions): Promise<EngineProcess> {
    if (options.sharedBy === undefined) return EngineProcess.start(options, this.settings);
    const { process, lost } = await this.holder(options);
    try {
      const shared = { ...options, weights: process.weights };
      return await EngineProcess.start(shared, { ...this.settings, lost: lost.signal });
    } catch (error) {
      if (!(error instanceof EngineError) || error.died || error.code === "oom") throw error;
      // What was loaded cannot be read: the holder is gone, or the device failed under it.
      this.held.delete(options.device);
      process.kill(`the weights on ${options.device} can no longer be read: ${error.message}`);
      throw new EngineError(error.code, error.message, true, error.childStack);
    }
  }

  /** The engines have ended before. */
  async stop(): Promise<void> {
    const ended = [...this.held.values()].map(async (held) => (await held).process.stop());
    await Promise.allSettled(ended);
  }

  private holder(options: EngineOptions): Promise<Held> {
    const { device } = options;
    const known = this.held.get(device);
    if (known !== undefined) return known;
    const starting = this.start(options);
    const forget = () => {
      if (this.held.get(device) === starting) this.held.delete(device);
    };
    this.held.set(device, starting);
    starting.then(({ process, lost }) => process.gone.then(({ message }) => lost.abort(message))).then(forget, forget);
    return starting;
  }

  private async start(options: EngineOptions): Promise<Held> {
    return { process: await EngineProcess.hold(options, this.settings), lost: new AbortController() };
  }
}
