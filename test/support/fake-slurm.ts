// Slurm's commands as scripts in a folder: a job array is so many processes here. What they say comes from files beside them.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { folder } from "./folder.ts";

const scripts = {
  // starts each task in the background, with Slurm's variables and its log; `refusal` is what it says instead
  sbatch: `[ -f refusal ] && { cat refusal >&2; exit 1; }
script=$2; last=$(sed -n 's/^#SBATCH --array=0-//p' "$script"); log=$(sed -n 's/^#SBATCH --output=//p' "$script"); n=0
while [ $n -le $last ]; do
  file=$(echo $log | sed "s/%A/7/; s/%a/$n/")
  SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$n SLURMD_NODENAME=node$n bash "$script" >$file 2>&1 </dev/null &
  echo $! >pid-$n; n=$((n + 1))
done
echo 7`,
  squeue: `[ -f silence ] && exit 1
for file in pid-*; do [ -f $file ] && kill -0 $(cat $file) 2>/dev/null && echo "\${file#pid-}|RUNNING|node\${file#pid-}|None"; done
exit 0`,
  sacct: "[ -f accounts ] || exit 1; cat accounts",
  scontrol: "[ -f jobs ] || exit 1; cat jobs",
  scancel: 'echo "$@" >>cancelled',
};

/** Puts them on PATH until the function that it gives is called. `say` sets what a command says. */
export function fakeSlurm(without: (keyof typeof scripts)[] = []) {
  const dir = folder();
  for (const [name, text] of Object.entries(scripts)) {
    if (without.includes(name as keyof typeof scripts)) continue;
    writeFileSync(join(dir, name), `#!/bin/bash\ncd ${dir}\n${text}\n`, { mode: 0o755 });
  }
  const before = process.env.PATH;
  const path = `${dir}:${before}`;
  process.env.PATH = path;
  return {
    dir,
    path,
    say: (name: "refusal" | "silence" | "accounts" | "jobs", text: string) => writeFileSync(join(dir, name), text),
    remove() {
      process.env.PATH = before;
    },
  };
}
