// From --gp_num and a list of devices to model copies: groups of devices that share a model's layers, or workers that share a device.
import { KvaError } from "../native/error.ts";

export interface Placement {
  /** devices of one model copy, `cuda:0` or `cuda:0+cuda:1`; one entry for each group */
  groups: string[];
  /** workers that share each device and its weights */
  copies: number;
}

/** `2`: devices per model, in contiguous groups; `1/2`: two workers per device, which share its weights. */
export function placeModels(devices: readonly string[], gpNum: string | undefined): Placement {
  const written = gpNum ?? "1";
  const [, above, , below] = /^(\d+)(\/(\d+))?$/.exec(written) ?? [];
  const [size, copies] = [Number(above), Number(below ?? 1)];
  if (!above || size < 1 || copies < 1) {
    throw new KvaError("usage", `--gp_num ${written}: it takes devices per model, as 2, or copies per device, as 1/2`);
  }
  if (size > 1 && copies > 1) {
    throw new KvaError(
      "usage",
      `--gp_num ${written}: a model takes whole devices (${size}), or ${copies} models share one (1/${copies}); not both`,
    );
  }
  const count = devices.length;
  if (size > count)
    throw new KvaError("usage", `--gp_num ${written}: there ${are(count)}; ${sizesThatFit(count, size)}`);
  if (count % size !== 0) {
    throw new KvaError(
      "usage",
      `--gp_num ${written}: ${count} devices do not make whole groups of ${size}; ${sizesThatFit(count, size)}`,
    );
  }
  const backends = new Set(devices.map((device) => device.split(":")[0]));
  if (size > 1 && backends.size > 1) {
    throw new KvaError(
      "usage",
      `--gp_num ${written}: one model lies on GPUs or on the CPU, not on ${devices.join(" and ")}`,
    );
  }
  const groups = Array.from({ length: count / size }, (_, g) => devices.slice(g * size, (g + 1) * size).join("+"));
  return { groups, copies };
}

const are = (count: number) => (count === 1 ? "is 1 device" : `are ${count} devices`);

/** Names the nearest sizes that divide the devices, or another number of devices. */
function sizesThatFit(count: number, size: number): string {
  const divisors = Array.from({ length: count }, (_, i) => i + 1).filter((n) => count % n === 0);
  const below = divisors.findLast((n) => n < size);
  const above = divisors.find((n) => n > size);
  const sizes = [below, above].filter((n) => n !== undefined).join(" or ");
  const fewer = count - (count % size);
  const more = count + size - (count % size);
  const counts = [fewer, more].filter((n) => n > 0 && n !== count).join(" or ");
  return `with ${count}, --gp_num ${sizes} fits; --gp_num ${size} fits ${counts} devices`;
}
