"""Tiny random models of each family and what transformers computes with them in fp32 on the CPU.

Writes test/golden/models/NAME/ (a Hugging Face directory without a tokenizer) and test/golden/NAME.json:
  ids       600 token ids
  logprobs  logprobs[i] is that of ids[i] given those before it; the first is null
  greedy    {prompt, ids}: the 32 ids that follow the ids of `prompt`
Run again with `make golden` (transformers 5.18, torch 2): the same seeds give the same files.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2] / "test" / "golden"
TOKENS = 600
NEW = 32
ANGLES = 4e-5  # RoPE angles in fp64 instead of fp32 change no log-probability by more: the rounding of the reference stays below the tolerance
MARGIN = 2e-3  # between the two best logits of each greedy step, so that rounding cannot turn it

LLAMA = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=1024,
    rms_norm_eps=1e-5,
    hidden_act="silu",
    tie_word_embeddings=False,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=0,
    torch_dtype="float32",
)


def family(architecture, model_type, **changes):
    return {**LLAMA, "architectures": [architecture], "model_type": model_type, **changes}


def old(scaling, theta=10000.0, **changes):
    return {"rope_theta": theta, "rope_scaling": scaling, **changes}


def new(parameters, theta=10000.0, **changes):
    return {"rope_parameters": {"rope_theta": theta, **parameters}, **changes}


LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)
SHORT = [1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5]
LONG = [2.0, 2.2, 2.5, 3.0, 4.5, 6.0, 7.0, 8.0]  # half of the first frequency: its angles are exact in fp32

# name -> (config.json, length of the greedy prompt, saving options)
MODELS = {
    "llama": ({**LLAMA, **old(None)}, 48, {}),
    "llama-tied-bf16": ({**LLAMA, **new({"rope_type": "default"}), "tie_word_embeddings": True, "torch_dtype": "bfloat16"}, 48, {}),
    "llama-sharded-f16": ({**LLAMA, **old(None, theta=500000.0), "torch_dtype": "float16", "eos_token_id": [1, 2]}, 48, {"shards": 3}),
    "llama-bias": ({**LLAMA, **old(None), "attention_bias": True, "mlp_bias": True}, 48, {}),
    "llama-linear": ({**LLAMA, **old({"type": "linear", "factor": 4.0}), "max_position_embeddings": 256, "tie_word_embeddings": True}, 48, {}),
    "llama-dynamic": ({**LLAMA, **old({"type": "dynamic", "factor": 16.0}), "max_position_embeddings": 64}, 48, {}),
    "llama-llama3": ({**LLAMA, **new(LLAMA3, theta=500000.0)}, 200, {}),
    "llama-yarn": (
        {**LLAMA, **old({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128})},
        200,
        {},
    ),
    "llama-longrope": (
        {
            **LLAMA,
            **new({"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 128}),
        },
        200,
        {},
    ),
    "mistral": (
        family("MistralForCausalLM", "mistral", sliding_window=64, num_attention_heads=6, num_key_value_heads=2, **old(None, theta=1e6)),
        100,
        {},
    ),
    "qwen2": (
        family("Qwen2ForCausalLM", "qwen2", num_attention_heads=7, hidden_size=56, head_dim=None, use_sliding_window=False,
               sliding_window=64, max_window_layers=1, rms_norm_eps=1e-6, intermediate_size=40, **old(None, theta=1e6)),
        48,
        {},
    ),
    "qwen2-sliding": (
        family("Qwen2ForCausalLM", "qwen2", head_dim=None, use_sliding_window=True, sliding_window=48, max_window_layers=1,
               tie_word_embeddings=True, **old(None, theta=1e6)),
        100,
        {},
    ),
    "qwen3": (family("Qwen3ForCausalLM", "qwen3", torch_dtype="bfloat16", **new({"rope_type": "default"}, theta=1e6)), 48, {}),
    "glm": (family("GlmForCausalLM", "glm", attention_bias=True, partial_rotary_factor=0.5, **old(None)), 48, {}),
    "glm4": (family("Glm4ForCausalLM", "glm4", attention_bias=False, partial_rotary_factor=0.5, **old(None)), 48, {}),
    "phi3-longrope": (
        family("Phi3ForCausalLM", "phi3", head_dim=None, num_attention_heads=2, tie_word_embeddings=True,
               original_max_position_embeddings=128, partial_rotary_factor=1.0,
               **old({"type": "longrope", "short_factor": SHORT, "long_factor": LONG})),
        200,
        {},
    ),
}  # fmt: skip


def randomize(model, seed):
    """Weights large enough that attention is peaked and the logits differ: norms near 1, the rest with standard deviation 0.25."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.1 * values if "norm" in name else 0.25 * values


def save(model, directory, config, shards=1):
    dtype = getattr(torch, config["torch_dtype"])
    tied = config["tie_word_embeddings"]
    tensors = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return
    places = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = {k: tensors[k] for k in sorted(tensors)[index::shards]}
        save_file(part, directory / file, {"format": "pt"})
        places.update(dict.fromkeys(part, file))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def with_exact_angles(model):
    """Angles as products in fp64, from transformers' own fp32 frequencies."""
    rotary = model.model.rotary_emb
    rounded = rotary.forward

    def exact(x, position_ids):
        rounded(x, position_ids)  # chooses the frequencies of this length
        angles = position_ids[..., None].double() * rotary.inv_freq.double()
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * rotary.attention_scaling).to(x.dtype), (angles.sin() * rotary.attention_scaling).to(x.dtype)

    rotary.forward = exact
    return model


@torch.no_grad()
def logprobs(model, ids):
    logits = model(torch.tensor([ids])).logits[0].double()
    picked = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return [None] + [round(x, 6) for x in picked.tolist()]


def conditioned(directory, ids):
    """The log-probabilities; None where they hang on the rounding of the angles."""
    reference = logprobs(load(directory), ids)
    exact = logprobs(with_exact_angles(load(directory)), ids)
    return reference if max(abs(a - b) for a, b in zip(reference[1:], exact[1:])) <= ANGLES else None


def greedy(directory, prompt):
    return greedy_of(load(directory), prompt)


@torch.no_grad()
def greedy_of(model, prompt):
    """Token by token with the cache; None where two logits come too close."""
    ids = torch.tensor([prompt])
    cache, result = None, []
    for _ in range(NEW):
        out = model(ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < MARGIN:
            return None
        result.append(best.indices[0].item())
        ids = best.indices[:1][None]
    return result


def make(number, name, config, prompt_length, saving):
    directory = ROOT / "models" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = {key: value for key, value in config.items() if value is not None or key == "rope_scaling"}
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32)
    for seed in range(1000 * number, 1000 * number + 100):
        randomize(model, seed)
        save(model, directory, config, **saving)
        ids = torch.randint(3, config["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
        answer = greedy(directory, ids[:prompt_length])
        reference = conditioned(directory, ids)
        if answer is not None and reference is not None:
            break
    else:
        raise SystemExit(f"{name}: no seed gives numbers that rounding cannot turn")
    golden = {"ids": ids, "logprobs": reference, "greedy": {"prompt": ids[:prompt_length], "ids": answer}}
    (ROOT / f"{name}.json").write_text(json.dumps(golden) + "\n")
    spread = torch.tensor(golden["logprobs"][1:]).std().item()
    print(f"{name}: seed {seed}, {len(set(answer))} different ids, spread of the log-probabilities {spread:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, (name, (config, prompt_length, saving)) in enumerate(MODELS.items()):
        make(number, name, config, prompt_length, saving)
