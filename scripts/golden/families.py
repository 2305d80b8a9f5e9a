"""Every family under every RoPE type, and the bundled model; what transformers computes in fp32 and in bf16 on the CPU.

Writes test/golden/families/FAMILY/model.safetensors (bf16: both precisions start from the same numbers) and FAMILY.json beside it,
a list of cases over those weights:
  rope      the RoPE type; odd ones in the old spelling of config.json, even ones in the new
  config    config.json
  ids       600 token ids
  logprobs  logprobs[i] is that of ids[i] given those before it, in fp32; the first is null
  argmax    the likeliest token after each of the ids, in fp32
  gaps      between its logit and the next best, in fp32: below bf16's own error the likeliest token is a matter of chance
  greedy    {prompt, ids}: the 32 ids that follow the first `prompt` ids, in fp32
  bf16      {meanAbs, agreement} of transformers' own bf16 run against the fp32 one: log-probabilities, likeliest tokens
and bundled.json, one such case for models/tiny-ruler over the text of one of its samples.
Run again with `make golden` (transformers 5.18, torch 2): the same seeds give the same files.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from models import LLAMA, LONG, ROOT, SHORT, TOKENS, conditioned, family, greedy, randomize, save
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

OUT = ROOT / "families"
COMMON = dict(torch_dtype="bfloat16", num_attention_heads=4, num_key_value_heads=2)
FAMILIES = {
    "llama": {**LLAMA, **COMMON},
    "mistral": family("MistralForCausalLM", "mistral", **COMMON, sliding_window=None),
    "mistral-sliding": family("MistralForCausalLM", "mistral", **COMMON, sliding_window=96),
    "qwen2": family("Qwen2ForCausalLM", "qwen2", **COMMON, head_dim=None, hidden_size=64, use_sliding_window=False, rms_norm_eps=1e-6),
    "qwen3": family("Qwen3ForCausalLM", "qwen3", **COMMON, rms_norm_eps=1e-6, tie_word_embeddings=True),
    "glm": family("GlmForCausalLM", "glm", **COMMON, attention_bias=True, partial_rotary_factor=0.5),
    "glm4": family("Glm4ForCausalLM", "glm4", **COMMON, attention_bias=True, partial_rotary_factor=0.5),
    "phi3": family("Phi3ForCausalLM", "phi3", **COMMON, head_dim=None, hidden_size=64, original_max_position_embeddings=128),
}  # fmt: skip


def ropes(pairs):
    """type -> (theta, parameters, other keys, length of the greedy prompt)"""
    long = dict(short_factor=SHORT[:pairs], long_factor=LONG[:pairs], original_max_position_embeddings=128)
    return {
        "default": (10000.0, {}, {}, 48),
        "linear": (10000.0, dict(factor=4.0), dict(max_position_embeddings=256), 48),
        "dynamic": (10000.0, dict(factor=16.0), dict(max_position_embeddings=64), 48),
        "llama3": (500000.0, dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128), {}, 200),
        "yarn": (10000.0, dict(factor=8.0, original_max_position_embeddings=128), {}, 200),
        "longrope": (10000.0, long, {}, 200),
    }


def spelled(kind, theta, parameters, old):
    if not old:
        return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **parameters}}
    return {"rope_theta": theta, "rope_scaling": {"type": kind, **parameters} if kind != "default" else None}


@torch.no_grad()
def run(directory, ids, dtype):
    """log-probabilities of ids[1:], and of every position the likeliest token and how far it is ahead"""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()
    logits = model(torch.tensor([ids])).logits[0].double()
    picked = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    best = logits.topk(2)
    return picked, best.indices[:, 0], best.values[:, 0] - best.values[:, 1]


def rounding(directory, ids, exact, best):
    rounded, rounded_best, _ = run(directory, ids, torch.bfloat16)
    return dict(meanAbs=(exact - rounded).abs().mean().item(), agreement=(best == rounded_best).double().mean().item())


def measured(reference, best, gaps):
    return dict(logprobs=reference, argmax=best.tolist(), gaps=[round(gap, 2) for gap in gaps.tolist()])


def case(directory, weights, config, kind, prompt_length, number):
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for seed in range(number, number + 200):
        ids = torch.randint(3, config["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
        answer = greedy(directory, ids[:prompt_length])
        reference = conditioned(directory, ids) if answer else None
        if reference is not None:
            break
    else:
        raise SystemExit(f"{weights}, {kind}: no seed gives numbers that rounding cannot turn")
    exact, best, gaps = run(directory, ids, torch.float32)
    bf16 = rounding(directory, ids, exact, best)
    print(f"{weights}, {kind}: seed {seed}, {len(set(answer))} different ids, transformers' bf16 {bf16}", flush=True)
    answered = dict(prompt=prompt_length, ids=answer)
    return dict(rope=kind, config=config, ids=ids, **measured(reference, best, gaps), greedy=answered, bf16=bf16)



def make(number, name, base):
    heads = base["num_attention_heads"]
    head_dim = base.get("head_dim") or base["hidden_size"] // heads
    pairs = int(head_dim * base.get("partial_rotary_factor", 1.0)) // 2
    kinds = {kind: rest for kind, rest in ropes(pairs).items() if name != "phi3" or kind in ("default", "longrope")}
    (OUT / name).mkdir(parents=True)
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for index, (kind, (theta, parameters, keys, prompt_length)) in enumerate(kinds.items()):
            config = {**base, **keys, **spelled(kind, theta, parameters, old=(index + number) % 2 == 1)}
            config = {key: value for key, value in config.items() if value is not None or key in ("rope_scaling", "sliding_window")}
            if index == 0:
                (directory / "config.json").write_text(json.dumps(config))
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32)
                randomize(model, 7000 + number)
                save(model, directory, config)
                shutil.copy(directory / "model.safetensors", OUT / name)
            cases.append(case(directory, name, config, kind, prompt_length, 10000 * number + 1000 * index))
    (OUT / f"{name}.json").write_text("[\n" + ",\n".join(json.dumps(each) for each in cases) + "\n]\n")


def bundled():
    """A trained model: what its bf16 does to the likeliest token is not an accident of random weights."""
    directory = ROOT.parents[1] / "models" / "tiny-ruler"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    samples = map(json.loads, (directory / "samples.jsonl").read_text().splitlines())
    texts = (tokenizer.encode(sample["prompt"])[:TOKENS] for sample in samples if sample["prompt_tokens"] > TOKENS)
    ids, answer = next((ids, answer) for ids in texts if (answer := greedy(directory, ids[:200])))
    exact, best, gaps = run(directory, ids, torch.float32)
    bf16 = rounding(directory, ids, exact, best)
    print(f"bundled: transformers' bf16 {bf16}")
    reference = [None] + [round(x, 6) for x in exact.tolist()]
    golden = dict(ids=ids, **measured(reference, best, gaps), greedy=dict(prompt=200, ids=answer), bf16=bf16)
    (OUT / "bundled.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    shutil.rmtree(OUT, ignore_errors=True)
    for number, (name, base) in enumerate(FAMILIES.items()):
        make(number, name, base)
    bundled()
