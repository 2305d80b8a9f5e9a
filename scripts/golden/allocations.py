"""What the authors' own code allots and drops: test/golden/allocations.json. Clones are read, nothing of them is installed; needs torch (CPU) and numpy.

    git clone https://github.com/antgroup/cakekv && git clone https://github.com/FFY0/AdaKV
    python3 scripts/golden/allocations.py cakekv AdaKV

- cakeRows: [preferences, total, most, rows]: CAKE's budgets of the layers that have arrived.
- cakeDecode: rows that a layer holds after each of some steps, by head, of a prompt of `prompt` rows; a step's probabilities are `weight` below.
- adaHeads: [rows, floor, counts]: rows that Ada-KV gives the KV heads of a layer, whose scores are `weight` of the case's number, too.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[2] / "test" / "golden" / "allocations.json"
cake, ada = Path(sys.argv[1]), Path(sys.argv[2])


def stand_in(name, **members):
    """A module that the clones import and that is not needed here."""
    module = types.ModuleType(name)
    module.__path__ = []
    for key, value in members.items():
        setattr(module, key, value)
    sys.modules[name] = module


def load(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


Cache = type("Cache", (), {})
stand_in("transformers")
stand_in("transformers.cache_utils", Cache=Cache, DynamicCache=Cache, HybridCache=Cache)
stand_in("flash_attn", flash_attn_func=None)
stand_in("cake")
utils = load("cake.utils", cake / "cake" / "utils.py")
cake_cache = load("cake.cake_cache", cake / "cake" / "cake_cache.py")
snapkv = load("snapkv_utils", ada / "adaptive_snapkv" / "monkeypatch" / "snapkv_utils.py")


def weight(case, step, head, row):
    """Of 24 bits, so that fp32 holds it; rows of later heads weigh less."""
    mixed = (case * 7919 + step * 104729 + head * 1299709 + row * 15485863 + 1) * 2654435761 % 2**32
    mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 2**32
    mixed ^= mixed >> 13
    return (mixed >> 8) / 2**24 / 2**head


def cake_rows():
    random = np.random.default_rng(1)
    cases = []
    for _ in range(60):
        layers = int(random.integers(1, 33))
        most = int(random.integers(1, 300))
        total = int(random.integers(0, layers * most + 1) * random.uniform())
        preferences = [float(x) for x in np.exp(random.normal(size=layers) * 1.5)]
        arrived = preferences[: int(random.integers(1, layers + 1))]
        shares = [p / sum(arrived) * total for p in arrived]
        rows = utils.adjust_budgets(shares, total, most, layers)
        cases.append([arrived, total, most, [min(row, most) for row in rows]])
    return cases


def cake_decode():
    """The class that drops rows after each token, over keys that are the rows' numbers."""
    cases = []
    for case, (prompt, rows, window, steps) in enumerate([(15, 12, 4, 12), (36, 29, 8, 9), (18, 17, 1, 9), (9, 12, 4, 12)]):
        heads, group = 2, 2
        cut = cake_cache.CakeDecodingKVCache_LayerWise(hh_size=rows - window, window_size=window)
        cache = types.SimpleNamespace()
        numbers = torch.arange(prompt).view(1, 1, -1, 1).expand(1, heads, -1, 1).float()
        cache.key_cache, cache.value_cache = [numbers], [numbers]
        kept = []
        for step in range(steps):
            token = torch.full((1, heads, 1, 1), float(prompt + step))
            cache.key_cache[0] = torch.cat([cache.key_cache[0], token], dim=2)
            cache.value_cache[0] = torch.cat([cache.value_cache[0], token], dim=2)
            held = cache.key_cache[0][0, :, :, 0].int().tolist()
            chances = [[weight(case, step, h // group, row) for row in held[h // group]] for h in range(heads * group)]
            cut(cache, torch.tensor(chances).view(1, heads * group, 1, -1), 0)
            kept.append([sorted(head) for head in cache.key_cache[0][0, :, :, 0].int().tolist()])
        cases.append({"prompt": prompt, "rows": rows, "window": window, "kept": kept})
    return cases


def ada_heads():
    cases = []
    for case, (length, rows, floor, heads) in enumerate(
        [(100, 40, 0.2, 4), (100, 40, 0.5, 4), (100, 25, 0.3, 3), (64, 63, 0.2, 2), (200, 33, 0.1, 8), (200, 32, 0.0, 8), (200, 32, 1.0, 8), (77, 11, 0.7, 5)]
    ):
        cluster = snapkv.AdaptiveSnapKVCluster(
            window_size=8, base_capacity=rows + 8, floor_alpha=floor, skip=0, layer_idx=0, num_hidden_layers=1, gqa_support=True, gqa_func="mean"
        )
        scores = torch.tensor([[[weight(case, 0, h, row) for row in range(length)] for h in range(heads)]])
        assert len(scores.unique()) == scores.numel(), "equal scores: which of them torch takes is not defined"
        cluster.calcul_attn_sore = lambda _keys, _queries: scores
        rotated = torch.zeros(1, heads, length + 8, 2)
        cluster.update_kv(rotated, rotated, rotated)
        cases.append([length, rows, floor, [int(count) - 8 for count in cluster.head_lens]])
    return cases


golden = {"cakeRows": cake_rows(), "cakeDecode": cake_decode(), "adaHeads": ada_heads()}
OUT.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
