// A headless Chromium for pages of the file system. Where there is none, its tests are left out, unless KVACCEL_BROWSER=required.
import { type Browser, chromium } from "playwright-core";

const found =
  process.env.CHROMIUM ??
  ["chromium", "chromium-browser", "google-chrome"].map((name) => Bun.which(name)).find(Boolean);

if (!found && process.env.KVACCEL_BROWSER === "required") {
  throw new Error(
    "KVACCEL_BROWSER=required, and no Chromium was found: apt-get install chromium, or set CHROMIUM to one",
  );
}
export const hasBrowser = Boolean(found);
if (!hasBrowser) console.error("no Chromium was found: the tests of the report in a browser are left out");

export function launch(): Promise<Browser> {
  const quiet = ["no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"];
  return chromium.launch({
    executablePath: found!,
    args: ["--no-sandbox", "--disable-gpu", ...quiet.map((flag) => `--${flag}`)],
  });
}
