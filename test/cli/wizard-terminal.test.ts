// The wizard on a terminal of 80 columns: keys in, screen out; back, cancel, and plugin files that come while it waits.
import { afterAll, beforeEach, expect, test } from "bun:test";
import { runWizard, type WizardOutcome } from "../../src/cli/prompts.ts";
import type { WizardFlags } from "../../src/cli/wizard-types.ts";
import { loadPlugins, type Registry } from "../../src/plugin/loader.ts";
import { PluginFolder, pluginText } from "../support/plugin-files.ts";
import { FakeTerminal } from "../support/terminal.ts";
import { wizardFacts } from "../support/wizard-facts.ts";

const folders: PluginFolder[] = [];
let folder: PluginFolder;
let registry: Registry;
let terminal: FakeTerminal;
let ending: Promise<WizardOutcome>;

beforeEach(async () => {
  folder = new PluginFolder();
  folders.push(folder);
  folder.write("snap.ts", pluginText({ name: "Snap" }));
  folder.write("stream.ts", pluginText({ name: "Stream" }));
  registry = await loadPlugins([folder.dir]);
  terminal = new FakeTerminal(80);
  ending = runWizard(wizardFacts(registry), terminal);
});
afterAll(() => {
  for (const one of folders) one[Symbol.dispose]();
});

async function toMethods(): Promise<void> {
  await terminal.shows("Model");
  await terminal.press("enter");
  await terminal.shows("Device");
  await terminal.press("enter");
  await terminal.shows("Precision");
  await terminal.press("enter");
  await terminal.shows("Methods, beside Full");
}

async function toSummary(): Promise<void> {
  await toMethods();
  await terminal.press("space enter");
  for (const question of ["Parameters", "Benchmark", "Lengths in tokens", "Samples per task"]) {
    await terminal.shows(question);
    await terminal.press("enter");
  }
  await terminal.shows("Start?");
}

test("a whole conversation, as it stands on the screen at its end", async () => {
  await toSummary();
  expect(terminal.output.widest()).toBeLessThanOrEqual(80);
  await terminal.press("enter");
  expect(await ending).toMatchObject({ end: "start", flags: { acceleration: ["Snap"], cfg_path: "quick" } });
  expect(terminal.output.text().replace(/ --plugin[\s\S]*?\n│/, " --plugin_dir DIR\n│")).toMatchSnapshot();
});

test("a plugin file dropped in while it waits appears in the list, and the choice stays", async () => {
  await toMethods();
  await terminal.press("down space");
  folder.write("newcomer.ts", pluginText({ name: "Newcomer" }));
  await terminal.shows("Newcomer");
  expect(terminal.output.text()).toMatchSnapshot();
  await terminal.press("enter");
  await terminal.shows("Parameters");
  expect(terminal.output.text()).toContain("│  Stream\n");
  await terminal.press("ctrl-c");
  expect(await ending).toEqual({ end: "cancelled" });
});

test("a broken file is named with its line, and is gone from the screen when it is mended", async () => {
  await toMethods();
  folder.write("broken.ts", "export default {{\n");
  await terminal.shows("broken.ts:1:17");
  expect(terminal.output.text()).toContain("Snap");
  folder.write("broken.ts", pluginText({ name: "Broken" }));
  await terminal.shows("Broken");
  expect(terminal.output.text()).not.toContain("broken.ts:1");
  await terminal.press("ctrl-c");
  await ending;
});

test("Esc goes one question back and takes both from the screen; at the first it ends", async () => {
  await toMethods();
  await terminal.press("esc");
  await terminal.shows("Precision");
  expect(terminal.output.text()).not.toContain("Methods");
  await terminal.press("esc");
  expect(terminal.output.text()).not.toContain("Precision");
  await terminal.press("esc");
  expect(terminal.output.text()).not.toContain("Device");
  expect(terminal.output.text().match(/Model/g)).toHaveLength(1);
  await terminal.press("esc");
  expect(await ending).toEqual({ end: "cancelled" });
});

test.each([0, 1, 2, 3, 4, 5, 6, 7])("Ctrl-C ends it at question %i", async (count) => {
  const titles = ["Model", "Device", "Precision", "Methods", "Parameters", "Benchmark", "Lengths", "Samples"];
  for (const title of titles.slice(0, count)) {
    await terminal.shows(title);
    await terminal.press(title === "Methods" ? "space enter" : "enter");
  }
  await terminal.shows(titles[count]!);
  await terminal.press("ctrl-c");
  expect(await ending).toEqual({ end: "cancelled" });
  expect(terminal.output.text()).toContain("ended, nothing was run");
});

test("a wrong value is refused as it is typed, and the question stays", async () => {
  await toMethods();
  await terminal.press("space enter");
  await terminal.shows("Parameters");
  await terminal.press("down enter");
  await terminal.shows("Rows kept per KV head");
  await terminal.press("ctrl-u 0 enter");
  await terminal.shows("snap.capacity: must be a whole number of rows of at least 1, not 0");
  await terminal.press("ctrl-u 128 enter");
  await terminal.shows("Benchmark");
  await terminal.press("ctrl-c");
  await ending;
});

test("Go back at the summary returns to the samples; End keeps the answers", async () => {
  await toSummary();
  await terminal.press("down enter");
  expect(terminal.output.text()).not.toContain("Summary");
  await terminal.press("enter");
  await terminal.shows("Start?");
  await terminal.press("down down enter");
  expect(await ending).toMatchObject({ end: "declined", answers: { methods: ["Snap"], "quick.num_samples": "2" } });
});

test("a setup is saved from the summary under a checked name; Esc there comes back to it", async () => {
  await terminal.press("ctrl-c");
  await ending;
  terminal = new FakeTerminal(80);
  const saved: [string, WizardFlags][] = [];
  const saveSetup = (name: string, flags: WizardFlags) => {
    saved.push([name, flags]);
    return `/setups/${name}.yaml`;
  };
  const setupNameProblem = (name: string) => (/^\w+$/.test(name) ? undefined : "no such name");
  ending = runWizard(wizardFacts(registry, { saveSetup, setupNameProblem }), terminal);
  await toSummary();
  await terminal.press("down enter");
  await terminal.shows("Name of the setup");
  await terminal.press("esc");
  await terminal.shows("Start?");
  await terminal.press("down enter");
  await terminal.shows("Name of the setup");
  await terminal.press("? enter");
  await terminal.shows("no such name");
  await terminal.press("ctrl-u mine enter");
  await terminal.shows("saved as mine (/setups/mine.yaml); accel run --cfg_path mine runs it");
  expect(saved).toMatchObject([["mine", { acceleration: ["Snap"], cfg_path: "quick" }]]);
  await terminal.press("enter");
  expect(await ending).toMatchObject({ end: "start" });
});

test("the first question does not wait for the facts of the others", async () => {
  await terminal.press("ctrl-c");
  await ending;
  terminal = new FakeTerminal(80);
  const { promise, resolve } = Promise.withResolvers<void>();
  ending = runWizard(wizardFacts(registry, { ready: promise }), terminal);
  await terminal.shows("Model");
  await terminal.press("enter");
  expect(terminal.output.text()).not.toContain("Device");
  resolve();
  await terminal.shows("Device");
  await terminal.press("ctrl-c");
  await ending;
});

test("a long list of compositions can be searched by typing", async () => {
  await terminal.press("ctrl-c");
  await ending;
  const kind = (name: string, category: string) =>
    folder.write(
      `${name.toLowerCase()}.ts`,
      pluginText({ name, category, params: "", more: "", create: "() => ({ prefill() {} })" }),
    );
  for (let n = 0; n < 8; n++) kind(`Keeps${n}`, "eviction");
  for (let n = 0; n < 2; n++) kind(`Bits${n}`, "quantization");
  registry = await loadPlugins([folder.dir]);
  terminal = new FakeTerminal(80);
  ending = runWizard(wizardFacts(registry), terminal);
  await toMethods();
  await terminal.press("a enter");
  await terminal.shows("Also together");
  await terminal.press("Keeps5+Bits1");
  await terminal.press("tab enter");
  for (const question of ["Parameters", "Benchmark", "Lengths in tokens", "Samples per task", "Start?"]) {
    await terminal.shows(question);
    await terminal.press("enter");
  }
  expect(terminal.output.widest()).toBeLessThanOrEqual(80);
  const outcome = (await ending) as Extract<WizardOutcome, { end: "start" }>;
  expect(outcome.flags.acceleration.filter((text) => text.includes("+"))).toEqual(["Keeps5+Bits1"]);
});

test("a narrow terminal wraps nothing past its edge", async () => {
  await terminal.press("ctrl-c");
  await ending;
  terminal = new FakeTerminal(56);
  ending = runWizard(wizardFacts(registry), terminal);
  await toSummary();
  expect(terminal.output.widest()).toBeLessThanOrEqual(56);
  await terminal.press("ctrl-c");
  await ending;
});
