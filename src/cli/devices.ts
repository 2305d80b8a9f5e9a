// `accel devices`, and from the words of --device to the devices of a run.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { formatBytes } from "../bench/format.ts";
import { renderTerminal, text } from "../bench/table.ts";
import { KvaError } from "../native/error.ts";
import { type Backend, libraryPath, openLibrary } from "../native/library.ts";
import { ensureLibraries } from "./build.ts";
import type { DevicesFlags } from "./devices-memory.ts";
import { tell, terminal } from "./output.ts";

export interface DeviceEntry {
  /** as --device takes it: `cpu:0`, `cuda:1` */
  id: string;
  name: string;
  backend: Backend;
  total_bytes: number;
  free_bytes: number;
  /** "9.0"; null on the CPU */
  compute_capability: string | null;
}

export interface DeviceReport {
  devices: DeviceEntry[];
  /** path of each library found; null: not there or not usable, and why stands in `notes` */
  library: Record<Backend, string | null>;
  cublas: string | null;
  notes: string[];
}

/** Opens both libraries in this process. On a GPU that makes a CUDA context, so a run asks in a child. */
export function deviceReport(): DeviceReport {
  const report: DeviceReport = { devices: [], library: { cuda: null, cpu: null }, cublas: null, notes: [] };
  const override = process.env.KVACCEL_LIB;
  for (const backend of ["cuda", "cpu"] as const) {
    if (!override && backend === "cuda" && !existsSync(libraryPath(backend))) {
      report.notes.push(`no CUDA library at ${libraryPath(backend)}: make cuda builds it`);
      continue;
    }
    try {
      const library = openLibrary(backend);
      report.library[backend] = library.path;
      for (const device of library.devices()) {
        const { computeCapability: capability } = device;
        report.devices.push({
          id: `${backend}:${device.index}`,
          name: device.name,
          backend,
          total_bytes: device.totalBytes,
          free_bytes: device.freeBytes,
          compute_capability: capability > 0 ? `${Math.floor(capability / 10)}.${capability % 10}` : null,
        });
      }
      if (backend === "cuda") report.cublas = library.blasPath();
    } catch (error) {
      if (!(error instanceof KvaError)) throw error;
      if (!override) report.notes.push(`${backend}: ${error.message}`);
    }
  }
  return report;
}

export async function devices(flags: DevicesFlags): Promise<void> {
  // only for a model: it brings plugins and configurations with it
  const memory = flags.model_path || flags.shape ? await import("./devices-memory.ts") : undefined;
  const wanted = await memory?.readWanted(flags);
  await ensureLibraries();
  const report = deviceReport();
  const needs = wanted && memory?.modelNeeds(wanted, report.devices);
  if (flags.json) {
    const { notes, ...rest } = report;
    for (const note of notes) tell(note);
    process.stdout.write(`${JSON.stringify({ ...rest, ...(needs && { model: needs }) }, null, 2)}\n`);
    return;
  }
  const table = {
    title: "Devices",
    columns: [
      { title: "id", key: "id", align: "left" as const },
      { title: "name", key: "name", align: "left" as const },
      { title: "memory", key: "total_bytes" },
      { title: "free", key: "free_bytes" },
      { title: "capability", key: "compute_capability" },
    ],
    headColumns: 1,
    rows: report.devices.map((device) => [
      text(device.id),
      text(device.name),
      text(formatBytes(device.total_bytes)),
      text(formatBytes(device.free_bytes)),
      text(device.compute_capability ?? "-"),
    ]),
    notes: [
      ...Object.entries(report.library).flatMap(([backend, path]) =>
        path === null ? [] : [`${backend} library: ${path}`],
      ),
      ...(report.library.cuda === null ? [] : [`cuBLAS: ${report.cublas ?? "not found"}`]),
      ...report.notes,
    ],
  };
  const tables = needs ? [table, memory!.needsTable(needs, report.devices)] : [table];
  process.stdout.write(`${tables.map((each) => renderTerminal(each, terminal())).join("\n\n")}\n`);
}

/** Devices of a run: those named, else every GPU, else the CPU. */
export async function chooseDevices(words: readonly string[]): Promise<string[]> {
  await ensureLibraries();
  const posed = posedDevices();
  const named = words.flatMap((word) => (word.toLowerCase() === "cpu" ? posed : deviceId(word)));
  const twice = named.find((id, at) => named.indexOf(id) !== at);
  if (twice !== undefined) throw new KvaError("usage", `--device names ${twice} twice`);
  const unknown = named.find((id) => id.startsWith("cpu:") && !posed.includes(id));
  if (unknown !== undefined) {
    throw new KvaError(
      "device",
      `--device ${unknown}: there is ${posed.join(", ")}; KVACCEL_CPU_DEVICES=${Number(unknown.slice(4)) + 1} makes the CPU pose as more devices`,
    );
  }
  if (named.length > 0 && named.every((id) => id.startsWith("cpu:"))) return named;
  const gpus = (await gpusHere()).map((device) => device.id);
  if (named.length === 0) return gpus.length > 0 ? gpus : posed;
  const absent = named.find((id) => id.startsWith("cuda:") && !gpus.includes(id));
  if (absent !== undefined) {
    const there = gpus.length > 0 ? `there is ${gpus.join(", ")}` : "no GPU opens here; accel devices says why";
    throw new KvaError("device", `--device ${absent}: ${there}; --device cpu runs on the CPU`);
  }
  return named;
}

/** The devices that the CPU poses as: KVACCEL_CPU_DEVICES of them. */
function posedDevices(): string[] {
  const written = process.env.KVACCEL_CPU_DEVICES || "1";
  const count = Number(written);
  if (!(Number.isInteger(count) && count >= 1 && count <= 1024)) {
    throw new KvaError("usage", `KVACCEL_CPU_DEVICES is "${written}", it must be a number from 1 to 1024`);
  }
  return Array.from({ length: count }, (_, index) => `cpu:${index}`);
}

function deviceId(word: string): string {
  const name = word.toLowerCase();
  if (/^\d+$/.test(name)) return `cuda:${Number(name)}`;
  if (name === "cpu" || name === "cuda") return `${name}:0`;
  const match = /^(cpu|cuda):(\d+)$/.exec(name);
  if (match) return `${match[1]}:${Number(match[2])}`;
  throw new KvaError("usage", `--device ${word}: it takes GPU numbers (0 1 3), cuda:N or cpu`);
}

/**
 * The GPUs that open, as a child process sees them: a CUDA context takes some hundred MiB of the device and a driver may crash, so
 * both stay out of this process.
 */
export async function gpusHere(): Promise<DeviceEntry[]> {
  if (!process.env.KVACCEL_LIB && !existsSync(libraryPath("cuda"))) return [];
  const main = join(import.meta.dir, "..", "main.ts");
  const child = Bun.spawn([process.execPath, main, "devices", "--json"], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
    env: process.env,
  });
  const [output, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  if (code !== 0) return [];
  return (JSON.parse(output) as DeviceReport).devices.filter((device) => device.backend === "cuda");
}
