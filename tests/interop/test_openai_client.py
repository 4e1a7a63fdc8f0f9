"""The `openai` client against `sotto serve models/demo`: chats, completions, streams, stop strings, logprobs, errors, cancel,
a thousand streams at once, a soak, and SIGTERM. Needs the built program (SOTTO_BIN, default build/bin/sotto)."""
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import openai
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("SOTTO_BIN", os.path.join(ROOT, "build/bin/sotto"))
MODEL = os.path.join(ROOT, "models/demo")
STORY = "Once upon a time, there was a little"


class Server:
    def __init__(self, *args, key="any"):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen([BIN, "serve", MODEL, "--port", str(self.port), *args], cwd=ROOT,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(600):
            try:
                self.get("/health")
                break
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(self.process.stderr.read())
                time.sleep(0.05)
        self.client = openai.OpenAI(base_url=self.base + "/v1", api_key=key, max_retries=0, timeout=120)
        self.model = self.client.models.list().data[0].id

    def get(self, path):
        return urllib.request.urlopen(self.base + path, timeout=10).read().decode()

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+) kB", f.read()).group(1)) * 1024

    def metric(self, name):
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics"), re.M).group(1))

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def server():
    s = Server()
    yield s
    s.stop()


def wait_idle(server):
    for _ in range(400):
        if server.metric("sotto_requests_running") + server.metric("sotto_requests_waiting") == 0:
            return
        time.sleep(0.01)
    raise AssertionError("requests are still running")


def test_models(server):
    model = server.client.models.list().data[0]
    assert model.object == "model" and model.owned_by == "sotto"
    assert server.client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("other")


def test_chat(server):
    r = server.client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": STORY}],
                                              max_tokens=12, temperature=0)
    assert r.object == "chat.completion" and r.choices[0].message.role == "assistant"
    assert r.choices[0].finish_reason in ("stop", "length")
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens


def test_chat_stream_is_the_same_text(server):
    ask = dict(model=server.model, messages=[{"role": "user", "content": STORY}], max_tokens=24, temperature=0)
    whole = server.client.chat.completions.create(**ask)
    text, usage, finish = "", None, None
    for c in server.client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        if c.usage:
            usage = c.usage
        for choice in c.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert usage == whole.usage and finish == whole.choices[0].finish_reason


def test_completion_with_ids(server):
    ask = dict(model=server.model, max_tokens=8, temperature=0, extra_body={"return_token_ids": True})
    a = server.client.completions.create(prompt=STORY, **ask).choices[0]
    b = server.client.completions.create(prompt=a.prompt_token_ids, **ask).choices[0]
    assert a.text == b.text and a.token_ids == b.token_ids and len(a.token_ids) == 8
    ids = []
    for c in server.client.completions.create(prompt=a.prompt_token_ids, stream=True, **ask):
        ids += c.choices[0].token_ids
    assert ids == a.token_ids


def test_stop_strings_cut_wherever_they_fall(server):
    ask = dict(model=server.model, prompt=STORY, temperature=0, max_tokens=40)
    text = server.client.completions.create(**ask).choices[0].text
    for at in (1, 3, 7, 12):
        stop = text[at:at + 5]
        first = text.find(stop)
        r = server.client.completions.create(**ask, stop=["no such text", stop])
        assert r.choices[0].text == text[:first] and r.choices[0].finish_reason == "stop"
        streamed = "".join(c.choices[0].text for c in server.client.completions.create(**ask, stop=stop, stream=True))
        assert streamed == text[:first]


def test_logprobs(server):
    r = server.client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": STORY}], max_tokens=5,
                                              temperature=0, logprobs=True, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert len(content) == r.usage.completion_tokens
    for t in content:
        assert len(t.top_logprobs) == 3 and abs(t.logprob - t.top_logprobs[0].logprob) < 1e-5
        assert bytes(t.bytes).decode(errors="replace") == t.token
    text = b"".join(bytes(t.bytes) for t in content).decode(errors="replace")
    assert text.lstrip() == r.choices[0].message.content.lstrip()
    r = server.client.completions.create(model=server.model, prompt=STORY, max_tokens=4, temperature=0, logprobs=2)
    p = r.choices[0].logprobs
    assert len(p.tokens) == len(p.token_logprobs) == len(p.top_logprobs) == len(p.text_offset) == 4
    assert all(len(t) >= 2 and v <= 1e-4 for t, v in zip(p.top_logprobs, p.token_logprobs))


def test_choices_seed_and_bias(server):
    ask = dict(model=server.model, prompt=STORY, max_tokens=10, n=4, temperature=1, seed=11)
    a, b = (server.client.completions.create(**ask) for _ in range(2))
    assert [c.text for c in a.choices] == [c.text for c in b.choices]
    assert [c.index for c in a.choices] == [0, 1, 2, 3] and len({c.text for c in a.choices}) > 1
    r = server.client.completions.create(model=server.model, prompt=STORY, max_tokens=3, temperature=0,
                                         logit_bias={"300": 100}, extra_body={"return_token_ids": True, "ignore_eos": True})
    assert r.choices[0].token_ids == [300, 300, 300]


@pytest.mark.parametrize("extra,param,code", [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported"),
    ({"temperature": 9}, "temperature", "invalid_value"),
    ({"extra_body": {"frobnicate": 1}}, "frobnicate", "unknown_field"),
    ({"max_tokens": 10**6}, "max_tokens", "context_length_exceeded"),
])
def test_errors_name_the_field(server, extra, param, code):
    with pytest.raises(openai.BadRequestError) as e:
        server.client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": "x"}], **extra)
    assert e.value.param == param and e.value.code == code


def test_what_is_not_served_is_refused_by_name(server):
    with pytest.raises(openai.NotFoundError) as e:
        server.client.embeddings.create(model=server.model, input="x")
    assert e.value.code == "unsupported"
    with pytest.raises(openai.NotFoundError) as e:
        server.client.responses.create(model=server.model, input="x")
    assert e.value.code == "unsupported"
    with pytest.raises(openai.NotFoundError) as e:
        server.client.completions.create(model="gpt-4", prompt="x")
    assert e.value.code == "model_not_found"


def test_closing_a_stream_frees_its_place(server):
    stream = server.client.completions.create(model=server.model, prompt=STORY, max_tokens=400, stream=True,
                                              extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    wait_idle(server)


def thousand(server, n):
    """n streams at once; returns how many tokens each brought."""
    async def one(client):
        count = 0
        stream = await client.completions.create(model=server.model, prompt=STORY, max_tokens=8, stream=True,
                                                 extra_body={"ignore_eos": True, "return_token_ids": True})
        async for c in stream:
            count += len(c.choices[0].token_ids)
        return count

    async def all_of_them():
        # The client's own limit is 1,000 connections.
        async with openai.AsyncOpenAI(base_url=server.base + "/v1", api_key="any", max_retries=0, timeout=500) as client:
            return await asyncio.gather(*(one(client) for _ in range(n)))
    return asyncio.run(all_of_them())


def test_a_thousand_streams_at_once(server):
    before = server.rss()
    assert thousand(server, 1000) == [8] * 1000
    wait_idle(server)
    grown = server.rss() - before
    print(f"1000 streams: RSS grew by {grown / 2**20:.1f} MiB")
    assert grown < 300 << 20


def test_a_soak_leaks_nothing(server):
    body = json.dumps({"prompt": [300, 301, 302], "max_tokens": 2, "temperature": 0}).encode()
    request = urllib.request.Request(server.base + "/v1/completions", body, {"Content-Type": "application/json"})

    def some(n):
        for _ in range(n):
            urllib.request.urlopen(request, timeout=60).read()
        return server.rss()
    warm = some(400)
    end = some(2000)
    print(f"soak: RSS {warm / 2**20:.1f} -> {end / 2**20:.1f} MiB")
    assert end - warm < 4 << 20


def test_keys(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# staff\nright\n")
    keys.chmod(0o600)
    s = Server("--api-key-file", str(keys), key="right")
    try:
        wrong = openai.OpenAI(base_url=s.base + "/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as e:
            wrong.models.list()
        assert e.value.code == "invalid_api_key"
    finally:
        s.stop()


def test_sigterm_lets_running_requests_finish():
    s = Server()
    stream = s.client.completions.create(model=s.model, prompt=STORY, max_tokens=200, stream=True,
                                         extra_body={"ignore_eos": True, "return_token_ids": True})
    it = iter(stream)
    n = len(next(it).choices[0].token_ids)
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    with pytest.raises((openai.APIStatusError, openai.APIConnectionError)) as e:
        s.client.completions.create(model=s.model, prompt=STORY, max_tokens=1)
    if isinstance(e.value, openai.APIStatusError):
        assert e.value.status_code == 503 and e.value.code == "shutting_down"
    n += sum(len(c.choices[0].token_ids) for c in it)
    assert n == 200
    assert s.process.wait(timeout=20) == 0
    s.stop()
