# What the authors' quantiser makes of fixed numbers, in fp16 as they run it: writes test/golden/kivi.json.
#
#   git clone https://github.com/jy-yuan/KIVI                         # a clone is read (876b4d2), nothing of it is installed
#   python scripts/fidelity/kivi.py KIVI                              # needs torch
#
# Two sets of 64 rows of 32 channels: `exact`, whose groups' ranges are (2^bits - 1) times a power of two, so that no rounding decides, and
# `random`. Keys are grouped by 32 rows of a channel, values by the 32 channels of a row. Numbers are stored times 256.
import importlib.util
import json
import sys
import types
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
ROWS, CHANNELS, GROUP = 64, 32, 32

# The file also defines GPU kernels, which are not called here.
triton = types.ModuleType("triton")
triton.jit = lambda function: function
triton.language = types.ModuleType("triton.language")
triton.language.constexpr = None
sys.modules.update({"triton": triton, "triton.language": triton.language})
spec = importlib.util.spec_from_file_location("new_pack", Path(sys.argv[1]) / "quant" / "new_pack.py")
authors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(authors)


def exact(levels):
    """Multiples of 1/4 of which each group, of rows or of channels, has 0 and the highest."""
    numbers = torch.randint(0, levels + 1, (ROWS, CHANNELS), generator=torch.Generator().manual_seed(levels))
    for row in range(ROWS):
        numbers[row, row % CHANNELS] = 0
        numbers[row, (row + 1) % CHANNELS] = levels
    return numbers * 64


def random():
    return torch.randint(-1000, 1001, (ROWS, CHANNELS), generator=torch.Generator().manual_seed(7))


def case(name, bits, numbers):
    x = (numbers / 256).to(torch.float16).view(1, 1, ROWS, CHANNELS)
    out = {"name": name, "bits": bits, "numbers": numbers.flatten().tolist()}
    for part, pack, axis in (("keys", authors.quant_and_pack_kcache, 2), ("values", authors.quant_and_pack_vcache, 3)):
        codes, scale, zero = pack(x, GROUP, bits)
        out[part] = {
            "codes": "".join(f"{code:x}" for code in authors.unpack_tensor(codes, bits, axis).flatten().tolist()),
            "scale": scale.flatten().tolist(),
            "zero": zero.flatten().tolist(),
        }
    return out


cases = [case("exact", bits, exact(2**bits - 1)) for bits in (2, 4)] + [case("random", bits, random()) for bits in (2, 4)]
(ROOT / "test" / "golden" / "kivi.json").write_text(json.dumps(cases) + "\n")
print(f"{len(cases)} cases of {ROWS * CHANNELS} keys and values")
