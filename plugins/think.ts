// ThinK (Xu et al. 2024, arXiv:2407.21018): channels of the keys that the last queries hardly meet are dropped.
import { definePlugin, param } from "kvaccel/plugin";

export default definePlugin({
  name: "ThinK",
  about: "drops the key channels in which queries and keys have the least energy",
  paper: "https://arxiv.org/abs/2407.21018",
  category: "channels",

  params: {
    ratio: param.number({ default: 0.4, min: 0, max: 0.99, about: "share of the channels that go" }),
    recent: param.int({ default: 32, min: 0, about: "last rows of the prompt whose keys stay whole" }),
    maskScope: param.choice({
      choices: ["kv_head"],
      default: "kv_head",
      about: "whose channels are chosen together: keys are stored once for each KV head",
    }),
    obsWindow: param.int({ default: 32, min: 1, about: "rows at the end of the prompt whose queries weigh channels" }),
  },
  presets: {
    half: { ratio: 0.5 },
  },

  expectedStorage({ ratio, recent }, before, { headDim }) {
    const { rows, elementBytes } = before;
    const channels = headDim - Math.floor(ratio * headDim);
    if (channels === headDim || rows <= recent) return before;
    const padded = Math.ceil(channels / 8) * 8;
    return {
      ...before,
      keyChannels: channels,
      keyBytes: ((rows - recent) * padded + recent * headDim) * elementBytes + 2 * channels,
    };
  },

  create({ ratio, recent, obsWindow }) {
    return {
      needs: { queryRing: obsWindow },

      prefill(layer, ops) {
        const dropped = Math.floor(ratio * layer.headDim);
        if (dropped === 0 || layer.length <= recent) return;
        const scores = ops.channelScores(layer.queries(obsWindow)); // the norm of a rank-one product is that of its factors
        layer.keepChannels(ops.topk(scores, layer.headDim - dropped), { last: recent });
      },
    };
  },
});
