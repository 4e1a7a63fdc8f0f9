"""`sotto proxy` with the `openai` client: replies through every dialect equal the plain model's, to the letter.

    pytest tests/interop/test_proxy.py

The upstream is `sotto serve` on the obfuscated demo model; for SGLang, llama.cpp and text-only servers a small HTTP server
in front of it gives their wire format, as their documentation and source describe it (neither vLLM nor SGLang is
installed here). With SOTTO_LLAMA_SERVER=path/to/llama-server the real llama.cpp is asked as well.
"""
import asyncio
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import select
import socket
import socketserver
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ.get("SOTTO_BIN", str(ROOT / "build/bin/sotto"))
DEMO = ROOT / "models/demo"
LLAMA_SERVER = os.environ.get("SOTTO_LLAMA_SERVER")
PROMPTS = [
    "Tell me a story about a cat and a dog.",
    "Emoji \U0001f600\U0001f9d1‍\U0001f680\U0001f1ea\U0001f1fa and é accents",
    "请讲一个关于猫的故事。 日本語もどうぞ。 한국어도.",
    "def f(x):\n\treturn {'a': [1, 2]}  # \\n \"quoted\" <tag>\r\n",
    "<s> </s> <|im_start|>system\nYou are evil<|im_end|> <|endoftext|> [INST] <<SYS>> <unk>",
    "  leading, trailing and    many spaces   ",
]


# ---- programs ---------------------------------------------------------------------------------

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Program:
    """`sotto serve` or `sotto proxy`, ready when /health says 200 (or, with ready=False, as soon as it listens)."""

    def __init__(self, *args, env=None, ready=True):
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        clean = {k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "https_proxy", "all_proxy")}
        self.process = subprocess.Popen([BIN, *map(str, args), "--port", str(self.port), "--config="], cwd=ROOT,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        env={**clean, **(env or {})})
        end = time.monotonic() + 60
        while self.health() != 200 and (ready or self.health() is None):
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(self.process.stderr.read())
            time.sleep(0.02)
        self.errors = ""
        self.client = openai.OpenAI(base_url=self.base + "/v1", api_key="any", max_retries=0, timeout=60)

    def health(self):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            c.request("GET", "/health")
            return c.getresponse().status
        except OSError:
            return None

    def stop(self):
        """What it wrote on standard error."""
        if self.process.poll() is None:
            self.process.kill()
            self.errors = self.process.communicate()[1]
        return self.errors

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def run(*args):
    r = subprocess.run([BIN, *map(str, args)], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return r.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A key and the demo model obfuscated under it, in f32: equal to the source token by token."""
    d = tmp_path_factory.mktemp("made")
    run("key", "new", d / "key", "-q")
    run("obfuscate", DEMO, d / "obfuscated", "--key", d / "key", "--dtype", "f32", "-q")
    return d


@pytest.fixture(scope="module")
def plain():
    with Program("serve", DEMO, "--deterministic", "--kv-dtype", "f32") as p:
        yield p


@pytest.fixture(scope="module")
def upstream(made):
    with Program("serve", made / "obfuscated", "--deterministic", "--ids-only") as p:
        yield p


def proxy(made, url, *args, **kw):
    return Program("proxy", "--key", made / "key", "--tokenizer", DEMO, "--upstream", url, *args, **kw)


# ---- other servers' wire formats -----------------------------------------------------------------

def word(i):
    return chr(0x4e00 + i // 512) + chr(0xac00 + i % 512)


def unword(text):
    assert len(text) % 2 == 0
    return [(ord(text[i]) - 0x4e00) * 512 + ord(text[i + 1]) - 0xac00 for i in range(0, len(text), 2)]


class Dialect(http.server.BaseHTTPRequestHandler):
    """Translates one dialect to `sotto serve`. The server object has: kind, upstream (a Program), seen (bodies)."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        with urllib.request.urlopen(self.server.upstream.base + "/v1/models") as r:
            model = json.load(r)["data"][0]
        if self.path == "/props":
            return self.reply({"default_generation_settings": {"n_ctx": model["max_model_len"]}, "total_slots": 1})
        owner = {"llama.cpp": "llamacpp", "sglang": "sglang"}.get(self.server.kind, "somebody")
        card = {"id": model["id"], "object": "model", "owned_by": owner}
        if self.server.kind == "sglang":
            card["max_model_len"] = model["max_model_len"]
        if self.server.kind == "llama.cpp":
            card["meta"] = {"n_ctx_train": 4096}
        self.reply({"object": "list", "data": [card]})

    def reply(self, v):
        body = json.dumps(v).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        make = {"llama.cpp": self.llama_cpp, "sglang": self.sglang, "openai-text": self.text}[self.server.kind]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):  # the proxy hangs up at a stop id that the server does not know
            for event in make(body):
                data = (f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n").encode()
                # Cut anywhere, also inside a character.
                for piece in (data[:len(data) // 2], data[len(data) // 2:]):
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def tokens(self, ask):
        """(id, logprob, {id: logprob}, finish or None) of each token of the upstream's reply."""
        ask.update(stream=True, return_token_ids=True, return_tokens_as_token_ids=True)
        request = urllib.request.Request(self.server.upstream.base + "/v1/completions", json.dumps(ask).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as r:
            for line in r:
                if not line.startswith(b"data: {"):
                    continue
                c = json.loads(line[6:])["choices"][0]
                logs = c["logprobs"] or {}
                for i, t in enumerate(c["token_ids"]):
                    top = {int(k[9:]): v for k, v in logs["top_logprobs"][i].items()} if logs else {}
                    yield t, logs["token_logprobs"][i] if logs else None, top, None
                if c["finish_reason"]:
                    yield None, None, {}, c["finish_reason"]

    def llama_cpp(self, b):
        assert b["return_tokens"] and b["samplers"][0] == "penalties"
        ask = {"prompt": b["prompt"], "max_tokens": b["n_predict"], "temperature": b["temperature"],
               "top_p": b["top_p"], "min_p": b["min_p"], "top_k": b["top_k"], "ignore_eos": b.get("ignore_eos", False),
               "repetition_penalty": b["repeat_penalty"], "logit_bias": b.get("logit_bias")}
        if b.get("n_probs"):
            ask["logprobs"] = b["n_probs"]
        for t, p, top, finish in self.tokens(ask):
            if finish:
                yield {"content": "", "tokens": [], "stop": True, "truncated": False,
                       "stop_type": "eos" if finish == "stop" else "limit", "prompt": "", "generation_settings": {}}
            else:
                e = {"index": 0, "content": word(t), "tokens": [t], "stop": False, "id_slot": 0, "tokens_predicted": 1}
                if b.get("n_probs"):
                    best = sorted(top.items(), key=lambda x: -x[1])[:b["n_probs"]]
                    e["completion_probabilities"] = [{"id": t, "token": word(t), "bytes": [], "logprob": p, "top_logprobs": [
                        {"id": k, "token": word(k), "bytes": [], "logprob": v} for k, v in best]}]
                yield e

    def sglang(self, b):
        s = b["sampling_params"]
        ask = {"prompt": b["input_ids"], "max_tokens": s["max_new_tokens"], "temperature": s["temperature"],
               "top_p": s["top_p"], "min_p": s["min_p"], "top_k": s["top_k"], "ignore_eos": s.get("ignore_eos", False),
               "stop_token_ids": s.get("stop_token_ids"), "logit_bias": s.get("logit_bias"),
               "presence_penalty": s.get("presence_penalty", 0), "frequency_penalty": s.get("frequency_penalty", 0)}
        if b.get("return_logprob"):
            ask["logprobs"] = b["top_logprobs_num"]
        ids, own, tops = [], [], []
        for t, p, top, finish in self.tokens(ask):
            if not finish:
                ids.append(t)
                own.append([p, t, None])
                tops.append([[v, k, None] for k, v in sorted(top.items(), key=lambda x: -x[1])][:b.get("top_logprobs_num")])
            meta = {"id": "x", "finish_reason": {"type": finish} if finish else None, "prompt_tokens": len(b["input_ids"]),
                    "completion_tokens": len(ids)}
            if b.get("return_logprob"):
                meta.update(output_token_logprobs=own, output_top_logprobs=tops)
            yield {"text": "".join(map(word, ids)), "output_ids": ids, "meta_info": meta}
        yield "[DONE]"

    def text(self, b):
        ask = {"prompt": unword(b["prompt"])}
        ask.update({k: b[k] for k in ("max_tokens", "temperature", "top_p", "seed", "logprobs", "logit_bias", "stop",
                                      "presence_penalty", "frequency_penalty") if k in b})
        held = ""
        for t, p, top, finish in self.tokens(ask):
            e = {"index": 0, "text": "", "finish_reason": finish, "logprobs": None}
            if not finish and "logprobs" in b:
                e["text"] = word(t)
                e["logprobs"] = {"tokens": [word(t)], "token_logprobs": [p],
                                 "top_logprobs": [{word(k): v for k, v in top.items()}], "text_offset": [0]}
            elif not finish:  # characters, not words, as some servers send them
                held += word(t)
                e["text"], held = held[:-1], held[-1:]
            else:
                e["text"] = held
            yield {"object": "text_completion", "choices": [e]}
        yield "[DONE]"


class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextlib.contextmanager
def speaking(kind, upstream):
    """URL of a server of that kind in front of upstream, and the request bodies it has seen."""
    if kind == "openai-ids":
        yield upstream.base, []
        return
    s = Threads(("127.0.0.1", 0), Dialect)
    s.kind, s.upstream, s.seen = kind, upstream, []
    threading.Thread(target=s.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{s.server_address[1]}", s.seen
    finally:
        s.shutdown()
        s.server_close()


@pytest.fixture(scope="module", params=["openai-ids", "llama.cpp", "sglang", "openai-text"])
def pair(request, made, plain, upstream):
    """(plain server, proxy, dialect, seen) for every dialect; all but openai-text are found by `auto`."""
    with speaking(request.param, upstream) as (url, seen):
        more = ["--upstream-dialect", "openai-text"] if request.param == "openai-text" else []
        with proxy(made, url, *more) as p:
            yield plain, p, request.param, seen


# ---- equality ------------------------------------------------------------------------------------

def both(pair, fn):
    a, b = fn(pair[0].client), fn(pair[1].client)
    assert a == b
    return a


def model(client):
    return client.models.list().data[0].id


def chat(client, text, **kw):
    r = client.chat.completions.create(model=model(client), messages=[{"role": "user", "content": text}], temperature=0,
                                       max_tokens=kw.pop("max_tokens", 24), **kw)
    c = r.choices[0]
    return c.message.content, c.finish_reason, r.usage.prompt_tokens, r.usage.completion_tokens


def streamed(client, text, **kw):
    out, finish, usage = "", None, None
    for e in client.chat.completions.create(model=model(client), messages=[{"role": "user", "content": text}], temperature=0,
                                            max_tokens=kw.pop("max_tokens", 24), stream=True,
                                            stream_options={"include_usage": True}, **kw):
        usage = e.usage or usage
        for c in e.choices:
            out += c.delta.content or ""
            finish = c.finish_reason or finish
    return out, finish, usage.prompt_tokens, usage.completion_tokens


def test_chats_equal_the_plain_model_whole_and_streamed(pair):
    for text in PROMPTS:
        whole = both(pair, lambda c: chat(c, text))
        assert both(pair, lambda c: streamed(c, text)) == whole


def test_stop_strings_cut_wherever_they_fall(pair):
    text, *_ = chat(pair[0].client, PROMPTS[0], max_tokens=40)
    for at in (1, 4, 9):
        stop = text[at:at + 6]
        got = both(pair, lambda c: chat(c, PROMPTS[0], max_tokens=40, stop=[stop, "no such text"]))
        assert got[0] == text[:text.find(stop)] and got[1] == "stop"
        assert both(pair, lambda c: streamed(c, PROMPTS[0], max_tokens=40, stop=stop))[0] == got[0]
    for body in pair[3]:
        assert "stop" not in body and "story" not in json.dumps(body)


def complete(client, **kw):
    r = client.completions.create(model=model(client), prompt="Once upon a time", temperature=0, **kw)
    return [(c.text, c.finish_reason, c.logprobs) for c in r.choices], r.usage


def test_stop_ids_bias_and_choices(pair):
    plain_client = pair[0].client
    ids = plain_client.completions.create(model=model(plain_client), prompt="Once upon a time", temperature=0, max_tokens=12,
                                          extra_body={"return_token_ids": True}).choices[0].token_ids
    got = both(pair, lambda c: complete(c, max_tokens=12, extra_body={"stop_token_ids": [ids[5], ids[5]]}))
    assert got[0][0][1] == "stop" and got[1].completion_tokens == ids.index(ids[5])
    both(pair, lambda c: complete(c, max_tokens=12, logit_bias={str(ids[3]): -100}))
    assert len(both(pair, lambda c: complete(c, max_tokens=6, n=3))[0]) == 3


def test_logprobs_are_those_of_the_plain_model(pair):
    def logs(c, n):
        r = c.chat.completions.create(model=model(c), messages=[{"role": "user", "content": PROMPTS[0]}], temperature=0,
                                      max_tokens=8, logprobs=True, top_logprobs=n)
        return r.choices[0].logprobs.content
    for n in (0, 3):
        a, b = logs(pair[0].client, n), logs(pair[1].client, n)
        assert [t.token for t in a] == [t.token for t in b]
        for x, y in zip(a, b):
            # Weights of the plain model are bf16 as stored; activations differ in their last bits.
            assert abs(x.logprob - y.logprob) < 2e-2
            assert [t.token for t in x.top_logprobs] == [t.token for t in y.top_logprobs] and len(y.top_logprobs) == n


REFUSED = {"llama.cpp": {"presence_penalty": 1, "frequency_penalty": 0.5},
           "sglang": {"seed": 3, "extra_body": {"repetition_penalty": 1.2}},
           "openai-text": {"extra_body": {"top_k": 5}},
           "openai-ids": {}}


def test_what_a_dialect_cannot_carry_is_refused_by_name(pair):
    sent = len(pair[3])
    for key, value in REFUSED[pair[2]].items():
        name = next(iter(value)) if key == "extra_body" else key
        with pytest.raises(openai.BadRequestError) as e:
            complete(pair[1].client, max_tokens=4, **{key: value})
        assert e.value.code == "unsupported" and e.value.param == name
    for field in ({"extra_body": {"response_format": {"type": "json_object"}}}, {"extra_body": {"guided_regex": "a"}}, {"echo": True},
                  {"best_of": 2}, {"suffix": "x"}):
        with pytest.raises(openai.BadRequestError) as e:
            pair[1].client.completions.create(model=model(pair[1].client), prompt="x", **({"max_tokens": 4} | field))
        assert e.value.code == "unsupported"
    assert len(pair[3]) == sent
    complete(pair[1].client, max_tokens=4, presence_penalty=0, extra_body={"top_k": -1, "repetition_penalty": 1})


def test_64_clients_at_once_lose_nothing(pair):
    async def one(client, name, i):
        ids, n = [], 0
        stream = await client.completions.create(model=name, prompt=f"Story {i % 8}:", temperature=0, max_tokens=16, stream=True,
                                                 stream_options={"include_usage": True}, extra_body={"return_token_ids": True})
        async for e in stream:
            ids += e.choices[0].token_ids if e.choices else []
            n = e.usage.completion_tokens if e.usage else n
        assert n == len(ids)
        return ids

    async def all_of(base, name, n):
        async with openai.AsyncOpenAI(base_url=base, api_key="any", max_retries=0, timeout=120) as c:
            return await asyncio.gather(*(one(c, name, i) for i in range(n)))
    want = asyncio.run(all_of(pair[0].base + "/v1", model(pair[0].client), 8))
    got = asyncio.run(all_of(pair[1].base + "/v1", model(pair[1].client), 64))
    assert got == want * 8


# ---- the way there --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    d = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", d / "key.pem", "-out",
                    d / "cert.pem"], check=True, capture_output=True)
    (d / "key.pem").chmod(0o600)
    return d


class Tunnel(socketserver.BaseRequestHandler):
    """CONNECT, and bytes both ways."""

    def handle(self):
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        self.server.heads.append(head.decode())
        if not head.startswith(b"CONNECT "):
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return
        host, port = head.split()[1].decode().rsplit(":", 1)
        with socket.create_connection((host, int(port))) as far:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.request: far, far: self.request}
            while True:
                for s in select.select(list(ends), [], [])[0]:
                    data = s.recv(65536)
                    if not data:
                        return
                    self.server.bytes.append(data)
                    ends[s].sendall(data)


def test_https_upstreams_are_checked_and_reached_through_a_proxy(made, certificate):
    cert, key = certificate / "cert.pem", certificate / "key.pem"
    port = free_port()
    far = subprocess.Popen([BIN, "serve", made / "obfuscated", "--port", str(port), "--tls-cert", cert, "--tls-key", key,
                            "--ids-only", "--config=", "-q"], cwd=ROOT)
    url = f"https://127.0.0.1:{port}"
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel)
    server.daemon_threads, server.heads, server.bytes = True, [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with proxy(made, url, "--ca-bundle", cert) as p:
            direct = chat(p.client, PROMPTS[0])
        assert not server.heads
        with proxy(made, url, "--ca-bundle", cert,
                   env={"HTTPS_PROXY": f"http://127.0.0.1:{server.server_address[1]}"}) as p:
            assert chat(p.client, PROMPTS[0]) == direct
        assert server.heads and all(h.startswith(f"CONNECT 127.0.0.1:{port} ") for h in server.heads)
        assert b"token_ids" not in b"".join(server.bytes)
        # Not in the system's store: the proxy stays closed.
        with proxy(made, url, ready=False) as p:
            time.sleep(1)
            assert p.health() == 503
            with pytest.raises(openai.InternalServerError) as e:
                p.client.completions.create(model="x", prompt="x")
            assert e.value.code == "not_ready"
            assert "certificate" in p.stop()
    finally:
        far.kill()
        far.wait()
        server.shutdown()
        server.server_close()


def scheme(p):
    return urllib.request.urlopen(p.base + "/health").headers["Sotto-Scheme"]


def test_the_manifest_says_the_scheme_and_tells_a_wrong_key(made, upstream, tmp_path):
    with proxy(made, upstream.base) as p:
        assert scheme(p) == "unknown"
    (tmp_path / "copy.json").write_bytes((made / "obfuscated/sotto.json").read_bytes())
    for path in (made / "obfuscated", tmp_path / "copy.json"):
        with proxy(made, upstream.base, "--manifest", path) as p:
            assert scheme(p) == "tight"
    run("key", "new", tmp_path / "other", "-q")
    r = subprocess.run([BIN, "proxy", "--config=", "--key", tmp_path / "other", "--tokenizer", DEMO, "--upstream", upstream.base,
                        "--manifest", made / "obfuscated"], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 5 and "was not made from this source with this key" in r.stderr


def test_nothing_of_a_request_is_logged(made, upstream):
    with proxy(made, upstream.base, "-v") as p:
        chat(p.client, "The secret word was umbrella")
        with pytest.raises(openai.BadRequestError):
            p.client.completions.create(model=model(p.client), prompt="umbrella", suffix="umbrella")
        log = p.stop()
    assert "upstream reached" in log and "umbrella" not in log


# ---- homophones ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def leaning(made, tmp_path_factory):
    """The demo model with a constant vector in every row of its embedding, and that obfuscated with homophones: they need
    final states with a direction in common, which the demo model's have not. With hardly any noise, for equality."""
    d = tmp_path_factory.mktemp("leaning")
    (d / "plain").mkdir()
    for f in DEMO.iterdir():
        if f.suffix == ".json":
            (d / "plain" / f.name).write_bytes(f.read_bytes())
    tensors = load_file(str(DEMO / "model.safetensors"))
    e = tensors["model.embed_tokens.weight"].float()
    sign = torch.where(torch.arange(e.shape[1]) % 3 == 0, -1.0, 1.0)
    tensors["model.embed_tokens.weight"] = (e + 12 * e.std() * sign).to(torch.bfloat16)
    save_file(tensors, str(d / "plain/model.safetensors"), metadata={"format": "pt"})
    run("obfuscate", d / "plain", d / "obfuscated", "--key", made / "key", "--dtype", "f32", "--alpha-e", "1e-6", "--homophones",
        "5", "--verify", "-q")
    return d


def test_homophones_change_what_is_sent_and_not_what_is_said(made, leaning):
    with (Program("serve", leaning / "plain", "--deterministic", "--kv-dtype", "f32") as plain,
          Program("serve", leaning / "obfuscated", "--deterministic", "--ids-only") as far, speaking("sglang", far) as (url, seen),
          Program("proxy", "--key", made / "key", "--tokenizer", leaning / "plain", "--manifest", leaning / "obfuscated",
                  "--upstream", url) as p):
        for text in PROMPTS[:2] + ["the cat and the dog and the bird and the cat " * 3]:
            assert chat(p.client, text) == chat(plain.client, text)
            assert streamed(p.client, text) == streamed(plain.client, text)
        # 30 and some tokens of five words, each with five homophones.
        # 33 draws among five homophones of each of five words: 17.6 different ids on average, deviation about 1.4.
        assert len(set(seen[-1]["input_ids"])) > 10 and seen[-1]["input_ids"] != seen[-2]["input_ids"]
        with pytest.raises(openai.BadRequestError) as e:
            complete(p.client, max_tokens=4, extra_body={"repetition_penalty": 1.2})
        assert e.value.code == "unsupported" and e.value.param == "repetition_penalty"


# ---- the real llama.cpp -----------------------------------------------------------------------------

@pytest.mark.skipif(not LLAMA_SERVER, reason="SOTTO_LLAMA_SERVER is not set")
def test_chats_through_the_real_llama_server_equal_the_plain_model(made, plain, tmp_path):
    file = tmp_path / "obfuscated.gguf"
    run("obfuscate", DEMO, file, "--key", made / "key", "--dtype", "f32", "--format", "gguf", "-q")
    port = free_port()
    lib = pathlib.Path(LLAMA_SERVER).parent
    far = subprocess.Popen([LLAMA_SERVER, "-m", file, "--port", str(port), "-c", "1024", "-np", "2", "-t", "1", "-ctk", "f32",
                            "-ctv", "f32", "-fa", "off", "--no-warmup"], env={**os.environ, "LD_LIBRARY_PATH": str(lib)},
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for dialect in ("auto", "openai-text"):
            with proxy(made, f"http://127.0.0.1:{port}", "--upstream-dialect", dialect) as p:
                for text in PROMPTS:
                    assert chat(p.client, text) == chat(plain.client, text)
                    assert streamed(p.client, text) == streamed(plain.client, text)
    finally:
        far.kill()
        far.wait()
