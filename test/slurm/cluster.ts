// A Slurm cluster on this machine: munged, slurmctld and a slurmd for each node, with ports and files of their own.
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";

export interface Cluster {
  /** for Slurm's commands, and what calls them */
  env: Record<string, string>;
  stop(): Promise<void>;
}

const programs = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "unshare"];
/** Debian keeps daemons there, off the path of users */
const path = `${process.env.PATH}:/usr/sbin:/sbin`;

/**
 * Nodes node1 and node2 (partition main), and node3 (partition apart) on which `hidden` is an empty folder, as a disk that it does not
 * share. Throws where a program is not installed.
 */
export async function startCluster(hidden: string): Promise<Cluster> {
  const missing = programs.filter((name) => Bun.which(name, { PATH: path }) === null);
  if (missing.length > 0) {
    throw new Error(
      `${missing.join(", ")}: not installed. On Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge`,
    );
  }
  const folder = mkdtempSync(join(tmpdir(), "kvaccel-cluster-"));
  const at = (name: string) => join(folder, name);
  for (const name of ["state", "node1", "node2", "node3"]) mkdirSync(at(name));
  writeFileSync(at("key"), crypto.getRandomValues(new Uint8Array(128)), { mode: 0o600 });
  chmodSync(folder, 0o711); // munged wants its socket where all may reach it, and nobody else may write
  const port = 20_000 + (process.pid % 3000) * 4;
  const user = (await Bun.$`id -un`.text()).trim();
  writeFileSync(
    at("slurm.conf"),
    `ClusterName=kvaccel-test
SlurmctldHost=${hostname()}(127.0.0.1)
SlurmctldPort=${port}
SlurmUser=${user}
SlurmdUser=${user}
AuthType=auth/munge
AuthInfo=socket=${at("munge.socket")}
StateSaveLocation=${at("state")}
SlurmdSpoolDir=${at("%n")}
SlurmctldPidFile=${at("slurmctld.pid")}
SlurmdPidFile=${at("slurmd-%n.pid")}
SlurmctldLogFile=${at("slurmctld.log")}
SlurmdLogFile=${at("slurmd-%n.log")}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
MpiDefault=none
KillWait=2
NodeName=node[1-3] NodeHostname=${hostname()} NodeAddr=127.0.0.1 Port=[${port + 1}-${port + 3}] CPUs=1 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES State=UP
PartitionName=apart Nodes=node3 State=UP
`,
  );
  const env = { SLURM_CONF: at("slurm.conf"), PATH: path };
  const start = (...words: string[]) => {
    const log = Bun.file(at(`${words.at(-1)!.split("/").at(-1)}.log`));
    return Bun.spawn(words, { stdin: "ignore", stdout: log, stderr: log, env: { ...process.env, ...env } });
  };
  const munge = [
    "key-file=key",
    "socket=munge.socket",
    "pid-file=munge.pid",
    "log-file=munge.log",
    "seed-file=munge.seed",
  ];
  const daemons = [
    start("munged", "--foreground", ...munge.map((word) => `--${word.replace("=", `=${folder}/`)}`)),
    start("slurmctld", "-D"),
    start("slurmd", "-D", "-N", "node1"),
    start("slurmd", "-D", "-N", "node2"),
    start("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec slurmd -D -N node3', hidden),
  ];
  const stop = async () => {
    for (const daemon of daemons.toReversed()) {
      daemon.kill("SIGTERM");
      if ((await Promise.race([daemon.exited, Bun.sleep(5000)])) === undefined) daemon.kill("SIGKILL");
      await daemon.exited;
    }
    rmSync(folder, { recursive: true });
  };
  for (let second = 0; second < 20; second += 0.5) {
    const idle = await Bun.$`sinfo -h -N -o %N -t idle`
      .env({ ...process.env, ...env })
      .quiet()
      .nothrow()
      .text();
    if (idle.trim().split("\n").length === 3) return { env, stop };
    await Bun.sleep(500);
  }
  const logs = await Bun.$`tail -n 5 ${folder}/*.log`.quiet().nothrow().text();
  await stop();
  throw new Error(`the nodes did not come up in 20 s: ${logs}`);
}
