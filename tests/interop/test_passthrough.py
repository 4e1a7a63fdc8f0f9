"""The tokenizer of an obfuscated checkpoint: its words carry any ids through text, in transformers and in Sotto."""
import json
import os
import random
import subprocess

import pytest
from transformers import AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOTTO = os.environ.get("SOTTO_BIN", os.path.join(ROOT, "build", "bin", "sotto"))
with open(os.path.join(ROOT, "models", "demo", "config.json"), encoding="utf-8") as f:
    N_VOCAB = json.load(f)["vocab_size"]


def run(*args, **more):
    return subprocess.run([SOTTO, *args], capture_output=True, text=True, timeout=120, **more)


def word(i):
    return chr(0x4E00 + i // 512) + chr(0xAC00 + i % 512)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("passthrough")
    key, out = str(path / "k.key"), str(path / "cov")
    assert run("key", "new", key).returncode == 0
    p = run("obfuscate", os.path.join(ROOT, "models", "demo"), out, "--key", key)
    assert p.returncode == 0, p.stderr
    return out


@pytest.fixture(scope="module")
def sequences():
    rng = random.Random(5)
    rows = [[], [0], [N_VOCAB - 1], list(range(N_VOCAB))]
    return rows + [[rng.randrange(N_VOCAB) for _ in range(rng.randrange(1, 300))] for _ in range(200)]


def test_transformers_gives_the_ids_back_and_adds_nothing(checkpoint, sequences):
    tok = AutoTokenizer.from_pretrained(checkpoint)
    assert len(tok) == N_VOCAB
    assert not tok.all_special_ids
    for ids in sequences:
        text = tok.decode(ids)
        assert text == "".join(map(word, ids))
        assert tok.decode(ids, skip_special_tokens=True) == text
        assert tok(text)["input_ids"] == ids
        assert tok.encode(text) == ids


def test_text_that_is_no_word_is_an_error_not_a_token(checkpoint):
    tok = AutoTokenizer.from_pretrained(checkpoint)
    for text in ("Once upon a time", word(3) + " " + word(4), word(N_VOCAB), word(5)[:1]):
        with pytest.raises(Exception, match="WordLevel"):
            tok.encode(text)


def test_there_is_no_chat_template(checkpoint):
    tok = AutoTokenizer.from_pretrained(checkpoint)
    with pytest.raises(ValueError):
        tok.apply_chat_template([{"role": "user", "content": word(3)}])


def test_ours_reads_the_same_words(checkpoint, sequences, tmp_path):
    texts = tmp_path / "texts"
    texts.write_bytes(b"".join("".join(map(word, ids)).encode() + b"\0" for ids in sequences))
    p = run("tokenize", checkpoint, "--bos", "--batch", str(texts))
    assert p.returncode == 0, p.stderr
    assert [json.loads(line) for line in p.stdout.splitlines()] == sequences
    rows = tmp_path / "ids"
    rows.write_text("".join(json.dumps(ids) + "\n" for ids in sequences))
    p = run("tokenize", checkpoint, "--decode-batch", str(rows))
    assert [json.loads(line) for line in p.stdout.splitlines()] == ["".join(map(word, ids)) for ids in sequences]
    p = run("tokenize", checkpoint, "Once upon a time")
    assert p.returncode == 3 and "vocabulary" in p.stderr
