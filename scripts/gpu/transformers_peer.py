# Times transformers on the Llama-3.1-8B shape with random weights: time to first token of a prompt, milliseconds per new token behind it, peak memory.
# usage: transformers_peer.py [OUT.json]
import json
import statistics
import sys
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache


def build():
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        max_position_embeddings=131072 + 256, rms_norm_eps=1e-5, rope_theta=500000.0, attn_implementation="sdpa",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cuda")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02) if parameter.dim() > 1 else parameter.fill_(1)
    # to_empty leaves buffers unset: the rotary frequencies are made anew
    with torch.device("cuda"):
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


@torch.inference_mode()
def run(model, prompt, new_tokens, repetitions):
    prefill, steps = [], []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(repetitions):
        ids = torch.randint(0, 128256, (1, prompt), device="cuda")
        cache = DynamicCache()
        torch.cuda.synchronize()
        start = time.perf_counter()
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        token.cpu()
        prefill.append(1000 * (time.perf_counter() - start))
        for _ in range(new_tokens):
            start = time.perf_counter()
            token = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)
            token.cpu()
            steps.append(1000 * (time.perf_counter() - start))
        del out, cache
    return prefill, steps, torch.cuda.max_memory_allocated()


def main():
    model = build()
    run(model, 256, 4, 1)
    rows = []
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, sdpa, bf16, random weights\n")
    print("| prompt | prefill ms, median | runs | ms per token, median | p10..p90 | peak GiB |\n|---|---|---|---|---|---|")
    for prompt, new_tokens, repetitions in ((8, 24, 2), (4096, 16, 4), (32768, 16, 3), (131072, 12, 1)):
        try:
            prefill, steps, peak = run(model, prompt, new_tokens, repetitions)
        except torch.OutOfMemoryError as error:
            print(f"| {prompt} | - | | | | {str(error)[:80]} |")
            continue
        rows.append({"prompt": prompt, "prefill_ms": prefill, "token_ms": steps, "peak_bytes": peak})
        tenths = statistics.quantiles(steps, n=10)
        print(f"| {prompt} | {statistics.median(prefill):.1f} | {repetitions} | {statistics.median(steps):.1f} | "
              f"{tenths[0]:.1f}..{tenths[-1]:.1f} | {peak / 2**30:.1f} |", flush=True)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            json.dump(rows, file)


main()
