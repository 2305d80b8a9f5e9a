"""Scores of LongBench's own metrics.py: test/golden/longbench.json, a list of {metric, prediction, ref, classes?, score}.

Not part of `make golden`, for it needs the reference and its packages: python3 scripts/golden/longbench.py DIR
DIR holds metrics.py of THUDM/LongBench and the package rouge of pltrdy/rouge; jieba 0.42.1 and fuzzywuzzy 0.18 are installed."""

import difflib
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import jieba
from fuzzywuzzy import StringMatcher, fuzz

import metrics

jieba.setLogLevel(60)
OUT = Path(__file__).resolve().parents[2] / "test" / "golden" / "longbench.json"
rng = random.Random(42)

cases = []


def add(metric, prediction, ref, classes=None):
    score = FUNCTIONS[metric](prediction, ref, all_classes=classes)
    cases.append(dict(metric=metric, prediction=prediction, ref=ref, **({"classes": classes} if classes else {}), score=score))


def code(matcher):
    def score(prediction, ref, **kwargs):
        fuzz.SequenceMatcher = matcher
        return metrics.code_sim_score(prediction, ref)

    return score


FUNCTIONS = {
    "qa_f1": metrics.qa_f1_score,
    "qa_f1_zh": metrics.qa_f1_zh_score,
    "rouge": metrics.rouge_score,
    "rouge_zh": metrics.rouge_zh_score,
    "classification": metrics.classification_score,
    "count": metrics.count_score,
    "retrieval": metrics.retrieval_score,
    "retrieval_zh": metrics.retrieval_zh_score,
    "code_sim": code(difflib.SequenceMatcher),
    "code_sim_levenshtein": code(StringMatcher.StringMatcher),
}

# English answers
for pair in [
    ("the cat sat", "a cat sat down"),
    ("", "cat"),
    ("cat", ""),
    ("the", "a"),
    ("An  apple,\tan orange; and the rest...", "apple orange rest"),
    ("Theatre of the absurd", "the theatre, of absurd"),
    ("über-cool naïve a\u00e9 the\u00e9", "über cool naïve"),
    ("don't can't", "dont cant"),
    ("“quoted” — the_end a1 the-end", "quoted theend a1"),
    ("x\u00a0y\u3000z\x1cw", "x y z w"),
    ("YES", "yes"),
    ("İstanbul ΣΑΣ", "istanbul σας"),
    ("a a a b", "a b b"),
]:
    add("qa_f1", *pair)

words = "the a report says that council bridge water river plan cost 12 3.5 members, (new) old; money was spent on road works and the".split()
for _ in range(25):
    text = lambda n: " ".join(rng.choice(words) for _ in range(n))
    add("qa_f1", text(rng.randint(0, 12)), text(rng.randint(1, 8)))

# summaries: sentences end at full stops, decimals too
def prose(sentences):
    text = ""
    for _ in range(sentences):
        text += " ".join(rng.choice(words) for _ in range(rng.randint(1, 12))) + rng.choice([". ", ".", ".\n", "... ", " . ", "! "])
    return text

for pair in [
    ("", "a b."),
    (".", "a b."),
    ("a b.", "."),
    (" ", "a b"),
    ("a b. ", "a b. "),
    ("a b.", "a b. "),
    ("a b c d", "b a d c"),
    ("x y z. z y x.", "x z y. y"),
    ("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5.", "w1 w2 w3 w4 w5."),
    ("A b", "a B"),
    ("one\ttwo\n\nthree", "one two three"),
]:
    add("rouge", *pair)
for _ in range(60):
    add("rouge", prose(rng.randint(1, 8)), prose(rng.randint(1, 8)))

# Chinese
zh = (
    "会议 讨论 了 明年 的 工作 计划 和 预算 问题 张三 认为 应该 先 修建 大桥 再 考虑 铁路 建设 李小明 不 同意 这个 意见 "
    "北京市 朝阳区 人民 政府 发布 通知 要求 各 单位 加强 管理 提高 效率 上海 浦东 新区 今年 第一 季度 经济 增长 百分之五 "
    "研究 生命 起源 南京市 长江大桥 结婚 的 和 尚未 结婚 的 他 来到 了 网易 杭研 大厦 小明 硕士 毕业 于 中国科学院 计算所 "
    "乒乓球 拍卖 完 了 这 是 一个 伸手不见五指 的 黑夜 我 叫 孙悟空 Python 和 C++ UTF-8 编码 2023年 3.5% 约 12-15 人 IBM-360 v2.0"
).split()
marks = ["，", "。", "、", "；", "：", "？", "！", "《", "》", "“", "”", "（", "）", " ", "…", "．", "\n", ",", "."]

def chinese(n):
    text = ""
    for _ in range(n):
        text += rng.choice(zh) + (rng.choice(marks) if rng.random() < 0.3 else "")
    return text

for pair in [
    ("", "北京"),
    ("北京市长", "北京市，长"),
    ("《红楼梦》", "红楼梦"),
    ("ＡＢＣ 全角", "abc 全角"),
    ("约12-15人参加UTF-8会议s-1GNU", "12-15人 utf-8"),
    ("答案是：３月１５日。", "3月15日"),
    ("、。，！", "，"),
    ("会议讨论了预算。", "会议讨论了预算"),
    ("今年增长3.5%，明年是2023年.", "今年增长3.5%，明年是2023年."),
]:
    add("qa_f1_zh", *pair)
    add("rouge_zh", *pair)
for _ in range(60):
    add("qa_f1_zh", chinese(rng.randint(1, 15)), chinese(rng.randint(1, 10)))
for _ in range(40):
    add("rouge_zh", chinese(rng.randint(3, 60)), chinese(rng.randint(3, 60)))

# classes
classes = ["red", "dark red", "blue", "dark", "very dark red", "Red", "re"]
for prediction in ["dark red", "very dark red", "blue", "red or blue", "Type: dark", "", "none", "very dark red blue"]:
    for ref in ["red", "dark red", "blue", "very dark red", "dark"]:
        for some in [classes, ["red", "dark red", "blue"], ["red", "dark", "very dark red"], classes[::-1]]:
            if rng.random() < 0.5:
                add("classification", prediction, ref, some)

# numbers
for prediction in ["there are 3 or 5", "5", "", "five", "5 5 3", "05", "The answer is 5.0", "٥ 5", "15, 5"]:
    add("count", prediction, "5")
    add("retrieval", prediction, "Paragraph 5")
    add("retrieval_zh", prediction, "段落5")
add("retrieval", "Paragraph 12", "It is Paragraph 12 or Paragraph 3")
add("retrieval_zh", "段落 12", "段落12")

# code
names = ["count", "total_size", "self.items", "i", "result", "node", "parent_id", "x"]
line = lambda: rng.choice(["return {}", "if {} is None:", "{} = {}[{}] + 1", "for {} in range({}):", "{}.append({}({}))", "        {} = {};"]).format(*(rng.choice(names) for _ in range(3)))
for pair in [
    ("```python\n# comment\nfoo()", "foo()"),
    ("\n\nfoo()", "foo()"),
    ("# only a comment", "foo()"),
    ("# only a comment", ""),
    ("", ""),
    ("foo() // bar", "foo()"),
    ("foo()", "    foo()"),
    ("a" * 300, "a" * 250),
    ("ab" * 150 + "cde", "edc" + "ba" * 120),
    ("x = 1", "y = 2"),
    ("naïve = “ü”", "naive = \"u\""),
    ("𝒙𝒚 = 1", "𝒙𝒛 = 1"),
]:
    add("code_sim", *pair)
    add("code_sim_levenshtein", *pair)
for _ in range(60):
    add("code_sim", line(), line())
    add("code_sim_levenshtein", line(), line())
for _ in range(15):
    add("code_sim", " ".join(line() for _ in range(12)), " ".join(line() for _ in range(12)))

OUT.write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n", encoding="utf-8")
print(len(cases), "cases")
