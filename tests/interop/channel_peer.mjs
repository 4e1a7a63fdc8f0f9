// The other end of tests/peer_channel.c on independent code: HPKE by @hpke/core, binary HTTP by bhttp-js. The framing of
// Oblivious HTTP (RFC 9458 and the chunked draft) is written here after the documents: the registry has no library of it.
//   node channel_peer.mjs MODULES PEER CASE     ends with 0 when every suite (and form) agreed, and prints how many
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { webcrypto } from "node:crypto";
import assert from "node:assert";

const [modules, peer, which] = process.argv.slice(2);
const load = createRequire(modules + "/");
const hpke = load("@hpke/core");
const { Chacha20Poly1305 } = load("@hpke/chacha20poly1305");
const { BHttpEncoder, BHttpDecoder } = load("bhttp-js");

const KEMS = { 16: hpke.DhkemP256HkdfSha256, 32: hpke.DhkemX25519HkdfSha256 };
const AEADS = { 1: hpke.Aes128Gcm, 2: hpke.Aes256Gcm, 3: Chacha20Poly1305 };
const KEY_LEN = { 1: 16, 2: 32, 3: 32 };
const SUITES = [16, 32].flatMap((kem) => [1, 2, 3].map((aead) => ({ kem, aead })));
const FORMS = ["whole", "chunked"];
const LABELS = {
  whole: ["message/bhttp request", "message/bhttp response"],
  chunked: ["message/bhttp chunked request", "message/bhttp chunked response"],
};

const utf8 = (s) => new TextEncoder().encode(s);
const concat = (...parts) => new Uint8Array(Buffer.concat(parts.map((p) => Buffer.from(p))));
const bytes = (x) => new Uint8Array(x);
const INFO = utf8("interop");
const TEXTS = ["first", "", "third"];
const LONG = Uint8Array.from({ length: 20000 }, (_, i) => i % 251);
const CHUNK = 7777;

function suite({ kem, aead }) {
  return new hpke.CipherSuite({ kem: new KEMS[kem](), kdf: new hpke.HkdfSha256(), aead: new AEADS[aead]() });
}

// The peer as lines of hexadecimal digits.
function start(...args) {
  const child = spawn(peer, args.map(String), { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ended = new Promise((resolve) => child.on("exit", resolve));
  return {
    put: (b) => child.stdin.write(Buffer.from(b).toString("hex") + "\n"),
    line: async () => {
      const { value, done } = await lines.next();
      assert(!done, "the peer ended early");
      return value;
    },
    get: async function () {
      return bytes(Buffer.from(await this.line(), "hex"));
    },
    end: async () => assert.equal(await ended, 0),
  };
}

async function hpkeToPeer(s) {
  const p = start("hpke-receive", s.kem, s.aead);
  const c = suite(s);
  const pk = await c.kem.deserializePublicKey(await p.get());
  const sender = await c.createSenderContext({ recipientPublicKey: pk, info: INFO });
  p.put(sender.enc);
  for (const text of TEXTS) {
    p.put(await sender.seal(utf8(text), utf8("ad")));
    assert.deepEqual(await p.get(), utf8(text));
  }
  assert.deepEqual(await p.get(), bytes(await sender.export(utf8("context"), 48)));
  await p.end();
}

async function hpkeFromPeer(s) {
  const p = start("hpke-send", s.kem, s.aead);
  const c = suite(s);
  const pair = await c.kem.generateKeyPair();
  p.put(await c.kem.serializePublicKey(pair.publicKey));
  const receiver = await c.createRecipientContext({ recipientKey: pair.privateKey, enc: await p.get(), info: INFO });
  for (const text of TEXTS) assert.deepEqual(bytes(await receiver.open(await p.get(), utf8("ad"))), utf8(text));
  assert.deepEqual(await p.get(), bytes(await receiver.export(utf8("context"), 48)));
  await p.end();
}

// ---- Oblivious HTTP ----

function header(id, { kem, aead }) {
  return Uint8Array.of(id, kem >> 8, kem & 255, 0, 1, 0, aead);
}

function info(form, hdr) {
  return concat(utf8(LABELS[form][0]), [0], hdr);
}

function varint(n) {
  return n < 64 ? [n] : n < 16384 ? [0x40 | (n >> 8), n & 255] : [0x80, n >> 16, (n >> 8) & 255, n & 255];
}

function readVarint(b, at) {
  const len = 1 << (b[at] >> 6);
  let v = b[at] & 63;
  for (let i = 1; i < len; i++) v = v * 256 + b[at + i];
  return [v, at + len];
}

async function sealPieces(form, text, seal) {
  if (form === "whole") return bytes(await seal(text, new Uint8Array()));
  const parts = [];
  for (; text.length > CHUNK; text = text.subarray(CHUNK)) {
    const ct = bytes(await seal(text.subarray(0, CHUNK), new Uint8Array()));
    parts.push(varint(ct.length), ct);
  }
  parts.push([0], bytes(await seal(text, utf8("final"))));
  return concat(...parts);
}

async function openPieces(form, b, open) {
  if (form === "whole") return bytes(await open(b, new Uint8Array()));
  const parts = [];
  for (let at = 0; ; ) {
    let len;
    [len, at] = readVarint(b, at);
    if (len === 0) return concat(...parts, bytes(await open(b.subarray(at), utf8("final"))));
    parts.push(bytes(await open(b.subarray(at, at + len), new Uint8Array())));
    at += len;
  }
}

// seal and open of a reply, from the context's export, with HKDF and AEAD of WebCrypto (or of @hpke for ChaCha20).
async function replyKeys(form, { aead }, context, enc, nonce) {
  const secret = bytes(await context.export(utf8(LABELS[form][1]), nonce.length));
  const ikm = await webcrypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
  const derive = async (label, len) =>
    bytes(await webcrypto.subtle.deriveBits(
      { name: "HKDF", hash: "SHA-256", salt: concat(enc, nonce), info: utf8(label) }, ikm, 8 * len));
  const cipher = new AEADS[aead]().createEncryptionContext(await derive("key", KEY_LEN[aead]));
  const base = await derive("nonce", 12);
  let counter = 0;
  const next = () => {
    const iv = base.slice();
    iv[11] ^= counter & 255;
    iv[10] ^= counter++ >> 8;
    return iv;
  };
  return { seal: (text, ad) => cipher.seal(next(), text, ad), open: (ct, ad) => cipher.open(next(), ct, ad) };
}

async function ohttpToPeer(s, form) {
  const p = start("gateway", form, s.kem, s.aead);
  const c = suite(s);
  const list = await p.get();
  assert.equal(list[0] * 256 + list[1], list.length - 2);
  const keyLen = s.kem === 16 ? 65 : 32;
  const pk = await c.kem.deserializePublicKey(list.slice(5, 5 + keyLen));
  assert.deepEqual([...list.slice(5 + keyLen)], [0, 4, 0, 1, 0, s.aead]);
  const hdr = header(list[2], s);
  const sender = await c.createSenderContext({ recipientPublicKey: pk, info: info(form, hdr) });
  const enc = bytes(sender.enc);
  const request = new Request("https://example.com/v1/models", { method: "POST", headers: { "X-Interop": "bhttp-js" }, body: LONG });
  const message = bytes(await new BHttpEncoder().encodeRequest(request));
  p.put(concat(hdr, enc, await sealPieces(form, message, (t, ad) => sender.seal(t, ad))));
  assert.deepEqual(await p.get(), utf8("/v1/models"));
  assert.deepEqual(await p.get(), utf8("bhttp-js"));
  assert.deepEqual(await p.get(), LONG);
  const reply = await p.get();
  const n = Math.max(12, KEY_LEN[s.aead]);
  const keys = await replyKeys(form, s, sender, enc, reply.subarray(0, n));
  const opened = new BHttpDecoder().decodeResponse(await openPieces(form, reply.subarray(n), keys.open));
  assert.equal(opened.status, 201);
  assert.equal(opened.headers.get("x-interop"), "sotto");
  assert.deepEqual(bytes(await opened.arrayBuffer()), LONG);
  await p.end();
}

async function ohttpFromPeer(s, form) {
  const p = start("client", form);
  const c = suite(s);
  const pair = await c.kem.generateKeyPair();
  const pk = bytes(await c.kem.serializePublicKey(pair.publicKey));
  const config = concat([7, s.kem >> 8, s.kem & 255], pk, [0, 4, 0, 1, 0, s.aead]);
  p.put(concat([config.length >> 8, config.length & 255], config));
  const b = await p.get();
  const hdr = header(7, s);
  assert.deepEqual(b.slice(0, 7), hdr);
  const enc = b.slice(7, 7 + pk.length);
  const receiver = await c.createRecipientContext({ recipientKey: pair.privateKey, enc, info: info(form, hdr) });
  const message = await openPieces(form, b.subarray(7 + pk.length), (ct, ad) => receiver.open(ct, ad));
  assert.equal(message.length, 32768); // the bucket
  // bhttp-js takes no padding; what is behind the message's three sections must be zeros.
  const padding = message.lastIndexOf(LONG.at(-1)) + 2; // the content's last byte, and the empty trailers
  assert(message.subarray(padding).every((x) => x === 0));
  const request = new BHttpDecoder().decodeRequest(message.slice(0, padding));
  assert.equal(request.url, "https://example.com/v1/chat");
  assert.equal(request.headers.get("x-interop"), "sotto");
  assert.deepEqual(bytes(await request.arrayBuffer()), LONG);
  const nonce = webcrypto.getRandomValues(new Uint8Array(Math.max(12, KEY_LEN[s.aead])));
  const keys = await replyKeys(form, s, receiver, enc, nonce);
  const response = new Response(LONG, { status: 203, headers: { "content-type": "text/plain" } });
  const reply = bytes(await new BHttpEncoder().encodeResponse(response));
  p.put(concat(nonce, await sealPieces(form, reply, keys.seal)));
  assert.equal(await p.line(), "203");
  assert.deepEqual(await p.get(), LONG);
  await p.end();
}

let n = 0;
for (const s of SUITES)
  for (const form of which.startsWith("ohttp") ? FORMS : [""]) {
    await { "hpke-to": hpkeToPeer, "hpke-from": hpkeFromPeer, "ohttp-to": ohttpToPeer, "ohttp-from": ohttpFromPeer }[which](s, form);
    n++;
  }
console.log(n);
