// Pictures of the terminal for docs/images: the methods' question at 80 columns on black, a run at 200 on white. Needs tmux and Chromium.
import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { launch } from "../test/support/browser.ts";
import { Tmux } from "../test/support/tmux.ts";

interface Theme {
  page: string;
  text: string;
  /** of the eight ANSI colours, by code 30 to 37 */
  colours: string[];
}

const dark: Theme = {
  page: "#16181c",
  text: "#d8dbe0",
  colours: ["#16181c", "#f0655f", "#6bbf59", "#d7b13f", "#6ea8f0", "#c586d8", "#4fc1c1", "#d8dbe0"],
};
const light: Theme = {
  page: "#ffffff",
  text: "#20242a",
  colours: ["#20242a", "#b3261e", "#2c7a1f", "#8a6d00", "#1f5fb0", "#8a3ba0", "#0f7c7c", "#8b9098"],
};

const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;" };

/** A captured window as HTML: weights, dimming, underline and the eight colours. */
function html(captured: string, theme: Theme): string {
  const style = { bold: false, dim: false, underline: false, colour: "" };
  const take = (code: number): void => {
    if (code === 0) Object.assign(style, { bold: false, dim: false, underline: false, colour: "" });
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 4) style.underline = true;
    else if (code === 22) Object.assign(style, { bold: false, dim: false });
    else if (code === 24) style.underline = false;
    else if (code === 39) style.colour = "";
    else if (code >= 30 && code <= 37) style.colour = theme.colours[code - 30]!;
    else if (code === 90) style.colour = theme.colours[7]!;
  };
  // biome-ignore lint/suspicious/noControlCharactersInRegex: sequences begin with ESC
  const pieces = captured.trimEnd().matchAll(/\x1b\[([\d;]*)m|([^\x1b]+)/g);
  const spans = [...pieces].map(([, codes, text]) => {
    if (text === undefined) {
      for (const code of (codes || "0").split(";")) take(Number(code));
      return "";
    }
    const css = [
      style.bold ? "font-weight:700" : "",
      style.dim ? "opacity:.6" : "",
      style.underline ? "text-decoration:underline" : "",
      style.colour ? `color:${style.colour}` : "",
    ].filter((rule) => rule !== "");
    return `<span style="${css.join(";")}">${text.replaceAll(/[&<]/g, (character) => entities[character]!)}</span>`;
  });
  const box = `display:inline-block;margin:0;padding:14px 18px;background:${theme.page};color:${theme.text}`;
  return `<body style="margin:0"><pre style="${box};font:14px/1.25 'DejaVu Sans Mono',monospace">${spans.join("")}</pre>`;
}

const images = join(import.meta.dir, "..", "docs", "images");
mkdirSync(images, { recursive: true });
const browser = await launch();

async function picture(name: string, terminal: Tmux, theme: Theme): Promise<void> {
  const page = await browser.newPage();
  await page.setContent(html(terminal.colours(), theme));
  await page.locator("pre").screenshot({ path: join(images, name) });
  await page.close();
}

const folder = () => mkdtempSync(join(tmpdir(), "kvaccel-pictures-"));
{
  using terminal = new Tmux(folder(), { rows: 34 });
  terminal.run("clear; accel");
  await terminal.answers(["Model", "Enter"], ["Device", "Enter"], ["Precision", "Enter"]);
  await terminal.shows("◆  Methods");
  terminal.press("Down", "Space", "Down");
  await Bun.sleep(300);
  await picture("wizard-80.png", terminal, dark);
  terminal.press("C-c");
}
for (const [name, columns, theme] of [
  ["run-80.png", 80, dark],
  ["run-200.png", 200, light],
] as const) {
  using terminal = new Tmux(folder(), { columns, rows: 24 });
  terminal.run("clear; accel run --acceleration SnapKV,PyramidKV,H2O,StreamingLLM,KIVI,SnapKV+KIVI --output_path out");
  await terminal.shows(/> H2O +· +· +\d/, 90_000);
  await picture(name, terminal, theme);
  terminal.press("q");
}
await browser.close();
