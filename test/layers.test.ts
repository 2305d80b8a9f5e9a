// Who may import whom, type imports included; and that nothing in src/ names a plugin.
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";

const root = join(import.meta.dir, "..");
const files = (folder: string): string[] =>
  (readdirSync(join(root, folder), { recursive: true }) as string[])
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(folder, name))
    .sort();
const text = (file: string): string => readFileSync(join(root, file), "utf8");

/** What a file imports or re-exports, type imports too: relative ones as paths from the root. */
function imports(file: string): string[] {
  const found = [...text(file).matchAll(/(?:\bfrom\s*|\bimport\s*\(\s*|^import\s+)"([^"]+)"/gm)].map(([, to]) => to!);
  return found.map((to) => (to.startsWith(".") ? relative(root, resolve(root, file, "..", to)) : to));
}
const layerOf = (path: string): string => /^src\/(?:(\w+)\/|)/.exec(path)?.[1] ?? "top";

/** Each layer may use itself and those named here; `top` is src/*.ts. */
const mayUse: Record<string, readonly string[]> = {
  top: ["cli", "bench", "check", "engine", "model", "native", "plugin"],
  cli: ["report", "bench", "check", "engine", "model", "native", "plugin"],
  check: ["bench", "engine", "model", "native", "plugin"],
  report: ["bench", "engine", "model", "native"],
  bench: ["engine", "model", "native", "plugin"],
  engine: ["model", "native", "plugin"],
  model: ["native"],
  native: [],
  plugin: [],
};

/** Single files beside those: the shape of a method as the engine takes it, the one class of errors, the nearest name to offer. */
const exceptions: Record<string, readonly string[]> = {
  plugin: ["src/engine/protocol.ts", "src/native/error.ts"],
  model: ["src/plugin/nearest.ts"],
  report: ["src/plugin/nearest.ts"],
};

const sources = files("src");

describe("the source", () => {
  test("is there", () => {
    expect(sources.length).toBeGreaterThan(50);
    expect(new Set(sources.map(layerOf))).toEqual(new Set(Object.keys(mayUse)));
  });

  test("imports only from the layers below", () => {
    const wrong = sources.flatMap((file) =>
      imports(file)
        .filter((to) => to.startsWith("src/"))
        .filter((to) => {
          const [layer, target] = [layerOf(file), layerOf(to)];
          return layer !== target && !mayUse[layer]!.includes(target) && !exceptions[layer]?.includes(to);
        })
        .map((to) => `${file} -> ${to}`),
    );
    expect(wrong).toEqual([]);
  });

  test("imports nothing from the tests, the plugins or the scripts", () => {
    const wrong = sources.flatMap((file) =>
      imports(file)
        .filter((to) => /^(\.\.|test|plugins|scripts|benchmarks)\b/.test(to))
        .map((to) => `${file} -> ${to}`),
    );
    expect(wrong).toEqual([]);
  });

  test("opens the native library in one file, and takes no more than types from bun:ffi elsewhere", () => {
    const users = sources.filter((file) => imports(file).includes("bun:ffi"));
    const values = users.filter((file) => !/import type \{[^}]*\} from "bun:ffi"/.test(text(file)));
    expect(values).toEqual(["src/native/library.ts"]);
    expect(users.every((file) => file.startsWith("src/native/"))).toBe(true);
  });

  test("gives plugin authors a door that needs no engine", () => {
    const seen = new Set<string>();
    const visit = (file: string): void => {
      if (seen.has(file)) return;
      seen.add(file);
      for (const to of imports(file)) if (to.startsWith("src/")) visit(to);
    };
    visit("src/plugin/index.ts");
    expect([...seen].filter((file) => layerOf(file) !== "plugin")).toEqual([]);
  });

  test("decides nothing by a plugin's name: only the prose of help and errors gives examples", () => {
    const plain = (code: string) => code.toLowerCase().replaceAll(/[-_]/g, "");
    const names = files("plugins").map((file) => plain(basename(file, ".ts")));
    const methods = names.filter((name) => name !== "full"); // an ordinary word
    const wrong = sources.flatMap((file) => {
      const code = plain(withoutProse(text(file))).replaceAll(/request|question/g, ""); // ordinary words that hold a name
      return methods.filter((name) => code.includes(name)).map((name) => `${file}: ${name}`);
    });
    expect(wrong).toEqual([]);
  });
});

/** Code without comments and without the literals that are sentences or examples (`snapkv.capacity=1024`), not values. */
function withoutProse(code: string): string {
  return code
    .replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$|\s\/\/ .*$/gm, "")
    .replaceAll(/`(?:\\.|[^`\\])*`|"(?:\\.|[^"\\\n])*"/g, (literal) => (/[\s=]/.test(literal) ? '""' : literal));
}

describe("a plugin", () => {
  test.each(files("plugins"))("%s imports kvaccel/plugin and nothing else", (file) => {
    expect(new Set(imports(file))).toEqual(new Set(["kvaccel/plugin"]));
  });
});

describe("native files", () => {
  const native = (readdirSync(join(root, "cuda"), { recursive: true }) as string[]).filter((name) =>
    /\.(c|h|cpp|cu|cuh)$/.test(name),
  );
  const includes = (file: string): string[] =>
    [...text(join("cuda", file)).matchAll(/^#include "([^"]+)"/gm)].map(([, to]) =>
      relative(join(root, "cuda"), resolve(root, "cuda", file, "..", to!)),
    );
  const folderOf = (file: string): string => file.split("/")[0]!;
  /** api -> ops -> core, kernels -> device; a unit's own helper header stands beside it */
  const may: Record<string, readonly string[]> = {
    api: ["api", "ops", "core", "include"],
    ops: ["ops", "core", "device", "include"],
    device: ["device", "core", "ops"],
    core: ["core", "include", "ops"],
    include: [],
  };

  test("include only from the layers below", () => {
    expect(native.length).toBeGreaterThan(20);
    const wrong = native
      .filter((file) => folderOf(file) in may)
      .flatMap((file) =>
        includes(file)
          .filter((to) => !may[folderOf(file)]!.includes(folderOf(to)))
          .map((to) => `${file} -> ${to}`),
      );
    expect(wrong).toEqual([]);
  });

  test("an op includes no other op's source", () => {
    const sourcesIncluded = native.flatMap((file) =>
      includes(file)
        .filter((to) => /\.(cpp|cu)$/.test(to))
        .map((to) => `${file} -> ${to}`),
    );
    expect(sourcesIncluded).toEqual([]);
  });

  test("the public header includes <stdint.h> and nothing else", () => {
    const lines = text("cuda/include/kvaccel.h").match(/^#include .*$/gm);
    expect(lines).toEqual(["#include <stdint.h>"]);
  });
});
