// Whole conversations in a real terminal: first run, cancel at each step, resume, no GPU, too little memory, broken plugin, hot reload.
import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { folder } from "../support/folder.ts";
import { pluginText } from "../support/plugin-files.ts";
import { hasTmux, steady, Tmux } from "../support/tmux.ts";

/** One sample of each of quick's tasks at 512 tokens: a run of a second. */
const machine: [string, ...string[]][] = [
  ["Model", "Enter"],
  ["Device", "Enter"],
  ["Precision", "Enter"],
];
const small: [string, ...string[]][] = [
  ["Benchmark", "Enter"],
  ["Lengths in tokens", "C-u", "5", "1", "2", "Enter"],
  ["Samples per task", "C-u", "1", "Enter"],
];
const method: [string, ...string[]][] = [
  ["Methods", "Space", "Enter"],
  ["Parameters", "Enter"],
];

/** Text without its spaces and line ends: a terminal breaks lines anywhere. */
const unwrapped = (text: string) => text.replaceAll(/\s+/g, "");

describe.skipIf(!hasTmux)("in a terminal of 80 columns", () => {
  test("the first run: questions, summary, live table, tables, the one command; then the same again from the start", async () => {
    const home = folder();
    using terminal = new Tmux(home, { rows: 40 });
    terminal.run("accel; echo code $?");
    await terminal.answers(...machine, ...method, ...small);
    const asked = await terminal.shows("◆  Start?");
    const chosen = /Methods, beside Full\n│ {2}(\S+)/.exec(asked)![1]!; // the first of its kind, whichever are there
    expect(steady(asked.slice(asked.indexOf("┌"))).replaceAll(chosen, "METHOD")).toMatchSnapshot();
    terminal.press("Enter");
    const ran = await terminal.shows(/code \d/);
    expect(ran).toContain("code 0");
    expect(ran).toContain("Accuracy: RULER (quick), tiny-ruler bfloat16, question aware");
    expect(ran).toContain("The same again: bun run accel run --model_path bundled --device cpu");
    expect(ran).not.toContain("p: pause"); // the live table is gone from the screen
    expect(Math.max(...ran.split("\n").map((line) => Bun.stringWidth(line)))).toBeLessThanOrEqual(80);

    terminal.run("clear; accel; echo again $?");
    await terminal.answers(["Start", "Enter"], ["Start?", "Enter"]);
    const again = await terminal.shows(/again \d/);
    expect(again).toContain("10 measurements, 10 of them done before");
    expect(again).toContain("again 0");
  });

  test("Ctrl-C at each question ends it with 130, and the shell is as before", async () => {
    using terminal = new Tmux(folder(), { rows: 50 });
    const steps = [...machine, ...method, ...small, ["Start?"] as [string]];
    for (const [count, [title]] of steps.entries()) {
      terminal.run(`clear; accel; echo code-${count}-$?`);
      await terminal.answers(...steps.slice(0, count));
      await terminal.shows(`◆  ${title}`);
      terminal.press("C-c");
      const text = await terminal.shows(new RegExp(`code-${count}-\\d`));
      expect(text).toContain(`code-${count}-130`);
      expect(text).toContain("ended, nothing was run");
    }
    terminal.run("stty -a | tr ';' '\\n' | grep -o ' icanon\\|-icanon'");
    await terminal.shows(/^ icanon/m);
  });

  test("q stops a run, which goes on where it was; p pauses it; s skips what is left of a cell", async () => {
    const home = folder();
    using terminal = new Tmux(home);
    const flags = "--acceleration SnapKV --num_samples 3 --length 1024 --output_path out";
    terminal.run(`accel run ${flags}; echo code $?`);
    await terminal.shows("p: pause");
    terminal.press("p");
    await terminal.shows("p: go on");
    await terminal.shows(/^paused$/m);
    terminal.press("q");
    const stopped = await terminal.shows(/code \d/);
    expect(stopped).toMatch(/Interrupted: \d+ measurements are left\. The same command goes on/);
    expect(stopped).toContain("code 130");
    terminal.run(`clear; accel run ${flags}; echo again $?`);
    await terminal.shows(/> Full +\d/);
    terminal.press("s");
    const ended = await terminal.shows(/again \d/);
    expect(ended).toMatch(/30 measurements, (\d+ of them done before|none done yet)/);
    expect(ended).toMatch(/Full, 1024: skipped after the sample that runs/);
    expect(ended).toMatch(/\d+ measurements were skipped; the same command runs them/);
    expect(ended).toContain("again 0");
  });

  test("no GPU: the wizard offers the CPU, and --device 0 says what to do", async () => {
    using terminal = new Tmux(folder());
    terminal.run("accel run --device 0; echo code $?");
    const text = await terminal.shows(/code \d/);
    expect(unwrapped(text)).toContain(
      unwrapped("accel: --device cuda:0: no GPU opens here; accel devices says why; --device cpu runs on the CPU"),
    );
    expect(text).toContain("code 1");
  });

  test("too little memory: said before the start where it is known, and as a cell of the table where it happens", async () => {
    using terminal = new Tmux(folder(), { rows: 40 });
    const flags = "--memory_limit 15MB --acceleration SnapKV --length 512,2048 --num_samples 1 --output_path out";
    terminal.run(`accel run ${flags} 2>errors; echo code $?`);
    const text = await terminal.shows(/code \d/);
    expect(text).toContain("code 0");
    expect(text).toMatch(/│ +2K │ +\d+ │ +- │/);
  });

  test("a broken plugin is named with its line and stops nothing; a hook that throws is a row, and exit 1", async () => {
    const home = folder();
    const plugins = join(home, "mine");
    mkdirSync(plugins);
    writeFileSync(join(plugins, "broken.ts"), "export default {{\n");
    const throwing = "() => ({ prefill() { throw new Error('no such rows'); } })";
    writeFileSync(join(plugins, "throws.ts"), pluginText({ name: "Throws", create: throwing }));
    using terminal = new Tmux(home, { rows: 40, env: { KVACCEL_PLUGIN_PATH: plugins } });
    terminal.run("accel; echo code $?");
    await terminal.answers(...machine);
    expect(await terminal.shows("◆  Methods")).toContain("broken.ts:1:17");
    terminal.press("C-c");
    await terminal.shows("code 130");
    terminal.run(
      "clear; accel run --acceleration Throws --length 512 --num_samples 1 --output_path out; echo thrown $?",
    );
    const text = unwrapped(await terminal.shows(/thrown \d/));
    for (const said of [
      "Throws, niah_single_2/512/0: error: Throws.prefill in layer 0 failed: no such rows",
      "5 measurements failed: their rows in out say why; the same command tries them again.",
      "thrown 1",
    ]) {
      expect(text).toContain(unwrapped(said));
    }
  });

  test("hot reload: --watch measures a saved plugin anew, names what is broken, and q ends it with the tables", async () => {
    const home = folder();
    const plugins = join(home, "mine");
    mkdirSync(plugins);
    const file = join(plugins, "mine.ts");
    writeFileSync(file, pluginText({ name: "Mine" }));
    using terminal = new Tmux(home, { rows: 40 });
    const flags = "--plugin_dir mine --acceleration Mine --length 512 --num_samples 1 --output_path out";
    terminal.run(`accel run --watch ${flags}; echo code $?`);
    await terminal.shows("all measured; a saved plugin file is measured anew");
    expect(JSON.parse(readFileSync(join(home, "out", "results.json"), "utf8")).cells.accuracy).toHaveLength(2);
    writeFileSync(file, `${pluginText({ name: "Mine" })}export {{\n`);
    await terminal.shows("Mine: its cells wait until the file loads");
    expect(terminal.screen()).toContain("mine.ts:12:9");
    writeFileSync(file, pluginText({ name: "Mine" }).replace("budget.rows(layer.length)", "17"));
    await terminal.shows("Mine: saved, its cells are measured anew");
    const lines = () =>
      readFileSync(join(home, "out", "samples_Mine_vt_512.jsonl"), "utf8")
        .trim()
        .split("\n").length;
    while (lines() < 3) await Bun.sleep(50); // measured, stale, measured anew
    await terminal.shows(/\] 10\/10[\s\S]*q: end/);
    terminal.press("q");
    const ended = await terminal.shows(/code \d/);
    expect(ended).toContain("code 0");
    expect(ended).toContain("Accuracy: RULER (quick)");
    const rows = readFileSync(join(home, "out", "samples_Mine_vt_512.jsonl"), "utf8")
      .trim()
      .split("\n");
    const [first, stale, second] = rows.map((line) => JSON.parse(line));
    expect([first.status, stale.status, second.status]).toEqual(["ok", "stale", "ok"]);
    expect(second.cache_bytes).toBeLessThan(first.cache_bytes / 4);
  });
});

describe.skipIf(!hasTmux)("other terminals", () => {
  test("NO_COLOR: no colour at all, and the same words", async () => {
    using terminal = new Tmux(folder(), { env: { NO_COLOR: "1" } });
    terminal.run("accel run --acceleration SnapKV --length 512 --num_samples 3 --watch --output_path out");
    await terminal.shows("all measured");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: sequences begin with ESC
    expect(terminal.colours().replaceAll(/\x1b\[0?m/g, "")).not.toContain("\x1b");
    terminal.press("q");
    await terminal.shows("Report, rows");
  });

  test("200 columns: the live table has room for cost figures, the tables are whole; a resize leaves no rubble", async () => {
    using terminal = new Tmux(folder(), { columns: 200, rows: 40 });
    terminal.run("accel run --acceleration SnapKV --length 512 --num_samples 3 --watch --output_path out");
    const wide = await terminal.shows("all measured");
    expect(wide).toMatch(/method +512 +cache +ms\/token +at/);
    terminal.resize(70, 40);
    await Bun.sleep(500);
    terminal.resize(200, 40);
    await Bun.sleep(500);
    expect(terminal.screen().match(/p: pause/g)).toHaveLength(1);
    terminal.press("q");
    expect(await terminal.shows("Report, rows")).toMatch(/ttft|TTFT/);
  });
});
