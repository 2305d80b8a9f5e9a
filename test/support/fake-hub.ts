// A Hugging Face hub on the loopback interface, with the answers that the client asks for, and transfers that break as told.
import { createHash } from "node:crypto";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface FakeHub {
  url: string;
  /** `GET path range`, in order */
  requests: string[];
  /** what happens to the next transfers of a file, one after another */
  faults: Map<string, Fault[]>;
  close(): Promise<void>;
}

/**
 * cut: the connection breaks after so many bytes; stall: nothing comes after them; spoil: all bytes, the first of them wrong;
 * status: that answer.
 */
export type Fault = { cut: number } | { stall: number } | { spoil: true } | { status: number };

export interface FakeRepo {
  name: string;
  commit: string;
  files: Readonly<Record<string, Uint8Array>>;
  /** whoever does not send it is refused */
  token?: string;
}

const gitHash = (data: Uint8Array) => createHash("sha1").update(`blob ${data.length}\0`).update(data).digest("hex");
const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");
const isLarge = (path: string) => /\.(safetensors|gguf)$/.test(path);

function entry(path: string, data: Uint8Array) {
  const common = { type: "file", path, size: data.length, oid: gitHash(data) };
  return isLarge(path) ? { ...common, lfs: { oid: sha256(data), size: data.length, pointerSize: 130 } } : common;
}

/** The name under which the cache keeps a file. */
export const blobName = (path: string, data: Uint8Array): string => (isLarge(path) ? sha256(data) : gitHash(data));

export async function openHub(repo: FakeRepo): Promise<FakeHub> {
  const requests: string[] = [];
  const faults = new Map<string, Fault[]>();
  const json = (response: ServerResponse, value: unknown, status = 200) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(value));
  };

  function send(response: ServerResponse, path: string, range: string | undefined): void {
    const data = repo.files[path];
    if (!data) {
      json(response, { error: "Entry not found" }, 404);
      return;
    }
    const [, first = "0", last = ""] = /^bytes=(\d+)-(\d*)$/.exec(range ?? "") ?? [];
    const begin = Number(first);
    const end = last === "" ? data.length : Math.min(data.length, Number(last) + 1);
    const piece = data.slice(begin, end);
    const probe = end - begin === 1 && data.length > 1;
    const fault = probe ? undefined : faults.get(path)?.shift();
    if (fault && "status" in fault) {
      json(response, { error: "not now" }, fault.status);
      return;
    }
    if (fault && "spoil" in fault) piece[0]! ^= 1;
    response.writeHead(range === undefined ? 200 : 206, {
      etag: `"${blobName(path, data)}"`,
      "content-length": piece.length,
      ...(range !== undefined && { "content-range": `bytes ${begin}-${end - 1}/${data.length}` }),
    });
    if (!fault || "spoil" in fault) return void response.end(piece);
    if ("stall" in fault) return void response.write(piece.subarray(0, fault.stall));
    if ("cut" in fault)
      response.write(piece.subarray(0, fault.cut), () => setTimeout(() => response.socket?.destroy(), 20));
  }

  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url!, "http://hub");
    const { range, authorization } = request.headers;
    requests.push(`${request.method} ${pathname}${range ? ` ${range}` : ""}`);
    if (repo.token !== undefined && authorization !== `Bearer ${repo.token}`) {
      return json(response, { error: "Access to this model is restricted" }, 401);
    }
    const revisions = [repo.commit, "main"];
    const model = new RegExp(`^/api/models/${repo.name}/(revision|tree)/([^/]+)$`).exec(pathname);
    const file = new RegExp(`^/${repo.name}/resolve/([^/]+)/(.+)$`).exec(pathname);
    if (model && revisions.includes(model[2]!)) {
      if (model[1] === "revision")
        return json(response, { _id: "1", id: repo.name, sha: repo.commit, lastModified: "2026-01-01" });
      return json(
        response,
        Object.entries(repo.files).map(([path, data]) => entry(path, data)),
      );
    }
    if (file && revisions.includes(file[1]!)) return send(response, decodeURIComponent(file[2]!), range);
    json(response, { error: "Repository not found" }, 404);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    faults,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
