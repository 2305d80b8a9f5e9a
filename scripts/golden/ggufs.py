"""GGUF: what the Python package `gguf` makes of every block format, and what transformers computes from a whole file.

Writes test/golden/gguf/
  blocks.json  [{format, number, rows, columns, bytes (base64), values (base64 of fp32)}]
  names.json   {architecture of a GGUF: {name of a tensor in a checkpoint: its name in the GGUF}}, two layers
  llama.gguf   a tiny random Llama with a tensor of every format, llama.cpp's order of query and key rows, a SentencePiece vocabulary
  llama.json   ids, logprobs, greedy as in models.py, computed by transformers from that file; and
               texts [{text, ids}], by `tokenizers` from merges that transformers makes of the vocabulary's scores
Run again with `make golden` (gguf 0.19, transformers 5.18): the same seeds give the same files.
"""

import base64
import json
import shutil

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from models import ANGLES, ROOT, TOKENS, greedy_of, logprobs, with_exact_angles
from texts import texts
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM
from transformers.convert_slow_tokenizer import generate_merges
from transformers.utils import logging

OUT = ROOT / "gguf"
random = np.random.default_rng(5)
FORMATS = [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q4_K, Q.Q5_K, Q.Q6_K]


def halves(count, scale):
    """f16 numbers near `scale`, as bytes"""
    return (scale * (0.5 + random.random(count))).astype(np.float16).view(np.uint8).reshape(count, 2)


def super_blocks(kind, rows, columns):
    """Random codes and scales whose values have a deviation near 0.06: `gguf` writes no K formats, it only reads them."""
    count = rows * columns // 256
    codes = lambda width: random.integers(0, 256, (count, width), dtype=np.uint8)  # noqa: E731
    if kind == Q.Q6_K:
        parts = [codes(128), codes(64), codes(16), halves(count, 4e-5)]
    else:
        scale = 3e-4 if kind == Q.Q4_K else 1.5e-4
        middle = 7.5 if kind == Q.Q4_K else 15.5
        high = [codes(32)] if kind == Q.Q5_K else []
        parts = [halves(count, scale), halves(count, middle * scale), codes(12), *high, codes(128)]
    return np.concatenate(parts, axis=1).reshape(rows, -1)


def stored(kind, rows, columns):
    if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
        return super_blocks(kind, rows, columns)
    values = (0.06 * random.standard_normal((rows, columns))).astype(np.float32)
    return values if kind == Q.F32 else gguf.quants.quantize(values, kind)


def text64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def blocks():
    for kind in FORMATS:
        data = stored(kind, 4, 512)
        values = gguf.quants.dequantize(data, kind).astype(np.float32)
        yield dict(format=kind.name, number=int(kind), rows=4, columns=512, bytes=text64(data), values=text64(values))


ARCHITECTURES = dict(llama="llama", qwen2="qwen2", qwen3="qwen3", chatglm="glm", glm4="glm4", phi3="phi3")


def names():
    """By the tables of `gguf`, for the tensors of the golden models."""
    from safetensors import safe_open

    result = {}
    for architecture, family in ARCHITECTURES.items():
        kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        table = gguf.get_tensor_name_map(kind, 2)
        with safe_open(ROOT / "families" / family / "model.safetensors", "np") as file:
            result[architecture] = {name: table.get_name(name, (".weight", ".bias")) for name in file.keys()}  # noqa: SIM118
    return result


HIDDEN, HEADS, KV_HEADS, HEAD = 256, 4, 2, 32
LAYERS = [
    dict(attn_q=Q.Q4_K, attn_k=Q.Q5_K, attn_v=Q.Q6_K, attn_output=Q.Q8_0, ffn_gate=Q.Q4_0, ffn_up=Q.Q4_1, ffn_down=Q.F16),
    dict(attn_q=Q.Q8_0, attn_k=Q.F16, attn_v=Q.BF16, attn_output=Q.Q4_0, ffn_gate=Q.Q5_K, ffn_up=Q.Q6_K, ffn_down=Q.Q4_K),
]
SHAPES = dict(
    attn_q=(HEADS * HEAD, HIDDEN), attn_k=(KV_HEADS * HEAD, HIDDEN), attn_v=(KV_HEADS * HEAD, HIDDEN), attn_output=(HIDDEN, HEADS * HEAD),
    ffn_gate=(HIDDEN, HIDDEN), ffn_up=(HIDDEN, HIDDEN), ffn_down=(HIDDEN, HIDDEN),
)  # fmt: skip


def vocabulary():
    """The tokens of the small Llama 2 tokenizer; later ones were merged later, so their scores are lower."""
    state = json.loads((ROOT / "tokenizers" / "llama2" / "tokenizer.json").read_text())
    tokens = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
    kinds = [2 if token == "<unk>" else 3 if token in ("<s>", "</s>") else 6 if token.startswith("<0x") else 1 for token in tokens]
    scores = [0.0 if kind != 1 else -float(index) for index, kind in enumerate(kinds)]
    return tokens, scores, kinds


def write(tokens, scores, kinds):
    writer = gguf.GGUFWriter(OUT / "llama.gguf", "llama")
    writer.add_name("tiny")
    writer.add_block_count(len(LAYERS))
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index("</s>"))
    writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ bos_token }}{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}")

    def add(name, kind, shape):
        writer.add_tensor(name, stored(kind, *shape), raw_dtype=kind)

    def norm(name):
        writer.add_tensor(name, (1 + 0.1 * random.standard_normal(HIDDEN)).astype(np.float32))

    add("token_embd.weight", Q.Q8_0, (len(tokens), HIDDEN))
    add("output.weight", Q.Q6_K, (len(tokens), HIDDEN))
    norm("output_norm.weight")
    for layer, kinds_of in enumerate(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for name, kind in kinds_of.items():
            add(f"blk.{layer}.{name}.weight", kind, SHAPES[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokenizer_of(tokens, scores):
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = generate_merges(vocab, dict(zip(tokens, scores)))
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return tokenizer


@torch.no_grad()
def computed(tokens, seed):
    model = AutoModelForCausalLM.from_pretrained(OUT, gguf_file="llama.gguf", dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, len(tokens), (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
    answer = greedy_of(model, ids[:48])
    reference = logprobs(model, ids)
    exact = logprobs(with_exact_angles(model), ids)
    firm = max(abs(a - b) for a, b in zip(reference[1:], exact[1:])) <= ANGLES
    return (ids, reference, answer) if firm and answer else None


if __name__ == "__main__":
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    (OUT / "blocks.json").write_text("[\n" + ",\n".join(json.dumps(each) for each in blocks()) + "\n]\n")
    (OUT / "names.json").write_text(json.dumps(names(), indent=1) + "\n")
    tokens, scores, kinds = vocabulary()
    write(tokens, scores, kinds)
    ids, reference, answer = next(result for seed in range(50) if (result := computed(tokens, seed)))
    tokenizer = tokenizer_of(tokens, scores)
    rows = [dict(text=text, ids=tokenizer.encode("".join(text)).ids) for text in texts("<s>", "</s>")]
    golden = dict(ids=ids, logprobs=reference, greedy=dict(prompt=48, ids=answer), texts=rows)
    (OUT / "llama.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")
    print(f"{len(FORMATS)} formats, {len(rows)} texts, {len(set(answer))} different ids")
