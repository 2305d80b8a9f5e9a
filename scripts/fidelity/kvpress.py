# Compares what kvaccel keeps with what kvpress's presses keep of the same prompts, model and precision (fp32, CPU).
#
#   git clone https://github.com/NVIDIA/kvpress                       # a clone is read, nothing of it is installed
#   bun scripts/fidelity/kept.ts > kept.json
#   python scripts/fidelity/kvpress.py kvpress kept.json              # needs torch and transformers
#
# A row that only one side keeps counts as a tie where both give it the threshold's score to 1e-5.
import importlib
import json
import sys
import types
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

clone, kept_file = Path(sys.argv[1]), Path(sys.argv[2])
model_dir = Path(__file__).parents[2] / "models" / "tiny-ruler"

# Presses import one by one: the package's own __init__ asks for what its pipeline and its benchmarks need.
for name in ("kvpress", "kvpress.presses"):
    module = types.ModuleType(name)
    module.__path__ = [str(clone.joinpath(*name.split(".")))]
    sys.modules[name] = module


def press(file, name, **values):
    return getattr(importlib.import_module(f"kvpress.presses.{file}"), name)(**values)


presses = {
    "SnapKV@kvpress": lambda: press("snapkv_press", "SnapKVPress", compression_ratio=0.5),
    "StreamingLLM@kvpress": lambda: press("streaming_llm_press", "StreamingLLMPress", compression_ratio=0.5),
    "L2Compress@kvpress": lambda: press("knorm_press", "KnormPress", compression_ratio=0.5),
    "H2O@kvpress": lambda: press("observed_attention_press", "ObservedAttentionPress", compression_ratio=0.5),
    "PyramidKV@kvpress": lambda: press("pyramidkv_press", "PyramidKVPress", compression_ratio=0.5),
    "TOVA@kvpress": lambda: press("tova_press", "TOVAPress", compression_ratio=0.5),
    "KeyDiff@kvpress": lambda: press("keydiff_press", "KeyDiffPress", compression_ratio=0.5),
    "ExpectedAttention@kvpress": lambda: press("expected_attention_press", "ExpectedAttentionPress", compression_ratio=0.5),
    "ExpectedAttention[keepRatio=0.25,covariance=false]": lambda: press(
        "expected_attention_press", "ExpectedAttentionPress", compression_ratio=0.75, use_covariance=False
    ),
    "AdaKV[keepRatio=0.5,window=64,kernel=5,pool=avg]": lambda: press("snapkv_press", "SnapKVPress", compression_ratio=0.5),
    "ThinK": lambda: press("think_press", "ThinKPress", key_channel_compression_ratio=0.4),
}

record = json.loads(kept_file.read_text())


def hooked(model, one, run):
    """What run(press, module, args) returns for each layer, in a forward pass over the prompt."""
    out = []

    def hook(module, _args, kwargs, output):
        cache = kwargs["past_key_values"]
        keys, values = cache.layers[module.layer_idx].keys, cache.layers[module.layer_idx].values
        out.append(run(one, module, kwargs["hidden_states"], keys, values, output[1], kwargs))
        return output

    hooks = [layer.self_attn.register_forward_hook(hook, with_kwargs=True) for layer in model.model.layers]
    for layer in model.model.layers:
        layer.self_attn.rotary_emb = model.model.rotary_emb
    return hooks, out


def scores_of(one, module, hidden, keys, values, attentions, kwargs):
    scores = one.score(module, hidden, keys, values, attentions, kwargs)[0]
    length = keys.shape[2]
    count = int(length * (1 - one.compression_ratio))
    if hasattr(one, "get_layer_budget"):
        count = one.get_layer_budget(module, length)
    return scores, count


def channels_of(one, module, hidden, keys, values, attentions, kwargs):
    pruned, _ = one.compress(module, hidden, keys.clone(), values, attentions, {**kwargs, "hidden_states": hidden})
    return pruned[0]


def compare(theirs, ours, scores):
    """Rows of either side alone, and how many of those are ties."""
    theirs, ours = set(theirs), set(ours)
    alone = sorted(theirs ^ ours)
    if not alone or scores is None:
        return len(alone), 0
    threshold = min(scores[j].item() for j in theirs)
    ties = sum(abs(scores[j].item() - threshold) <= 1e-5 * abs(threshold) for j in alone)
    return len(alone), ties


for label, make in presses.items():
    one = make()
    eager = "ObservedAttention" in type(one).__name__
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager" if eager else "sdpa"
    ).eval()
    if hasattr(one, "post_init_from_model"):
        one.post_init_from_model(model)
    think = label == "ThinK"
    heads = rows = alone = ties = 0
    for prompt, kept in zip(record["prompts"], record["kept"][label]):
        hooks, out = hooked(model, one, channels_of if think else scores_of)
        with torch.no_grad():
            model(torch.tensor([prompt]), use_cache=True, output_attentions=eager)
        for hook in hooks:
            hook.remove()
        for layer, result in enumerate(out):
            if label.startswith("AdaKV"):
                scores, count = result
                safe = int(count * 0.2)  # the window is among what kvpress scores, not among what kvaccel shares out
                pinned = scores.clone()
                pinned[:, -one.window_size :] = torch.inf
                own = int(count) - one.window_size
                pinned.scatter_(-1, scores[:, : -one.window_size].topk(int(own * 0.2), dim=-1).indices, torch.inf)
                flat = pinned.flatten().topk(count * scores.shape[0]).indices
                theirs = [[(i % scores.shape[1]).item() for i in flat if i // scores.shape[1] == h] for h in range(scores.shape[0])]
            for head, ours in enumerate(kept[layer]):
                if think:
                    mine, values = torch.nonzero(result[head, 0] != 0).flatten().tolist(), None
                elif label.startswith("AdaKV"):
                    mine, values = theirs[head], result[0][head]
                else:
                    mine, values = result[0][head].topk(result[1]).indices.tolist(), result[0][head]
                differing, tied = compare(mine, ours, values)
                heads, rows, alone, ties = heads + 1, rows + len(mine), alone + differing, ties + tied
    what = "channels" if think else "rows"
    print(f"{label}: {heads} heads, {rows} {what} kept, {alone} on one side alone, {ties} of them ties")
