// How the measurements run an engine: all that is not the model and the device.
export const engineOptions = {
  dtype: "bfloat16",
  prefillChunk: 4096,
  threads: 0,
  memoryLimit: 0,
  graphs: true,
} as const;
