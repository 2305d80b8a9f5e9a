// The file itself: hostile text stays text, nothing points outside, it is small, and the same runs give the same bytes.
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseHTML } from "linkedom";
import { makeReport } from "../../src/report/report.ts";
import { accel } from "../support/accel.ts";
import { folder } from "../support/folder.ts";
import { fixture, outOfMemory } from "./fixture.ts";

const hostile = `</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;`;

describe("hostile text", () => {
  const page = () =>
    makeReport([
      fixture({
        labels: ["Full", hostile, "Quarter"],
        name: "<b>run</b>".replace("/", "_"),
        benchmark: hostile,
        row: (row) =>
          row.method === "Quarter" ? outOfMemory(row, hostile) : { ...row, refs: ["1"], prompt: `1${hostile}` },
      }),
    ]);

  test("makes no element and ends no script", () => {
    const html = page();
    const { document } = parseHTML(html);
    const count = (selector: string) => document.querySelectorAll(selector).length;
    expect([count("script"), count("img"), count("b")]).toEqual([1, 0, 0]);
    expect(html.replaceAll(/"[^"]*"/g, "").match(/<(script|img|b)\b/g)).toEqual(["<script"]);
    const names = [...document.querySelectorAll("*")].flatMap((one) => one.getAttributeNames());
    expect(names.filter((name) => name.startsWith("on"))).toEqual([]);
  });

  test("is shown as it is", () => {
    const { document } = parseHTML(page());
    const shown = (selector: string): string[] =>
      [...document.querySelectorAll(selector)].map((one) => one.textContent ?? "");
    expect(shown("figcaption")).toContain(hostile);
    expect(shown("#accuracy tbody th")).toContain(hostile);
    expect(shown("#failures td")).toContain(hostile);
  });
});

test("nothing in the file points outside of it", () => {
  const html = makeReport([fixture()]);
  expect(html).toContain("default-src 'none'");
  const { document } = parseHTML(html);
  for (const attribute of ["src", "href", "srcset", "data", "action", "xlink:href"]) {
    for (const one of document.querySelectorAll(`[${attribute.replace(":", "\\:")}]`)) {
      expect(one.getAttribute(attribute)).toMatch(/^(#[\w-]+|data:,)$/);
    }
  }
  expect(html).not.toMatch(/https?:|@import|url\(|fetch\(|XMLHttpRequest/);
});

test("every chart has words for those who cannot see it, and every section a table or a reason", () => {
  const { document } = parseHTML(makeReport([fixture()]));
  const charts = [...document.querySelectorAll("svg")];
  expect(charts.length).toBe(3 + 2 + 2 + 2 + 4);
  for (const chart of charts) {
    expect(chart.getAttribute("role")).toBe("img");
    expect(chart.getAttribute("aria-label")!.length).toBeGreaterThan(20);
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  expect(new Set(ids).size).toBe(ids.length);
  for (const link of document.querySelectorAll("nav a, a.skip"))
    expect(ids).toContain(link.getAttribute("href")!.slice(1));
  for (const button of document.querySelectorAll("button.csv"))
    expect(ids).toContain(button.getAttribute("data-table")!);
  for (const head of document.querySelectorAll("thead th")) expect(head.querySelector("button")).not.toBeNull();
});

test("the toolkit's matrix stays below 2 MB", () => {
  const labels = ["Full", ...Array.from({ length: 19 }, (_, at) => `Composition${at}+AnotherMethod${at}`)];
  const lengths = [4096, 8192, 16384, 32768, 65536, 131072];
  const html = makeReport([fixture({ labels, lengths, samples: 2 })]);
  expect(html.length).toBeGreaterThan(100_000);
  expect(html.length).toBeLessThan(2_000_000);
}, 120_000);

test("same runs, same bytes", () => {
  const path = fixture();
  expect(makeReport([path])).toBe(makeReport([path]));
});

/** makeReport's bytes in a process of its own: Plot draws half a pixel apart where it takes its process for a test runner's. */
function madeElsewhere(path: string): string {
  const source = join(import.meta.dir, "..", "..", "src", "report", "report.ts");
  const code = `const { makeReport } = await import(process.argv[1]); await Bun.write(Bun.stdout, makeReport([process.argv[2]]));`;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", code, source, path]);
  expect(stderr.toString()).toBe("");
  return stdout.toString();
}

describe("accel report", () => {
  test("writes into the run's directory, says where, and keeps everything else", async () => {
    const path = fixture();
    const before = readFileSync(join(path, "results.json"), "utf8");
    const { code, out } = await accel("report", path);
    expect([code, out]).toEqual([0, `${join(path, "report.html")}\n`]);
    expect(readFileSync(join(path, "report.html"), "utf8")).toBe(madeElsewhere(path));
    expect(readFileSync(join(path, "results.json"), "utf8")).toBe(before);
  });

  test("puts several runs into one file", async () => {
    const file = join(folder(), "both", "compared.html");
    const { code } = await accel("report", fixture({ name: "a" }), fixture({ name: "b" }), "--output_path", file);
    expect(code).toBe(0);
    const html = readFileSync(file, "utf8");
    expect(html).toContain("Half (a)");
    expect(html).toContain("Half (b)");
  });

  test("names what is not a run, and a file that cannot be written", async () => {
    const nothing = await accel("report", join(folder(), "none"));
    expect(nothing.code).toBe(2);
    expect(nothing.err).toContain("give a run directory");
    const file = join(folder(), "file");
    writeFileSync(file, "");
    const unwritable = await accel("report", fixture(), "--output_path", join(file, "report.html"));
    expect(unwritable.code).toBe(1);
    expect(unwritable.err).toContain("cannot be written");
  });
});
