// Prints the header of the GGUF file named on the command line as JSON; a failure is one line on stderr. Runs as a child of src/model/gguf.ts.
import { parseGguf } from "./gguf-header.ts";

try {
  process.stdout.write(JSON.stringify(await parseGguf(process.argv[2]!)));
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
