"""Small tokenizers of the five kinds that the model families use, and what the Python library makes of texts.

Writes test/golden/tokenizers/KIND/ (tokenizer.json, tokenizer_config.json with a chat template) and KIND.json beside it:
  texts  [{text, ids, plain (no special tokens added), decoded (of ids, specials skipped)}]
  broken [{ids, decoded}], ids in no sensible order: bytes that are not UTF-8
  chats  [{messages, generation, variables, prompt or error}], rendered by transformers on 26 July 2024
Run again with `make golden`.
"""

import datetime
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test" / "golden" / "tokenizers"
LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

LLAMA3_CHAT = """{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" }}{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|stop|>" }}
{%- for message in messages %}{{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|stop|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\\n\\n' }}{%- endif %}"""
QWEN_CHAT = """{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" and loop.index0 < ns.last and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|start|>' + message.role + '\\n' + content + '<|stop|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
INST_CHAT = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""


def added(*contents):
    return [AddedToken(content, special=True, normalized=False) for content in contents]


def sentencepiece(prepend):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if prepend:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    return tokenizer


def byte_level(split, nfc):
    tokenizer = Tokenizer(models.BPE(ignore_merges=not nfc))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


KINDS = {
    "llama3": (lambda: byte_level(LLAMA3_SPLIT, False), "<|begin|>", "<|stop|>", LLAMA3_CHAT),
    "qwen2": (lambda: byte_level(QWEN_SPLIT, True), None, "<|stop|>", QWEN_CHAT),
    "llama2": (lambda: sentencepiece(True), "<s>", "</s>", INST_CHAT),
    "mistral": (lambda: sentencepiece(False), "<s>", "</s>", INST_CHAT),
    "glm4": (lambda: byte_level(LLAMA3_SPLIT, False), None, "<|stop|>", QWEN_CHAT),
}


def corpus():
    lines = (ROOT / "models" / "tiny-ruler" / "samples.jsonl").read_text().splitlines()
    text = (ROOT / "models" / "tiny-ruler" / "README.md").read_text() + "".join(json.loads(line)["prompt"] for line in lines[:8])
    return [piece for piece in text.split("\n") if piece]


def train(kind):
    make, bos, eos, _ = KINDS[kind]
    tokenizer = make()
    specials = [token for token in ("<unk>" if "llama2" in kind or kind == "mistral" else None, bos, eos) if token]
    spm = kind in ("llama2", "mistral")
    if spm:
        specials += [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = [] if spm else pre_tokenizers.ByteLevel.alphabet()
    # merges are learnt within words, as SentencePiece learns them
    if spm:
        own, tokenizer.pre_tokenizer = tokenizer.pre_tokenizer, pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    if spm:
        tokenizer = restored(tokenizer, own)
    tokenizer.add_special_tokens(added(*[token for token in ("<|start|>", "<|end|>") if not spm]))
    if kind == "glm4":
        tokenizer.add_special_tokens(added("[gMASK]", "<sop>"))
        before = [(token, tokenizer.token_to_id(token)) for token in ("[gMASK]", "<sop>")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B:1", special_tokens=before
        )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def restored(tokenizer, pre_tokenizer):
    """Byte tokens are ordinary entries of the vocabulary, not special ones."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    if pre_tokenizer is None:
        state["pre_tokenizer"] = None
        return Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def texts(bos, eos):
    fixed = [
        "", " ", "  ", "\n", "a", " a", "The lamp is warm.", "  two  spaces   three ", "tabs\tand\r\nlines\n\n\n", "I 'm a , b . don't",
        "12345 1,234.56", "Zoë naïve café", "e\u0301 combining, \u00e9 composed", "你好，世界", "こんにちは", "한국어", "Привет мир", "مرحبا",
        "😀 👩‍👩‍👧 🇩🇪", "\u0000\u0001\u007f", "\ufeffbom", "▁ the mark itself ▁▁", "x" * 300, f"{bos or ''}begins with it", f"a{eos}b {eos} c",
        "The secret number of warm-lamp is 1234567.", "def f(x):\n    return x ** 2\n", "\u2028 line separator \u00a0 no-break",
    ]  # fmt: skip
    generator = random.Random(7)
    ranges = [(0x20, 0x7F), (0xA0, 0x17F), (0x370, 0x4FF), (0x4E00, 0x4F00), (0x1F600, 0x1F640), (0x9, 0xE), (0x2580, 0x2590)]
    pick = lambda: chr(generator.randrange(*generator.choice(ranges)))  # noqa: E731
    return fixed + ["".join(pick() for _ in range(generator.randrange(1, 40))) for _ in range(30)]


class July(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def chats(fast, template):
    user, answer = {"role": "user", "content": " Where is it? "}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHere."}
    system = {"role": "system", "content": "Be brief."}
    cases = [([user], True, {}), ([user], False, {}), ([system, user], True, {}), ([user, answer, user], True, {}),
             ([user], True, {"enable_thinking": False}), ([user, user], True, {})]  # fmt: skip
    for messages, generation, variables in cases:
        case = dict(messages=messages, generation=generation, variables=variables)
        try:
            prompt = fast.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=generation, tokenize=False, **variables
            )
            yield {**case, "prompt": prompt}
        except Exception as error:
            yield {**case, "error": str(error)}


if __name__ == "__main__":
    chat_template_utils.datetime = July
    for kind, (_, bos, eos, template) in KINDS.items():
        directory = OUT / kind
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer = train(kind)
        (directory / "tokenizer.json").write_text(tokenizer.to_str() + "\n")
        config = dict(bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False, chat_template=template)
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
        rows = []
        for text in texts(bos, eos):
            ids = tokenizer.encode(text).ids
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            rows.append(dict(text=text, ids=ids, plain=plain, decoded=tokenizer.decode(ids)))
        generator = random.Random(11)
        lists = [[generator.randrange(2, 320) for _ in range(generator.randrange(1, 16))] for _ in range(40)]
        broken = [dict(ids=ids, decoded=tokenizer.decode(ids)) for ids in lists]
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
        golden = dict(texts=rows, broken=broken, chats=list(chats(fast, template)))
        (OUT / f"{kind}.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")
        print(f"{kind}: {tokenizer.get_vocab_size()} tokens, {len(rows)} texts, {sum('error' in c for c in golden['chats'])} refused chats")
