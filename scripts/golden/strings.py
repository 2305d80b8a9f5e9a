"""10,000 random Unicode strings for each small tokenizer, and what the Python library makes of them.

Writes test/golden/tokenizers/KIND.random.json: SHA-256 of the ids (no special tokens added) and of the text decoded from them, of every 100 strings. The strings come from a generator that test/support/strings.ts repeats. `python3 strings.py DIR...` prints the same of other tokenizers.
Run again with `make golden` (tokenizers 0.23).
"""

import hashlib
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2] / "test" / "golden" / "tokenizers"
COUNT = 10_000
BLOCK = 100
# Letters, marks, digits, symbols, spaces and controls of many scripts, all long assigned: what counts as a letter does not depend on the version.
RANGES = [
    (0x20, 0x7F), (0x61, 0x7B), (0x61, 0x7B), (0x30, 0x3A), (0x20, 0x21), (0x20, 0x21), (0x9, 0xE), (0xA0, 0x100), (0x100, 0x180), (0x300, 0x350),
    (0x391, 0x3A2), (0x410, 0x450), (0x5D0, 0x5EB), (0x627, 0x63B), (0x905, 0x93A), (0xE01, 0xE30), (0x1100, 0x1113), (0x1E00, 0x1E90),
    (0x2000, 0x2010), (0x2018, 0x2028), (0x2070, 0x2072), (0x20A0, 0x20AD), (0x2150, 0x2160), (0x2190, 0x21A0), (0x2500, 0x2580), (0x2581, 0x2582),
    (0x3041, 0x3097), (0x30A1, 0x30FB), (0x4E00, 0x9FA6), (0xAC00, 0xD7A4), (0xFE00, 0xFE10), (0xFF01, 0xFF5F), (0xFEFF, 0xFF00), (0xFFFD, 0xFFFE),
    (0xE000, 0xE010), (0x1F600, 0x1F640), (0x1F468, 0x1F46A), (0x200D, 0x200E), (0x1D400, 0x1D450), (0x10400, 0x10428), (0x20000, 0x20100),
]  # fmt: skip


class Numbers:
    """A linear congruence modulo 2^32; the upper 24 bits."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        return (self.state >> 8) % limit


def strings(specials):
    numbers = Numbers(2026)
    for _ in range(COUNT):
        pieces = []
        for _ in range(1 + numbers.below(60)):
            if specials and numbers.below(50) == 0:
                pieces.append(specials[numbers.below(len(specials))])
            first, end = RANGES[numbers.below(len(RANGES))]
            pieces.append(chr(first + numbers.below(end - first)))
        yield "".join(pieces)


def specials_of(path):
    return [token["content"] for token in json.loads(path.read_text())["added_tokens"]][:8]


def digest(rows):
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def hashes(path):
    tokenizer = Tokenizer.from_file(str(path))
    texts = list(strings(specials_of(path)))
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = {"ids": [" ".join(map(str, each)) for each in ids], "decoded": [tokenizer.decode(each) for each in ids]}
    return {name: [digest(all_rows[at : at + BLOCK]) for at in range(0, COUNT, BLOCK)] for name, all_rows in rows.items()}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for directory in sys.argv[1:]:
            Path(directory, "random.json").write_text(json.dumps(hashes(Path(directory) / "tokenizer.json")) + "\n")
    else:
        for directory in sorted(path for path in ROOT.iterdir() if path.is_dir()):
            (ROOT / f"{directory.name}.random.json").write_text(json.dumps(hashes(directory / "tokenizer.json")) + "\n")
            print(f"{directory.name}: {COUNT} strings")
