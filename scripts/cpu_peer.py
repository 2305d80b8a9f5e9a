# Times a checkpoint in PyTorch's CPU build through transformers, as scripts/cpu-peer.sh runs it beside ours: prompts and new tokens, one JSON line.
# usage: cpu_peer.py MODEL THREADS DTYPE
import json
import statistics
import sys
import time

import torch
from transformers import AutoConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache


@torch.inference_mode()
def run(model, prompt, new_tokens):
    ids = torch.randint(4, model.config.vocab_size, (1, prompt))
    cache = DynamicCache()
    start = time.perf_counter()
    token = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
    prefill, steps = 1000 * (time.perf_counter() - start), []
    for _ in range(new_tokens):
        start = time.perf_counter()
        token = model(input_ids=token, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
        token.item()
        steps.append(1000 * (time.perf_counter() - start))
    return prefill, steps


def main():
    folder, threads, dtype = sys.argv[1], int(sys.argv[2]), getattr(torch, sys.argv[3])
    torch.set_num_threads(threads)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, config=AutoConfig.from_pretrained(folder), attn_implementation="sdpa").eval()
    run(model, 64, 4)
    for prompt in (1, 512, 2048):
        runs = [run(model, prompt, 32) for _ in range(3)]
        print(json.dumps({
            "prompt": prompt, "prefill_ms": statistics.median(p for p, _ in runs), "token_ms": statistics.median(s for _, steps in runs for s in steps),
        }))


main()
