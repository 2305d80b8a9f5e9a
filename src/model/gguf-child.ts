// Prints the header of a GGUF file as JSON; a failure is one line on stderr. Runs as a child of src/model/gguf.ts.
// Arguments: a path; or a URL and its size in bytes, which HF_TOKEN may open.
import { parseGguf } from "./gguf-header.ts";

const patienceMs = 30_000;

async function fetchRange(input: string | URL | Request, init?: RequestInit): Promise<Response> {
  const token = process.env.HF_TOKEN;
  const headers = new Headers(init?.headers);
  if (token) headers.set("authorization", `Bearer ${token}`);
  const answer = await fetch(input, { ...init, headers, signal: AbortSignal.timeout(patienceMs) });
  // a server that ignores ranges would send the weights, too
  if (answer.status !== 206) throw new Error(`status ${answer.status} for a range of bytes, not 206`);
  return answer;
}

try {
  const [file, bytes] = process.argv.slice(2);
  const fetchIt = Object.assign(fetchRange, { preconnect: fetch.preconnect });
  const remote = bytes === undefined ? undefined : { bytes: Number(bytes), fetch: fetchIt };
  process.stdout.write(JSON.stringify(await parseGguf(file!, remote)));
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
