"""Who can read the weights of a sealed model out of the process that serves it.

    pytest tests/interop/test_sealed_host.py

`sotto serve F.sealed` runs as an ordinary user; other processes of that same user attack it: ptrace, /proc/PID/mem,
process_vm_readv, gcore, a core file by SIGABRT. Each attack first has to succeed on a process that is not hardened. Then
all memory of the server and of its worker is searched, as root, for 1,000 patterns of the sealed weights; and what root
can do all the same is printed. Needs root, to have a user of its own and to look from outside; says when it skips.
"""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build/bin/sotto"))
WORKER, SCAN = BIN.with_name("sotto-worker"), BIN.with_name("peer_scan")
DEMO = ROOT / "models/demo"
PYTHON = next(p for p in ("/usr/bin/python3", sys.executable) if os.path.exists(p))  # one that the user may run
USER = 54321  # nobody's: made up, with no files of its own
N_PATTERN, LEN, XOR = 1000, 32, 0x5A
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SOTTO_") and not k.lower().endswith("_proxy")}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="skips: needs root, to become another user")


def drop():
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)


def as_user(*args, **kw):
    return subprocess.run([*map(str, args)], preexec_fn=drop, capture_output=True, timeout=60, env=ENV, **kw)


@pytest.fixture(scope="module")
def place():
    """What the user can read: the programs, a sealed demo model, a passphrase; and the patterns, which he cannot."""
    d = pathlib.Path(tempfile.mkdtemp(prefix="sotto-host-"))
    d.chmod(0o755)
    for p in (BIN, WORKER, SCAN):
        shutil.copy(p, d / p.name)
    (d / "pass").write_text("a passphrase for this test\n")
    (d / "pass").chmod(0o600)
    subprocess.run([BIN, "seal", "key", d / "publisher.key", "--quiet", "--config="], check=True, env=ENV)
    for policy in ("all-inside", "paper"):
        subprocess.run([BIN, "seal", DEMO, d / f"{policy}.sealed", "--sign-key", d / "publisher.key", "--policy", policy,
                        "--passphrase-file", d / "pass", "--config=", "--quiet"], check=True, env=ENV)
        (d / f"{policy}.sealed").chmod(0o644)
    os.chown(d / "pass", USER, USER)
    yield d
    shutil.rmtree(d)


class Server:
    def __init__(self, place, model, *more):
        self.p = subprocess.Popen([place / "sotto", "serve", model, "--port", "0", "--json", "--quiet", "--config=",
                                   "--threads", "1", *map(str, more)], stdout=subprocess.PIPE, text=True, env=ENV,
                                  preexec_fn=drop, cwd=place)
        line = self.p.stdout.readline()
        assert line, f"sotto serve ended with {self.p.wait()}"
        self.about = json.loads(line)
        self.pid = self.p.pid

    def ask(self):
        body = json.dumps({"model": self.about["model"], "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}).encode()
        r = urllib.request.Request(self.about["url"] + "/v1/completions", body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(r, timeout=30))["choices"][0]["text"]

    def stop(self):
        self.p.kill()
        self.p.wait()
        self.p.stdout.close()


@pytest.fixture
def serve(place):
    servers = []

    def start(*args):
        servers.append(Server(place, *args))
        return servers[-1]

    yield start
    for s in servers:
        s.stop()


@pytest.fixture(scope="module")
def server(place):
    """One for all who only look: most of a start is the passphrase's Argon2id."""
    s = Server(place, place / "all-inside.sealed", "--passphrase-file", place / "pass", "--enclave-memory", "4M")
    yield s
    s.stop()


# ---- attacks: each runs as the user, in a process of its own; exit 0 when it got hold of memory ----

PTRACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
pid = int(sys.argv[1])
if libc.ptrace(16, pid, None, None):   # PTRACE_ATTACH
    sys.exit(1)
os.waitpid(pid, 0)
libc.ptrace(17, pid, None, None)
"""
MEM = """
import sys
try:
    at = int(open(f"/proc/{sys.argv[1]}/maps").readline().split("-")[0], 16)
    f = open(f"/proc/{sys.argv[1]}/mem", "rb")
    f.seek(at)
    sys.exit(0 if f.read(4) else 1)
except OSError:
    sys.exit(1)
"""
VM_READV = """
import ctypes, os, sys
class iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])
b = ctypes.create_string_buffer(16)
local = iovec(ctypes.addressof(b), 16)
remote = iovec(int(sys.argv[2], 16), 16)
sys.exit(0 if libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == 16 else 1)
"""


def address_in(pid):
    """Seen as root: the user may not even read the map."""
    for line in open(f"/proc/{pid}/maps"):
        if "[heap]" in line:
            return line.split("-")[0]
    raise AssertionError("no heap")


def attack(name, pid, place):
    if name == "ptrace":
        return as_user(PYTHON, "-I", "-c", PTRACE, pid).returncode == 0
    if name == "/proc/PID/mem":
        return as_user(PYTHON, "-I", "-c", MEM, pid).returncode == 0
    if name == "process_vm_readv":
        return as_user(PYTHON, "-I", "-c", VM_READV, pid, address_in(pid)).returncode == 0
    with tempfile.TemporaryDirectory(prefix="sotto-core-") as d:
        os.chown(d, USER, USER)
        as_user("gcore", "-o", f"{d}/core", pid, cwd=d)
        return any(p.stat().st_size > 4096 for p in pathlib.Path(d).iterdir())


ATTACKS = ["ptrace", "/proc/PID/mem", "process_vm_readv"] + (["gcore"] if shutil.which("gcore") else [])


@pytest.fixture
def unguarded():
    """A process of the same user that forbids nothing: what every attack must succeed on."""
    p = subprocess.Popen(["sleep", "60"], preexec_fn=drop)
    time.sleep(0.1)
    yield p.pid
    p.kill()
    p.wait()


def scope():
    try:
        return int(open("/proc/sys/kernel/yama/ptrace_scope").read())
    except OSError:
        return 0


@pytest.mark.parametrize("name", ATTACKS)
def test_another_process_of_the_same_user_reads_nothing(name, place, server, unguarded):
    if scope() > 0:
        pytest.skip(f"skips: Yama forbids it anyway (ptrace_scope {scope()}), so there is no positive control")
    assert attack(name, unguarded, place), "the attack does not even work on a process that is not hardened"
    assert not attack(name, server.pid, place)
    assert server.ask()


def leaves_core(start, place):
    """Whether a process leaves a core file in its directory when it aborts, with no limit on its size."""
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")):
        pytest.skip(f"skips: core files go to {pattern!r} here")
    with tempfile.TemporaryDirectory(prefix="sotto-core-") as d:
        os.chown(d, USER, USER)
        p = start(d)
        os.kill(p.pid, signal.SIGABRT)
        p.wait()
        if p.stdout:
            p.stdout.close()
        return any(x.stat().st_size > 4096 for x in pathlib.Path(d).iterdir())


def unlimited():
    import resource
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                       if os.geteuid() == 0 else (hard, hard))
    drop()


def test_an_abort_leaves_no_core(place):
    def plain(d):
        p = subprocess.Popen(["sleep", "60"], preexec_fn=unlimited, cwd=d)
        time.sleep(0.1)
        return p

    def sealed(d):
        p = subprocess.Popen([place / "sotto", "serve", place / "all-inside.sealed", "--passphrase-file",
                              place / "pass", "--port", "0", "--json", "--quiet", "--config="], stdout=subprocess.PIPE,
                             preexec_fn=unlimited, cwd=d, env=ENV)
        assert p.stdout.readline()
        return p

    assert leaves_core(plain, place), "no core file even without a limit"
    assert not leaves_core(sealed, place)


# ---- what is in memory ----

def windows(path):
    """Of every tensor in a safetensors file: name, and where its bytes are."""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head = json.loads(f.read(n))
    return [(k, 8 + n + v["data_offsets"][0], 8 + n + v["data_offsets"][1], len(v["shape"]))
            for k, v in head.items() if k != "__metadata__"]


def patterns(place, pick):
    rng, data = random.Random(1), (DEMO / "model.safetensors").read_bytes()
    found = [w for w in windows(DEMO / "model.safetensors") if w[3] == 2 and pick(w[0])]
    path = place / "patterns"
    with open(path, "wb") as f:
        seen = set()
        while len(seen) < N_PATTERN:
            _, begin, end, _ = rng.choice(found)
            p = data[(at := rng.randrange(begin, end - LEN)):at + LEN]
            if p not in seen and len(set(p)) > LEN // 2:  # no padding
                seen.add(p)
                f.write(bytes(b ^ XOR for b in p))
    path.chmod(0o600)
    return path


def scan(pid, path):
    r = subprocess.run([SCAN, str(pid), str(path)], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout
    return json.loads(r.stdout)


def is_outside(name):
    return "o_proj" in name or "lm_head" in name or "embed_tokens" in name


def test_no_weight_lies_outside_of_the_secret_memory(place, serve):
    path = patterns(place, lambda name: True)
    plain = serve(DEMO)
    assert plain.ask()
    got = scan(plain.pid, path)
    print(f"plain model: {got}")
    assert got["open"] == N_PATTERN
    for budget in ([], ["--enclave-memory", "4M"]):
        s = serve(place / "all-inside.sealed", "--passphrase-file", place / "pass", *budget)
        assert s.ask() == plain.ask()
        got = scan(s.pid, path)
        print(f"sealed {budget}: {got}")
        assert got["open"] == 0, got["where"]
        assert got["unreadable"] or got["apart"]


def start_worker(place, address):
    w = subprocess.Popen([WORKER, "--model", place / "paper.sealed", "--listen", address, "--threads", "1", "--json",
                          "--quiet", "--config="], stdout=subprocess.PIPE, text=True, env=ENV)
    assert w.stdout.readline()
    kind, where = address.split(":", 1)
    if kind in ("unix", "shm"):
        os.chown(where, USER, USER)
    return w


def test_a_worker_never_has_what_lies_inside(place, serve):
    address = f"unix:{place}/worker"
    w = start_worker(place, address)
    try:
        s = serve(place / "paper.sealed", "--passphrase-file", place / "pass", "--worker", address, "--scheme", "otp",
                  "--pad-memory", "24M")
        assert s.about["protection"] == "sealed" and s.ask()
        inside = patterns(place, lambda name: not is_outside(name))
        for pid in (w.pid, s.pid):
            got = scan(pid, inside)
            print(f"{'worker' if pid == w.pid else 'server'}: {got}")
            assert got["open"] == 0, got["where"]
        assert scan(w.pid, inside)["apart"] == 0
        assert scan(w.pid, patterns(place, lambda name: "o_proj" in name))["open"] > 0, "the control finds nothing"
    finally:
        w.kill()
        w.wait()
        w.stdout.close()


def test_what_root_reads_is_said(place, server, capsys):
    assert server.ask()
    got = scan(server.pid, patterns(place, lambda name: True))
    with capsys.disabled():
        where = server.about["sealed"]["memory"]
        print(f"\nroot reads {got['scanned'] >> 20} MiB of the server's memory by /proc/PID/mem and finds {got['apart']} of "
              f"{N_PATTERN} patterns in secret memory (decrypted weights are in {where}); "
              f"{got['unreadable'] >> 20} MiB refuse to be read so. A kernel module of his would read all of it.")
    assert server.about["sealed"]["host"]["keeps_from_owner"] is False


# ---- the sandbox ----

@pytest.mark.parametrize("kind", ["tcp", "shm"])
def test_a_worker_that_comes_back_is_found_again_from_inside(kind, place, serve):
    """By name over TCP (the resolver's files are read again), and by a new piece of shared memory."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    listen, name = {"tcp": (f"tcp://127.0.0.1:{port}", f"tcp://localhost:{port}"),
                    "shm": (f"shm:{place}/shm", f"shm:{place}/shm")}[kind]
    w = start_worker(place, listen)
    try:
        s = serve(place / "paper.sealed", "--passphrase-file", place / "pass", "--worker", name, "--scheme", "otp",
                  "--pad-memory", "24M")
        first = s.ask()
        w.kill()
        w.wait()
        w.stdout.close()
        with pytest.raises(OSError):
            s.ask()
        w = start_worker(place, listen)
        deadline = time.monotonic() + 20
        while True:
            try:
                assert s.ask() == first
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
    finally:
        w.kill()
        w.wait()
        w.stdout.close()


def test_every_thread_is_in_the_sandbox_before_the_first_request(server):
    tasks = list(pathlib.Path(f"/proc/{server.pid}/task").iterdir())
    assert len(tasks) > 1
    for t in tasks:
        status = dict(line.split(":\t", 1) for line in (t / "status").read_text().splitlines() if ":\t" in line)
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1" and int(status["Seccomp_filters"]) >= 2
    assert "seccomp on" in server.about["sealed"]["sandbox"]


@pytest.mark.skipif(not shutil.which("gdb"), reason="skips: no gdb to speak for the process that is taken over")
def test_a_process_that_is_taken_over_opens_runs_and_listens_to_nothing(place, server, serve):
    """root's gdb plays whoever took the server over, in each of its threads."""
    calls = {"open": '(int)open("/etc/passwd",0)', "own": f'(int)open("{place}/all-inside.sealed",0)',
             "exec": '(int)execve("/bin/true/no",0,0)', "socket": "(int)socket(2,1,0)", "dumpable": "(int)prctl(4,1,0,0,0)"}

    def said(pid):
        script = []
        for name, call in calls.items():
            script += ["-ex", f'thread apply all -q printf "{name}=%d\\n", {call}']
        r = subprocess.run(["gdb", "-q", "-nx", "-batch", "-p", str(pid), *script], capture_output=True, text=True,
                           timeout=60, env=ENV)
        return {name: [int(line.split("=")[1]) for line in r.stdout.splitlines() if line.startswith(name + "=")]
                for name in calls}

    got = said(server.pid)
    for name in calls:
        assert got[name] and all(v == -1 for v in got[name]), (name, got)
    assert server.ask()
    free = said(serve(place / "all-inside.sealed", "--passphrase-file", place / "pass", "--no-sandbox").pid)
    assert all(v >= 0 for v in free["open"] + free["own"] + free["socket"] + free["dumpable"]), "the control fails too"


def test_without_the_sandbox_the_banner_warns(place, serve):
    s = serve(place / "all-inside.sealed", "--passphrase-file", place / "pass", "--no-sandbox")
    assert s.about["sealed"]["sandbox"].startswith("off")
    assert not attack("/proc/PID/mem", s.pid, place), "hardening stays"
    r = subprocess.run([BIN, "complete", place / "all-inside.sealed", "--passphrase-file", place / "pass", "-p", "Once",
                        "-n", "2", "--no-sandbox", "--config="], capture_output=True, text=True, env=ENV)
    assert r.returncode == 0 and "warning: --no-sandbox" in r.stderr
