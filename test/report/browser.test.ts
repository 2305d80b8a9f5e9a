// The report as people use it: in a browser, from the file system, with a mouse, with the keyboard, in the dark, narrow, on paper.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import axe from "axe-core";
import type { Browser, Page } from "playwright-core";
import { bundledModel } from "../../src/model/locate.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { makeReport } from "../../src/report/report.ts";
import { hasBrowser, launch } from "../support/browser.ts";
import { folder } from "../support/folder.ts";
import { fixture } from "./fixture.ts";

const prompt = "The code of the lamp is 4711. The river was calm and the boat was old. What is the code?";
const promptTokens = loadTokenizer(bundledModel).encode(prompt).length;

function writeReport(path: string): string {
  const run = fixture({
    model: bundledModel,
    row: (row) => ({ ...row, prompt, refs: ["4711"], prompt_tokens: promptTokens }),
    kept: ({ method }) =>
      method === "Half"
        ? [
            ["0-3,7-9", "0-5"],
            ["0-3", `0-3,${promptTokens - 2}-${promptTokens - 1}`],
          ]
        : [["0"], ["1"]],
  });
  writeFileSync(path, makeReport([run]));
  return path;
}

describe.skipIf(!hasBrowser)("the report in a browser", () => {
  let browser: Browser;
  const own = mkdtempSync(join(tmpdir(), "kvaccel-page-"));
  beforeAll(async () => {
    browser = await launch();
    writeReport(join(own, "report.html"));
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(own, { recursive: true });
  });

  type Options = { width?: number; colorScheme?: "light" | "dark" };
  async function opened({ width = 1280, colorScheme = "light" }: Options, path = join(own, "report.html")) {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
    const faults: string[] = [];
    page.on("console", (message) => faults.push(message.text()));
    page.on("pageerror", (error) => faults.push(error.message));
    page.on("request", (request) => /^(file|data|blob):/.test(request.url()) || faults.push(request.url()));
    await page.goto(`file://${path}`);
    return { page, faults };
  }

  /** Findings of axe that are serious or worse, as rule and place. */
  async function findings(page: Page): Promise<string[]> {
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
    const bad = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
    return bad.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 200)}`));
  }

  test.each([
    ["light", 1280],
    ["dark", 1280],
    ["light", 390],
  ] as const)(
    "%s, %i wide: nothing is asked of a network, nothing is wrong, nothing sticks out",
    async (colorScheme, width) => {
      const { page, faults } = await opened({ colorScheme, width });
      for (const summary of await page.locator("summary").all()) await summary.click();
      const wide = await page.evaluate("document.documentElement.scrollWidth");
      expect(wide).toBeLessThanOrEqual(width);
      if (width > 1000) expect(await findings(page)).toEqual([]);
      expect(faults).toEqual([]);
      const surface = await page.evaluate("getComputedStyle(document.body).backgroundColor");
      expect(surface).toBe(colorScheme === "dark" ? "rgb(20, 23, 27)" : "rgb(255, 255, 255)");
      await page.close();
    },
  );

  test("a column is sorted with a click, and again the other way; screen readers are told", async () => {
    const { page } = await opened({});
    const table = page.locator("#accuracy-table-1");
    const head = table.locator("thead th").nth(1);
    const scores = () =>
      table
        .locator("tbody tr td:nth-child(2)")
        .evaluateAll((cells) =>
          cells.map((cell) => Number((cell as unknown as { dataset: { value: string } }).dataset.value)),
        );
    await head.locator("button").click();
    expect(await head.getAttribute("aria-sort")).toBe("ascending");
    expect(await scores()).toEqual([0, 100, 100]);
    await head.locator("button").click();
    expect(await head.getAttribute("aria-sort")).toBe("descending");
    expect(await scores()).toEqual([100, 100, 0]);
    await page.close();
  });

  test("the keyboard alone: skip link, sorting, unfolding, choosing a method", async () => {
    const { page } = await opened({});
    await page.keyboard.press("Tab");
    expect(await page.evaluate("document.activeElement.textContent")).toBe("To the results");
    await page.keyboard.press("Enter");
    expect(await page.evaluate("document.activeElement.id")).toBe("main");
    await page.locator("#accuracy-table-1 thead button").first().focus();
    await page.keyboard.press("Enter");
    expect(await page.locator("#accuracy-table-1 thead th").first().getAttribute("aria-sort")).toBe("ascending");
    await page.locator("#accuracy summary").focus();
    await page.keyboard.press("Space");
    expect(await page.locator("#accuracy-table-2").isVisible()).toBe(true);
    await page.locator("#kept-method").focus();
    await page.keyboard.press("ArrowDown");
    expect(await page.locator("#kept-said").textContent()).toStartWith("Half");
    await page.close();
  });

  test("a table is downloaded as CSV, in the order that it has on the page, values instead of texts", async () => {
    const { page } = await opened({});
    await page.locator("#accuracy-table-1 thead button").first().click();
    await page.locator("#accuracy-table-1 thead button").first().click();
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.locator("#accuracy .csv").first().click(),
    ]);
    expect(download.suggestedFilename()).toBe("accuracy-table-1.csv");
    const lines = readFileSync((await download.path())!, "utf8")
      .trim()
      .split("\n");
    expect(lines[0]).toBe("method,score_512,score_1024,n,time_ms");
    expect(lines.slice(1).map((line) => line.split(",").slice(0, 3).join())).toEqual([
      "Quarter,0,0",
      "Half,100,100",
      "Full,100,100",
    ]);
    await page.close();
  });

  test("kept tokens: one map at a time, the text under it marked by what the chosen layer and head hold", async () => {
    const { page } = await opened({});
    const visible = page.locator(".kept figure:visible");
    const text = page.locator(".kept-text");
    expect(await visible.count()).toBe(1);
    expect(await text.textContent()).toContain("The code of the lamp is 4711");
    await page.selectOption("#kept-method", { label: "Half" });
    expect(await visible.locator("figcaption").textContent()).toBe("Half, niah_single_2/512/0");
    expect(await text.locator(".answer").count()).toBeGreaterThan(0);
    const held = async () => (await text.locator(".held").allTextContents()).join("");
    const all = await held();
    await page.selectOption("#kept-head", { label: "layer 1, head 1" });
    expect((await held()).length).toBeLessThan(all.length);
    expect(await page.locator("#kept-said").textContent()).toContain(`layer 1, head 1: 6 of ${promptTokens} tokens`);
    expect(await held()).toEndWith("code?");
    await page.selectOption("#kept-sample", { label: "niah_single_2/1024/0" });
    expect(await visible.locator("figcaption").textContent()).toBe("Half, niah_single_2/1024/0");
    await page.close();
  });

  test("on paper every table is open and no button is left", async () => {
    const { page } = await opened({});
    await page.emulateMedia({ media: "print" });
    await page.evaluate("dispatchEvent(new Event('beforeprint'))");
    expect(await page.locator("details:not([open])").count()).toBe(0);
    expect(await page.locator(".csv:visible").count()).toBe(0);
    expect((await page.pdf({ format: "A4" })).length).toBeGreaterThan(10_000);
    await page.evaluate("dispatchEvent(new Event('afterprint'))");
    expect(await page.locator("details[open]").count()).toBe(0);
    await page.close();
  });

  test("the toolkit's matrix stays under 2 MB and opens at once", async () => {
    const labels = ["Full", ...Array.from({ length: 11 }, (_, at) => `Method${at + 1}`)];
    const tasks = Array.from({ length: 12 }, (_, at) => `task_${at + 1}`);
    const random = (row: { id: string; method: string }, at: number) =>
      Number(Bun.hash(`${row.id} ${row.method} ${at}`) % 7n);
    const run = fixture({
      labels,
      task: tasks[0],
      moreTasks: tasks.slice(1),
      lengths: [4096, 8192, 16384, 32768, 65536, 131072].map((length) => length / 64),
      samples: 10,
      results: false,
      row: (row) => ({
        ...row,
        length: row.length! * 64,
        score: random(row, 0) / 6,
        cache_bytes: row.cache_bytes * (1 + random(row, 1)),
      }),
      kept: (row) =>
        row.id.endsWith("/0")
          ? Array.from({ length: 32 }, (_, layer) =>
              Array.from({ length: 8 }, (_, head) => `0-3,${10 + random(row, layer + head)},40-53`),
            )
          : null,
    });
    const path = join(folder(), "report.html");
    writeFileSync(path, makeReport([run]));
    expect(statSync(path).size).toBeLessThan(2_000_000);
    const { page, faults } = await opened({}, path);
    expect(await page.locator("#accuracy-table-2 tbody tr").count()).toBe(12 * 6 * 12);
    expect(await page.locator("#kept-sample option").count()).toBeGreaterThan(0);
    expect(faults).toEqual([]);
    await page.close();
  });
});
