// Opens a block of another process and says what it sees: `open-shared.ts DEVICE NAME BYTES ROWS COLUMNS [write]`.
import { SharedBlock } from "../../src/native/shared.ts";
import { Context } from "../../src/native/tensor.ts";

const [, , device, name, bytes, rows, columns, write] = process.argv;
const context = Context.open(device!, 1);
try {
  const block = SharedBlock.open(context, name!, Number(bytes));
  const tensor = block.tensor(256, "bfloat16", Number(rows), Number(columns));
  if (write) tensor.fill(7);
  const values = Array.from(tensor.toFloats());
  const { bytes: counted, allocations, reservedBytes } = context.memory("weights");
  tensor.dispose();
  block.dispose();
  context.dispose();
  console.log(JSON.stringify({ values, counted, allocations, reservedBytes }));
} catch (error) {
  console.log(JSON.stringify({ error: (error as Error).message, status: (error as { status?: number }).status }));
}
