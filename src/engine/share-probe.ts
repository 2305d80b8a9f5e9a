// Tries on one device what a holder of weights and its engines do: `share-probe.ts DEVICE` makes a small block, a child of it opens the
// block and reads it. Exit code 0, or 1 with the reason on stdout.
import { SharedBlock } from "../native/shared.ts";
import { Context } from "../native/tensor.ts";

const rows = 64;
const columns = 1024;
const bytes = 4 * rows * columns;
const value = 0.5;

function make(device: string): number {
  const block = SharedBlock.create(Context.open(device, 1), bytes);
  block.tensor(0, "float32", rows, columns).fill(value);
  const { exitCode, stdout, stderr, signalCode } = Bun.spawnSync(
    [process.execPath, import.meta.path, device, block.name],
    { stdin: "ignore", stdout: "pipe", stderr: "pipe", env: process.env },
  );
  if (exitCode === 0) return 0;
  const said = `${stdout}`.trim() || `${stderr}`.trim().split("\n").at(-1);
  console.log(said || `a process that opened memory of another one was ended by ${signalCode}`);
  return 1;
}

function open(device: string, name: string): number {
  const block = SharedBlock.open(Context.open(device, 1), name, bytes);
  if (
    block
      .tensor(0, "float32", rows, columns)
      .toFloats()
      .every((read) => read === value)
  )
    return 0;
  console.log("memory of another process holds something else than it was given");
  return 1;
}

try {
  const [, , device, name] = process.argv;
  process.exit(name === undefined ? make(device!) : open(device!, name));
} catch (error) {
  console.log((error as Error).message);
  process.exit(1);
}
