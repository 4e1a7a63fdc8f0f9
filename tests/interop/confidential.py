"""Programs of the confidential protection as they are built, each a process of its own on loopback, with recording forwarders
between them: what tests of the whole system share."""
import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import openai

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build/bin/sotto"))
DEMO = ROOT / "models/demo"
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SOTTO_") and not k.lower().endswith("_proxy")}


class Wire:
    """A TCP forwarder between two programs that keeps every byte. It can be cut, or slow the way back down. source: the
    address that the target sees."""

    def __init__(self, to, source="127.0.0.1"):
        self.to, self.source = to, source
        self.lock = threading.Lock()
        self.up, self.down, self.connections = bytearray(), bytearray(), 0
        self.sockets = set()
        self.pace = 0  # seconds between pieces of at most 512 bytes on the way back
        self.hold = threading.Event()  # while set, nothing goes back
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near):
        try:
            far = socket.create_connection(("127.0.0.1", self.to), timeout=10, source_address=(self.source, 0))
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self.lock:
            self.sockets |= {near, far}
        for s in near, far:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._pump(near, far)
        except (OSError, ValueError):
            pass
        with self.lock:
            self.sockets -= {near, far}
        near.close()
        far.close()

    def _pump(self, near, far):
        open_ends = {near, far}
        while open_ends:
            for s in select.select(list(open_ends), [], [], 1)[0]:
                back = s is far
                data = s.recv(512 if back and self.pace else 65536)
                other = near if back else far
                if not data:
                    open_ends.discard(s)
                    with contextlib.suppress(OSError):
                        other.shutdown(socket.SHUT_WR)
                    continue
                with self.lock:
                    (self.down if back else self.up).extend(data)
                while back and self.hold.is_set():
                    time.sleep(0.01)
                other.sendall(data)
                if back and self.pace:
                    time.sleep(self.pace)

    def clear(self):
        with self.lock:
            self.up, self.down = bytearray(), bytearray()

    def taken(self):
        with self.lock:
            return bytes(self.up), bytes(self.down)

    def cut(self):
        """Ends every connection at once, as a network that breaks does."""
        with self.lock:
            ends, self.sockets = self.sockets, set()
        for s in ends:
            with contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                s.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
        self.cut()


class Program:
    """One program with --json: its first line of output says where it listens. All that it logs is kept."""

    def __init__(self, name, *args, program=BIN, wait=30):
        self.name, self.args, self.program = name, [str(a) for a in args], str(program)
        self.log = bytearray()
        self.port = None
        self.start(wait)

    def start(self, wait=30, more=()):
        args = [*self.args, *more]
        if self.port:  # again: where it was
            args[args.index("--port") + 1] = str(self.port)
        self.process = subprocess.Popen([self.program, *args], cwd=ROOT, env=ENV, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self.reader.start()
        ready = select.select([self.process.stdout], [], [], wait)[0]
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.kill()
            raise RuntimeError(f"{self.name}: {self.text()[-2000:] or 'says nothing'}")
        self.banner = json.loads(line)
        self.port = self.banner["port"]
        self.url = self.banner["url"]

    def _read(self, pipe):
        with contextlib.suppress(ValueError):
            for line in iter(pipe.readline, b""):
                self.log.extend(line)

    def text(self):
        return self.log.decode("utf-8", "replace")

    def kill(self, sig=signal.SIGKILL, wait=20):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.ended(wait)

    def ended(self, wait=20):
        code = self.process.wait(wait)
        self.reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


# Evidence of kind sim: RFC 8032, section 7.1, test 1. It proves nothing.
SIM_SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
SIM_ROOT = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def command(*args):
    """A command of sotto that ends by itself: what it prints."""
    r = subprocess.run([BIN, *map(str, args), "--config="], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    return r.stdout.strip()


def secret(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


class System:
    """All roles on loopback, with a wire before each of them. Evidence is simulated."""

    def __init__(self, tmp, client="127.0.0.1", n_node=1):
        self.tmp, self.receipts = tmp, tmp / "receipts"
        self.stack = contextlib.ExitStack()
        self.roles, self.n_node, self.wires = [], n_node, []
        self.from_client = client

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._public()
            self._provider()
            self._client()
            self.wait_ready()
            stack.pop_all()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for p in reversed(self.roles):
            p.kill()
        for w in self.wires:
            w.close()

    def _run(self, name, *args, **more):
        p = Program(name, *args, "--port", 0, "--json", "--verbose", "--config=", **more)
        self.roles.append(p)
        return p

    def _wire(self, to, **more):
        self.wires.append(Wire(to, **more))
        return self.wires[-1]

    def _public(self):
        t = self.tmp
        self.log_key = command("log", "new", t / "log", "--origin", "test.example/log", "--key", t / "log.key")
        witness = command("log", "key", "--key", t / "witness.key", "--name", "test.example/witness", "--as-witness")
        secret(t / "submitters", "gateway/gw one-key-of-a-gateway\nissuer/issuer one-key-of-an-issuer\n"
               "entries/test one-key-of-a-test\n")
        secret(t / "gateway-log.key", "one-key-of-a-gateway")
        secret(t / "issuer-log.key", "one-key-of-an-issuer")
        secret(t / "entries.key", "one-key-of-a-test")
        self.witness = self._run("witness", "log", "witness", "--key", t / "witness.key", "--name", "test.example/witness",
                                 "--state", t / "witness", "--log", self.log_key)
        self.log = self._run("log", "log", "serve", t / "log", "--key", t / "log.key", "--submitters", t / "submitters",
                             "--witness", f"{self.witness.url}={witness}", "--every", 1)
        self.log_policy = {"origin": "test.example/log", "key": self.log_key, "witnesses": [witness], "quorum": 1}
        self.account_key = command("issuer", "account", "add", "someone", "--db", t / "issuer.db", "--units", 1000000, "-q")
        secret(t / "account.key", self.account_key)
        secret(t / "issuer-gateway.key", command("issuer", "gateway", "add", "gw", "--db", t / "issuer.db", "-q"))
        self.issuer = self._run("issuer", "issuer", "serve", "--db", t / "issuer.db", "--log", self.log.url,
                                "--log-key-file", t / "issuer-log.key")
        self.to_issuer = self._wire(self.issuer.port)

    def policy(self, name, **more):
        path = self.tmp / name
        path.write_text(json.dumps({"version": 1, "require": ["sim"], "sim_root": SIM_ROOT, "log": self.log_policy, **more}))
        return path

    def _provider(self):
        t = self.tmp
        secret(t / "sim.key", SIM_SEED)
        self.engine = self._run("engine", "serve", DEMO, "--model-name", "demo", "--kv-dtype", "f32", "--deterministic",
                                "--threads", 1)
        self.to_engine = self._wire(self.engine.port)
        nodes = []
        for i in range(self.n_node):
            node = self._run(f"node{i}", "--upstream", self.to_engine.url, "--evidence", "sim", "--sim-key", t / "sim.key",
                             "--model", DEMO, program=BIN.with_name("sotto-node"))
            wire = self._wire(node.port)
            setattr(self, f"node{i}", node)
            setattr(self, f"to_node{i}", wire)
            nodes += ["--node", f"{wire.url} model=demo"]
        self.gateway = self._run("gateway", "gateway", "--name", "gw", *nodes, "--policy", self.policy("gateway.json"),
                                 "--log", self.log.url, "--log-key-file", t / "gateway-log.key", "--issuer", self.issuer.url,
                                 "--issuer-key-file", t / "issuer-gateway.key", "--spent", t / "spent.db", "--refresh", 1,
                                 "--health", 1)
        self.to_gateway = self._wire(self.gateway.port)
        self.to_log = self._wire(self.log.port)

    def _client(self):
        t = self.tmp
        self.relay = self._run("relay", "relay", "--gateway", self.to_gateway.url, "--log", self.to_log.url)
        self.to_relay = self._wire(self.relay.port, source=self.from_client)
        policy = self.policy("policy.json", measurements={"sim.measurement": ["0" * 64]}, min_nodes=1)
        self.proxy = self._run("proxy", "proxy", "--protect", "confidential", "--policy", policy, "--relay",
                               self.to_relay.url, "--issuer", self.to_issuer.url, "--account-file", t / "account.key",
                               "--state", t / "state", "--receipts", self.receipts, "--stall", 2)
        self.client = openai.OpenAI(base_url=self.proxy.url + "/v1", api_key="any", max_retries=0, timeout=60)

    def programs(self):
        return list(self.roles)

    def to_nodes(self):
        return [getattr(self, f"to_node{i}") for i in range(self.n_node)]

    def clear(self):
        for w in self.wires:
            w.clear()

    def get(self, program, path):
        return urllib.request.urlopen(program.url + path, timeout=10).read().decode()

    def status(self):
        return json.loads(self.get(self.proxy, "/sotto/status"))

    def metric(self, program, name):
        lines = [x for x in self.get(program, "/metrics").splitlines() if x.startswith(name + " ")]
        assert lines, name
        return float(lines[0].split()[1])

    def refusals(self, says):
        """How many nodes are refused for this."""
        return sum(n["state"] == "refused" and says in n.get("why", "") for n in self.status()["detail"]["nodes"])

    def restart(self, *programs, more=(), seconds=30):
        """Starts roles again that have ended; when nothing else is asked of them, waits until chats work with all of them."""
        nodes = [p for p in programs if p.name.startswith("node")]
        before = {n.get("bundle") for n in self.status()["detail"]["nodes"]} if nodes else set()
        for p in programs:
            p.start(more=more)
        if more:
            return
        until(lambda: sum(n.get("bundle") not in before for n in self.status()["detail"]["nodes"]) >= len(nodes), seconds,
              "the evidence of nodes that were started again")
        self.wait_ready(seconds)

        def works():
            with contextlib.suppress(openai.APIError):
                return self.client.completions.create(model="demo", prompt="Once", max_tokens=1)
        until(works, seconds, "a chat that works again")

    def wait_ready(self, seconds=30):
        """Every node verified, and tokens at hand."""
        def ready():
            with contextlib.suppress(OSError):
                s = self.status()
                nodes = s["detail"]["nodes"]
                return s["ready"] and len(nodes) == self.n_node and all(n["state"] == "verified" for n in nodes)
        try:
            until(ready, seconds)
        except AssertionError:
            raise AssertionError(f"not ready: {self.get(self.proxy, '/sotto/status')}\n{self.gateway.text()[-1500:]}")

    def attest_receipt(self, receipt, bundle, request, reply):
        r = subprocess.run([BIN, "attest", "receipt", receipt, "--evidence", bundle, "--policy", self.tmp / "policy.json",
                            "--request", request, "--reply", reply, "--config="], cwd=ROOT, env=ENV, capture_output=True,
                           timeout=20)
        return r.returncode


def until(what, seconds=20, says=""):
    """Waits until what() is true, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {says or what}")
