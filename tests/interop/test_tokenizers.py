"""Token ids against the `tokenizers` package, both directions.

Real files: SmolLM2's tokenizer.json and Llama-3's rank file (from $SOTTO_SHARED/data/tokenizers). The real files of Llama-2,
Mistral, Qwen2, GPT-2 and Llama-3's tokenizer.json are not at hand: tokenizers of their kind (same normalizer, pre-tokenizer,
model options, post-processor and decoder) are trained here on the evaluation texts.
Texts: all of WikiText-2 valid, the TinyStories sample and tinyshakespeare, and 10,000 random strings of Unicode 14.

Run: pytest tests/interop/test_tokenizers.py   (SOTTO_BIN: the program, default build/bin/sotto)
"""

import base64
import functools
import json
import os
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared"))
SOTTO = os.environ.get("SOTTO_BIN", str(ROOT / "build/bin/sotto"))
EVAL = [SHARED / "data/eval" / f for f in ("wikitext2_valid.txt", "tinystories_sample.txt", "tinyshakespeare.txt")]
N_RANDOM = 10_000

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

pytestmark = pytest.mark.skipif(not EVAL[0].exists(), reason="SOTTO_SHARED has no data/eval")


# Texts


def random_strings(n, seed=1):
    """Strings of assigned code points: scripts, marks, emoji, digits, spaces of all kinds, controls."""
    assert unicodedata.unidata_version.startswith("14"), "Python 3.11 knows Unicode 14"
    by_category = {}
    for cp in range(1, 0x110000):
        c = unicodedata.category(chr(cp))
        if c not in ("Cn", "Cs"):
            by_category.setdefault(c, []).append(chr(cp))
    everything = [c for k, v in by_category.items() if k != "Co" for c in v]
    spaces = by_category["Zs"] + list("\t\n\r\v\f\x85\u2028\u2029\u180e\u200b\u200c\u200d\ufeff")
    digits = by_category["Nd"] + by_category["Nl"] + by_category["No"]
    marks = by_category["Mn"] + by_category["Mc"] + by_category["Me"]
    emoji = [chr(c) for c in range(0x1F300, 0x1F650)] + list("\u200d\ufe0f\u20e3") + [chr(c) for c in range(0x1F3FB, 0x1F400)]
    rtl = [chr(c) for c in range(0x5D0, 0x5EB)] + [chr(c) for c in range(0x620, 0x670)]
    cjk = [chr(c) for c in range(0x4E00, 0x9FFD)] + [chr(c) for c in range(0x3041, 0x30FF)] + [chr(c) for c in range(0xAC00, 0xD7A4)]
    ascii_ = [chr(c) for c in range(32, 127)]
    words = "the 's 'T 'Re 've I'm we'll 'D \u017f '\u017f don't 2023 1234567 e\u0301 <|x|> \u2581 <0x41> [INST] ...\n\n\n".split(" ")
    pools = [ascii_, ascii_, words, everything, everything, spaces, digits, marks, emoji, rtl, cjk, by_category["Co"][:100], ["a", "1", " "]]
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        mix = rng.sample(pools, rng.randint(1, 4)) if rng.random() < 0.8 else pools
        out.append("".join(rng.choice(rng.choice(mix)) for _ in range(rng.randint(1, 60))))
    return out


@pytest.fixture(scope="session")
def texts():
    files = [f.read_bytes().decode() for f in EVAL]
    lines = [p for f in files for p in f.split("\n\n") if p]
    return {"files": files, "lines": lines, "random": random_strings(N_RANDOM)}


# The program


def sotto(*args):
    p = subprocess.run([SOTTO, "tokenize", *map(str, args)], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return [json.loads(line) for line in p.stdout.split("\n") if line]


def encode(tokenizer, docs, tmp_path, *options):
    f = tmp_path / "docs"
    f.write_bytes(b"".join(d.encode() + b"\0" for d in docs))
    return sotto(tokenizer, "--batch", f, *options)


def decode(tokenizer, lists, tmp_path, *options):
    f = tmp_path / "ids"
    f.write_text("".join(json.dumps(ids) + "\n" for ids in lists))
    return sotto(tokenizer, "--decode-batch", f, *options)


# Tokenizers


def train(tok, size, specials, texts, alphabet=True):
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
        limit_alphabet=1000,
    )
    tok.train_from_iterator((t[:250_000] for t in texts["files"]), trainer)
    return tok


def gpt2(texts, prefix_space=False):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(t, 4000, ["<|endoftext|>"], texts)


def gpt2_prefix_space(texts):
    return gpt2(texts, True)


def llama3_json(texts):
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    t.decoder = decoders.ByteLevel()
    train(t, 4000, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], texts)
    t.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[("<|begin_of_text|>", 0)]
            ),
        ]
    )
    return t


def qwen2(texts):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    t.decoder = decoders.ByteLevel()
    train(t, 4000, [], texts)
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    # Kinds of added tokens that the files above do not use.
    t.add_tokens([AddedToken("caf\u00e9", normalized=True), AddedToken("word", single_word=True, normalized=False)])
    t.add_special_tokens([AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True), AddedToken("<n>", normalized=True)])
    return t


@functools.cache
def sentencepiece_json():
    """A BPE with byte tokens, as the Llama-2 and Mistral files have it: bytes in the vocabulary but not added tokens."""
    texts = {"files": [f.read_bytes().decode() for f in EVAL]}
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    control = ["<unk>", "<s>", "</s>"]
    train(t, 4000, control + [f"<0x{b:02X}>" for b in range(256)], texts, alphabet=False)
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if a["content"] in control]
    return json.dumps(j)


def sentencepiece():
    t = Tokenizer.from_str(sentencepiece_json())
    t.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


def llama2(_):
    t = sentencepiece()
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.pre_tokenizer = None
    return t


def mistral(_):
    t = sentencepiece()
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return t


def metaspace_split(_):
    t = sentencepiece()
    t.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="always"), decoders.ByteFallback(), decoders.Fuse()])
    return t


def no_bytes(_):
    """Without byte fallback: characters that are not known become <unk>, runs of them one."""
    j = json.loads(sentencepiece().to_str())
    j["model"]["byte_fallback"] = False
    return Tokenizer.from_str(json.dumps(j))


def smollm2(_):
    return Tokenizer.from_file(str(SHARED / "data/tokenizers/smollm2_tokenizer.json"))


def llama3_ranks(_):
    """The reference of the rank file: BPE over all pairs whose joint is a token, ranked by it; Meta's control tokens."""
    path = SHARED / "data/tokenizers/llama3_tokenizer.model"
    ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in path.read_text().splitlines())}
    letter = {}
    free = 0x100
    for b in range(256):
        plain = 33 <= b <= 126 or 161 <= b <= 172 or b >= 174
        letter[b] = chr(b if plain else free)
        free += not plain
    name = {t: "".join(letter[b] for b in t) for t in ranks}
    merges = [(r, i, t) for t, r in ranks.items() for i in range(1, len(t)) if t[:i] in ranks and t[i:] in ranks]
    merges.sort(key=lambda m: (m[0], m[1]))
    t = Tokenizer(
        models.BPE(
            vocab={name[t]: r for t, r in ranks.items()},
            merges=[(name[t[:i]], name[t[i:]]) for _, i, t in merges],
            ignore_merges=True,
        )
    )
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    t.decoder = decoders.ByteLevel()
    named = "begin_of_text end_of_text reserved_special_token_0 reserved_special_token_1 finetune_right_pad_id step_id "
    named += "start_header_id end_header_id eom_id eot_id python_tag image"
    names = named.split() + [f"reserved_special_token_{i}" for i in range(2, 246)]
    t.add_special_tokens([f"<|{n}|>" for n in names])
    assert t.get_vocab_size() == 128256
    return t


KINDS = [smollm2, llama3_ranks, llama2, mistral, qwen2, gpt2, llama3_json]
OPTIONS = [gpt2_prefix_space, metaspace_split, no_bytes]  # single options of the format


@pytest.fixture(scope="session", params=KINDS + OPTIONS, ids=lambda k: k.__name__)
def pair(request, texts, tmp_path_factory):
    """The reference, and the file that the program reads."""
    reference = request.param(texts)
    if request.param is llama3_ranks:
        return reference, SHARED / "data/tokenizers/llama3_tokenizer.model", request.param
    path = tmp_path_factory.mktemp("tok") / "tokenizer.json"
    if request.param is smollm2:
        return reference, SHARED / "data/tokenizers/smollm2_tokenizer.json", request.param
    reference.save(str(path))
    return reference, path, request.param


# The tests


@pytest.mark.parametrize("part", ["files", "lines", "random"])
def test_ids_equal_both_ways(pair, texts, part, tmp_path):
    reference, path, kind = pair
    docs = texts[part]
    if part == "lines" and path.name == "tokenizer.json":
        docs = docs[::4]  # "files" has read all of them
    if part == "files" and kind in OPTIONS:
        docs = docs[:1]
    want = [e.ids for e in reference.encode_batch(docs, add_special_tokens=False)]
    got = encode(path, docs, tmp_path, "--special")
    assert len(got) == len(want)
    wrong = [i for i, (a, b) in enumerate(zip(got, want)) if a != b]
    assert not wrong, f"{len(wrong)} of {len(docs)} differ, first {docs[wrong[0]]!r}"
    back = decode(path, want, tmp_path)
    text = reference.decode_batch(want, skip_special_tokens=False)
    wrong = [i for i, (a, b) in enumerate(zip(back, text)) if a != b]
    assert not wrong, f"{len(wrong)} of {len(docs)} decode differently, first {want[wrong[0]][:50]}"


def test_random_ids_decode_equally(pair, tmp_path):
    """Ids that no text has: pieces of characters, byte tokens in any order, special tokens in between."""
    reference, path, _ = pair
    rng = random.Random(2)
    n = reference.get_vocab_size()
    low = min(n, 600)
    lists = [[rng.randrange(rng.choice((low, n))) for _ in range(rng.randint(1, 30))] for _ in range(3000)]
    for skip in (False, True):
        want = reference.decode_batch(lists, skip_special_tokens=skip)
        got = decode(path, lists, tmp_path, *(["--skip-special"] if skip else []))
        wrong = [i for i, (a, b) in enumerate(zip(got, want)) if a != b]
        assert not wrong, f"skip {skip}: {len(wrong)} differ, first {lists[wrong[0]]}"


def test_special_tokens_in_texts(pair, tmp_path):
    """Written-out special tokens become ids when asked, and stay text when not; BOS where the post-processor adds it."""
    reference, path, _ = pair
    added = [t.content for t in reference.get_added_tokens_decoder().values()][:12]
    rng = random.Random(3)
    glue = ["", " ", "  ", "a", "word", " word ", "\n", "caf\u00e9", "cafe\u0301", "<", "<|", "\u2581", "7"]
    docs = ["".join(rng.choice(added if rng.random() < 0.4 else glue) for _ in range(rng.randint(1, 12))) for _ in range(2000)]
    docs = [d for d in docs if d]
    want = [e.ids for e in reference.encode_batch(docs, add_special_tokens=False)]
    assert encode(path, docs, tmp_path, "--special") == want
    want = [e.ids for e in reference.encode_batch(docs, add_special_tokens=True)]
    if path.suffix == ".json":  # a rank file means BOS, the reference made of it has no post-processor
        assert encode(path, docs, tmp_path, "--special", "--bos") == want
    reference.encode_special_tokens = True
    want = [e.ids for e in reference.encode_batch(docs, add_special_tokens=False)]
    reference.encode_special_tokens = False
    assert encode(path, docs, tmp_path) == want
