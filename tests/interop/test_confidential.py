"""The whole confidential protection: proxy, relay, gateway, nodes, engine, issuer, log and witness as they are built, each a
process of its own on loopback, talked to by the `openai` client.

    pytest tests/interop/test_confidential.py

What passes between them is recorded byte by byte and searched for what must not be there; every role is killed in the
middle of a stream; nodes are tampered with; the log is put back to an earlier state.
"""
import concurrent.futures
import contextlib
import json
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import openai
import pytest

from confidential import BIN, ENV, ROOT, System, command, until

STORY = "Once upon a time, there was a little girl named Lily who had a secret box with a golden"
CLIENT = "127.0.0.77"  # the address that the relay sees; nobody else may


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with System(tmp_path_factory.mktemp("confidential"), client=CLIENT, n_node=2) as w:
        yield w


def ask(world, text=STORY, n=40, **more):
    return world.client.chat.completions.create(model="demo", messages=[{"role": "user", "content": text}], temperature=0,
                                                max_tokens=n, **more)


def directly(world, text=STORY, n=40):
    c = openai.OpenAI(base_url=world.engine.url + "/v1", api_key="any", max_retries=0)
    r = c.chat.completions.create(model="demo", messages=[{"role": "user", "content": text}], temperature=0, max_tokens=n)
    return r.choices[0].message.content


@pytest.mark.parametrize("tpm", [True, False])
def test_the_demo_gets_the_engines_reply_and_refuses_a_tampered_node(tmp_path, tpm):
    if tpm and not shutil.which("swtpm"):
        pytest.skip("swtpm is not there")
    where = {} if tpm else {"PATH": "/nowhere"}
    r = subprocess.run([BIN, "demo", "--protect", "confidential", "--json", "-n", "24", "--config="], cwd=ROOT,
                       capture_output=True, text=True, timeout=60, env={**ENV, **where, "TMPDIR": str(tmp_path)})
    assert r.returncode == 0, r.stderr
    d = json.loads(r.stdout)
    assert d["reply_equal"] is True and d["reply"] == d["plain_reply"] and d["reply"]
    assert (d["protect"], d["scheme"], d["verified"]) == ("confidential", "tpm" if tpm else "sim", "evidence")
    assert d["tampered_refused"] is True and d["receipt_verified"] is True and d["checks"] > 5
    assert ("tpm.pcr.14" if tpm else "sim.measurement") in d["refusal"]
    assert "sealed" in d["sent"] and "Lily" not in d["sent"] + d["received"]
    assert not list(tmp_path.iterdir())


def test_a_chat_through_every_role_is_the_engines_own(world):
    want = directly(world)
    assert want
    whole = ask(world)
    assert whole.choices[0].message.content == want
    pieces = [c.choices[0].delta.content or "" for c in ask(world, stream=True) if c.choices]
    assert len(pieces) > 5 and "".join(pieces) == want
    answer = world.client.chat.completions.with_raw_response.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=4)
    assert answer.headers["sotto-protection"] == "confidential"
    assert answer.headers["sotto-verified"] == "evidence"
    status = world.status()
    nodes = status["detail"]["nodes"]
    assert len(nodes) == 2 and all(n["state"] == "verified" for n in nodes)
    checks = {c["name"]: c["result"] for c in nodes[0]["checks"]}
    assert checks["sim.signature"] == "pass" and checks["policy.sim.measurement"] == "pass"


def test_chats_at_once_get_each_its_own_reply(world):
    texts = [f"{STORY} {w}" for w in ("cat", "dog", "tree", "boat", "moon", "hat", "ball", "bird")]
    want = [directly(world, t, n=20) for t in texts]
    assert len(set(want)) > 4
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda t: ask(world, t, n=20).choices[0].message.content, texts * 2))
    assert got == want * 2


def test_kept_receipts_verify_and_others_do_not(world):
    ask(world, n=5)
    kept = sorted(world.receipts.glob("*.receipt"), key=lambda p: p.stat().st_mtime)
    bundles = list(world.receipts.glob("*.bundle"))
    assert kept and bundles
    for path in kept[-3:]:
        base = str(path)[:-len(".receipt")]
        codes = [world.attest_receipt(path, b, base + ".request", base + ".reply") for b in bundles]
        assert 0 in codes, codes
        assert set(codes) <= {0, 5}
        good = bundles[codes.index(0)]
        assert world.attest_receipt(path, good, base + ".reply", base + ".reply") == 5


def bodies(stream):
    """Lengths of all bodies of HTTP/1.1 messages with a length in a recorded stream of requests."""
    return [int(n) for n in re.findall(rb"\r\nContent-Length: (\d+)\r\n", stream)]


def posts(wire):
    up, _ = wire.taken()
    return [n for n in bodies(up) if n >= 4096]


def test_nobody_but_node_and_engine_sees_a_word_and_nobody_behind_the_relay_who_asks(world):
    secret = "the heliotrope password of my grandmother is wobblethwaite"
    world.clear()
    reply = ask(world, secret, n=60)
    text = reply.choices[0].message.content
    assert len(text) > 40
    list(ask(world, secret, n=60, stream=True))
    words = [secret, "heliotrope", "wobblethwaite", text, text[:24]]
    account = world.account_key
    # Relay, gateway, and the way to the node, in both directions.
    for name in "to_relay", "to_gateway", "to_node0", "to_node1", "to_log", "to_issuer":
        for data in getattr(world, name).taken():
            for w in words:
                assert w.encode() not in data, (name, w)
    # The account is known to the issuer alone, the client's address to the relay alone.
    for name in "to_relay", "to_gateway", "to_node0", "to_node1", "to_log":
        for data in getattr(world, name).taken():
            assert account.encode() not in data, name
            if name != "to_relay":
                assert CLIENT.encode() not in data, name
    # The relay sends four lines of its own making and no others.
    up, _ = world.to_gateway.taken()
    heads = re.findall(rb"POST / HTTP/1\.1\r\n((?:[A-Za-z-]+: [^\r]*\r\n)*)\r\n", up)
    assert heads
    for head in heads:
        names = [line.split(b":")[0] for line in head.splitlines()]
        assert names == [b"Host", b"Accept", b"Content-Type", b"Content-Length"], names
        assert re.search(rb"Host: 127\.0\.0\.1:\d+\r\n", head) and b"message/ohttp-chunked-req" in head
    # And the engine did see it: the search would have found it.
    assert secret.encode() in b"".join(world.to_engine.taken())
    # Everything that was logged, at the level of debugging.
    for p in world.programs():
        log = p.text()
        for w in words + [account]:
            assert w not in log, (p.name, w)
        if p is not world.relay:
            assert CLIENT not in log, p.name


def test_sizes_fall_in_buckets(world):
    sizes = {}
    for n in 10, 100, 400, 5000:
        world.clear()
        too_long(world, "a" * n) if n == 5000 else ask(world, "a" * n, n=1)
        sizes[n] = [max(posts(w)) for w in (world.to_gateway, *world.to_nodes()) if posts(w)]
    # Short prompts look alike at every hop; a long one is in another bucket.
    assert sizes[10] == sizes[100] == sizes[400], sizes
    assert sizes[5000][0] >= sizes[10][0] + 4096, sizes
    # At the node: a power of two and what sealing adds, always as much.
    added = {sizes[10][1] - 4096, sizes[5000][1] - 8192}
    assert len(added) == 1 and 0 < added.pop() < 200, sizes
    # Replies: as many bytes for any two replies of as many chunks; pieces of one size.
    world.clear()
    list(ask(world, n=30, stream=True))
    down = b"".join(w.taken()[1] for w in world.to_nodes())
    pieces = {int(n, 16) for n in re.findall(rb"\r\n([0-9a-f]+)\r\n", down)} - {0}
    assert len([n for n in pieces if n > 100]) <= 3, pieces


def too_long(world, text):
    """A prompt beyond the model's context: the engine refuses it, sealed like any other reply."""
    with pytest.raises(openai.APIStatusError):
        ask(world, text, n=1)


class Purse:
    """What the wallet held once, to be compared with what it holds later: buying in the background only adds, and a
    token under way (a check of a node pays too) comes back as change a moment later."""

    def __init__(self, world):
        self.world = world
        until(lambda: self.read()[0], says="units")
        self.units, self.charged = self.read()

    def read(self):
        d = self.world.status()["detail"]
        return d["units"], d["units_charged"]

    def lost(self):
        units, charged = self.read()
        return self.units - (charged - self.charged) - units

    def lose_at_most(self, n):
        until(lambda: self.lost() <= n, says=f"at most {n} units lost")


def test_what_was_not_used_comes_back(world):
    purse = Purse(world)
    for _ in range(3):
        ask(world, n=5)
    assert purse.read()[1] > purse.charged
    purse.lose_at_most(0)


def test_a_recorded_request_cannot_be_sent_again(world):
    world.clear()
    ask(world, n=3)
    up, _ = world.to_gateway.taken()
    messages = re.findall(rb"POST / HTTP/1\.1\r\n(?:[A-Za-z-]+: [^\r]*\r\n)*?Content-Length: (\d+)\r\n\r\n", up)
    assert messages
    at = 0
    for m in re.finditer(rb"POST / HTTP/1\.1\r\n(?:[A-Za-z-]+: [^\r]*\r\n)*?Content-Length: (\d+)\r\n\r\n", up):
        body = up[m.end():m.end() + int(m.group(1))]
        refused(world.gateway.url, body)
        at += 1
    node = world.to_node0 if posts(world.to_node0) else world.to_node1
    up, _ = node.taken()
    m = next(m for m in re.finditer(rb"POST / HTTP/1\.1\r\n(?:[A-Za-z-]+: [^\r]*\r\n)*?Content-Length: (\d+)\r\n\r\n", up))
    refused(f"http://127.0.0.1:{node.to}", up[m.end():m.end() + int(m.group(1))])
    assert at


def refused(url, body):
    r = urllib.request.Request(url + "/", body, {"Content-Type": "message/ohttp-chunked-req"})
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(r, timeout=10)
    assert e.value.code == 400 and e.value.read() == b""


class Chat(threading.Thread):
    """A slow streaming chat; its pieces, and how it ended."""

    def __init__(self, world, n=150):
        super().__init__(daemon=True)
        self.world, self.n = world, n
        self.pieces, self.error, self.done = [], None, False
        self.begun = threading.Event()
        self.start()

    def run(self):
        try:
            for c in ask(self.world, n=self.n, stream=True):
                if c.choices and c.choices[0].delta.content:
                    self.pieces.append(c.choices[0].delta.content)
                    self.begun.set()
                if c.choices and c.choices[0].finish_reason:
                    self.done = True
        except Exception as e:  # noqa: BLE001 what it is the test looks at
            self.error = e
        self.begun.set()

    def ended(self, seconds=15):
        self.join(seconds)
        assert not self.is_alive(), "the client hangs"
        return self


@contextlib.contextmanager
def slow(world):
    world.to_engine.pace = 0.01
    try:
        yield
    finally:
        world.to_engine.pace = 0


# When a role dies: the request is under way and no byte of the reply has come; the first has; many have.
MOMENTS = {"asked": 0, "begun": 1, "late": 60}


def strike(world, role, moment, how):
    """A slow chat, and the role is struck at that moment. Returns the chat once it has ended."""
    world.clear()
    with slow(world):
        if moment == "asked":
            world.to_engine.hold.set()
        chat = Chat(world)
        if moment == "asked":
            until(lambda: len(world.to_engine.taken()[0]) > 0, 10, "the engine being asked")
        else:
            until(lambda: chat.error or len(chat.pieces) >= MOMENTS[moment], 10, "pieces")
        assert not chat.error, chat.error
        how([world.node0, world.node1] if role == "node" else [getattr(world, role)])
        if world.engine.process.poll() is not None:
            world.to_engine.cut()  # what it had sent and the wire has not passed on
        world.to_engine.hold.clear()
        return chat.ended()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("role", ["relay", "gateway", "node", "engine"])
def test_a_role_that_is_killed_in_a_stream_gives_a_clear_error(world, role, moment):
    want = directly(world, n=150)
    dead = []

    def kill(programs):
        for p in programs:
            p.kill()
            dead.append(p)
    purse = Purse(world)
    chat = strike(world, role, moment, kill)
    got = "".join(chat.pieces)
    # An error, and only a beginning of the reply: never a reply that looks whole and is not.
    assert chat.error is not None and not chat.done, (got, chat.error)
    assert isinstance(chat.error, openai.APIError), chat.error
    assert want.startswith(got) and got != want
    world.restart(*dead)
    # Small tokens at most were lost with it: the chat's, and those of the checks of both nodes if they were under way.
    purse.lose_at_most(3 * 64)


def test_nodes_that_stand_still_in_a_stream_do_not_hang_the_client(world):
    stopped = []

    def stop(programs):
        for p in programs:
            p.process.send_signal(signal.SIGSTOP)
            stopped.append(p)
    try:
        chat = strike(world, "node", "begun", stop)
        assert chat.error is not None and not chat.done
    finally:
        for p in stopped:
            p.process.send_signal(signal.SIGCONT)
    world.restart()


def test_the_node_that_serves_may_die_before_the_first_byte(world):
    """Another one is asked, and the client does not notice."""
    want = directly(world, n=20)
    world.clear()
    world.to_engine.hold.set()
    try:
        chat = Chat(world, n=20)
        until(lambda: posts(world.to_node0) or posts(world.to_node1), 10, "a node being asked")
        until(lambda: len(world.to_engine.taken()[0]) > 0, 10, "the engine being asked")
        node = world.node0 if posts(world.to_node0) else world.node1
        node.kill()
        world.to_engine.hold.clear()
        chat.ended()
    finally:
        world.to_engine.hold.clear()
    assert chat.error is None and "".join(chat.pieces) == want, chat.error
    world.restart(node)


def test_roles_that_are_terminated_let_a_stream_end(world):
    want = directly(world, n=150)
    roles = [world.relay, world.gateway, world.node0, world.node1]
    with slow(world):
        chat = Chat(world)
        assert chat.begun.wait(10)
        for p in roles:
            p.process.send_signal(signal.SIGTERM)
        chat.ended()
    assert chat.error is None and "".join(chat.pieces) == want, chat.error
    for p in roles:  # a second signal would end them at once
        assert p.ended() == 0, (p.name, p.text()[-500:])
    world.restart(*roles)


def test_issuer_log_and_witness_may_die_in_a_stream(world):
    want = directly(world, n=150)
    with slow(world):
        chat = Chat(world)
        assert chat.begun.wait(10)
        for p in world.issuer, world.log, world.witness:
            p.kill()
        chat.ended(30)
    assert chat.error is None and "".join(chat.pieces) == want
    world.restart(world.witness, world.log, world.issuer)


def test_a_dead_node_is_passed_over_before_the_first_byte(world):
    retries = world.status()["retries"]
    purse = Purse(world)
    world.node0.kill()
    try:
        for _ in range(6):  # one of the first few picks the dead one, until the gateway has noticed
            assert ask(world, n=3).choices[0].message.content
        purse.lose_at_most(0)
        assert world.status()["retries"] >= retries
    finally:
        world.restart(world.node0)


def test_a_proxy_that_is_killed_never_sends_a_token_twice(world):
    spent = world.metric(world.gateway, "sotto_gateway_token_spent_total")
    for moment in 0.0, 0.02, 0.3:
        with slow(world):
            chat = Chat(world)
            if moment == 0.3:
                chat.begun.wait(10)
            time.sleep(moment)
            world.proxy.kill()
            chat.ended()
        assert chat.error is not None
        world.restart(world.proxy)
    assert world.metric(world.gateway, "sotto_gateway_token_spent_total") == spent


def test_nothing_was_ever_paid_twice(world):
    assert world.metric(world.gateway, "sotto_gateway_token_spent_total") == 0
    assert world.metric(world.gateway, "sotto_gateway_token_bad_total") == 0


def test_a_node_with_another_measurement_is_refused_before_a_byte_is_sent(world):
    for n in world.node0, world.node1:
        n.kill()
    world.restart(world.node0, world.node1, more=["--sim-measurement", "ab" * 32])
    try:
        until(lambda: world.refusals("policy.sim.measurement") == 2, 20, "a refusal of both nodes")
        world.clear()
        with pytest.raises(openai.APIStatusError) as e:
            ask(world, n=3)
        assert e.value.body["code"] in ("policy", "measurement_changed"), e.value.body
        assert "sim.measurement" in str(e.value), e.value
        assert not posts(world.to_node0) and not posts(world.to_node1)
        assert STORY.encode() not in b"".join(world.to_engine.taken())
    finally:
        for n in world.node0, world.node1:
            n.kill()
        world.restart(world.node0, world.node1)


def put_back(world, copies):
    """Log and witness as they were: what a provider would do who wants to show another history, with a witness of his."""
    for p, name in ((world.log, "log"), (world.witness, "witness")):
        p.kill()
        shutil.rmtree(world.tmp / name)
        shutil.copytree(copies / name, world.tmp / name)
    world.witness.start()
    world.log.start()


def log_size(world):
    return world.status()["detail"]["log"]["size"]


def test_a_log_that_goes_back_or_forks_is_noticed_and_proved(world):
    copies = world.tmp / "copies"
    for p, name in ((world.log, "log"), (world.witness, "witness")):
        p.kill(signal.SIGTERM)
        shutil.copytree(world.tmp / name, copies / name)
    world.restart(world.witness, world.log)
    before = log_size(world)
    (world.tmp / "entry").write_text("one history")
    command("log", "add", world.log.url, "--key-file", world.tmp / "entries.key", "--file", world.tmp / "entry", "--wait", 0)
    until(lambda: log_size(world) > before + 1, 15, "a longer log")
    # Back: the tree that it shows is smaller than the one remembered.
    put_back(world, copies)
    why = until(lambda: world.status()["detail"].get("log_error"), 15, "a rollback being noticed")
    assert "smaller" in why or "rollback" in why or "back" in why, why
    # Another history, as long: a fork, of which both sides are kept.
    (world.tmp / "entry").write_text("another history")
    for _ in range(2):
        command("log", "add", world.log.url, "--key-file", world.tmp / "entries.key", "--file", world.tmp / "entry", "--wait",
                0)
        time.sleep(1.2)
    until(lambda: world.status()["detail"].get("log_error", why) != why, 15, "another history being noticed")
    kept = [*(world.tmp / "state").glob("*.fork"), *(world.tmp / "state").glob("*.doubt")]
    assert kept and kept[0].read_text().count("test.example/log") >= 2, kept
    # After a restart, too; and then nothing leaves.
    world.proxy.kill()
    world.proxy.start()
    world.clear()
    with pytest.raises(openai.APIStatusError) as e:
        ask(world, n=3)
    assert e.value.status_code >= 500
    assert not posts(world.to_gateway)


def test_terminated_roles_end_in_order(world):
    """SIGTERM: every program ends by itself, with status 0."""
    for p in reversed(world.programs()):
        assert p.kill(signal.SIGTERM) == 0, (p.name, p.text()[-500:])
