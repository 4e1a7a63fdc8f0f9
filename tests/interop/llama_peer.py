"""Unmodified llama.cpp (the server inside the xllamacpp wheel) in a process of its own, because it aborts on files that it
does not like. Greedy, f32 cache, no flash attention, one sequence at a time.

    with Peer() as peer:
        peer.complete("model.gguf", [{"prompt": [1, 2, 3], "n": 8, "probs": 5}])
        -> [{"ids": [...], "text": "...", "logprobs": [{id: logprob, ...} per token]}]

`prompt` is a list of ids or a text; ends of reply are ignored, that is, their ids are never taken. An error is
{"error": "..."}.
"""
import json
import subprocess
import sys


class Peer:
    def __enter__(self):
        self.p = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(self, *_):
        self.p.stdin.close()
        self.p.wait(timeout=30)

    def complete(self, model, runs, n_ctx=1024):
        """One result per run, or an exception when llama.cpp does not load the file or dies."""
        try:
            self.p.stdin.write(json.dumps({"model": str(model), "n_ctx": n_ctx, "runs": runs}) + "\n")
            self.p.stdin.flush()
            line = self.p.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.p.wait()
            self.__enter__()
            raise RuntimeError(f"llama.cpp died on {model}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["results"]


def serve():
    import os

    import xllamacpp as x

    # The answers go where nothing that llama.cpp prints goes.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def open_model(path, n_ctx):
        p = x.CommonParams()
        p.model.path = path
        p.n_ctx = n_ctx
        p.n_parallel = 1
        p.warmup = False
        p.verbosity = 1
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1  # more would wait for each other by spinning
        p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
        p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return x.Server(p)

    def run(server, r):
        reply = server.handle_completions({"prompt": r["prompt"], "n_predict": r["n"], "temperature": 0,
                                           "ignore_eos": True, "n_probs": r.get("probs", 1), "cache_prompt": False})
        if "choices" not in reply:
            return {"error": str(reply.get("message", reply))}
        choice = reply["choices"][0]
        tokens = choice["logprobs"]["content"]
        return {"ids": [t["id"] for t in tokens], "text": choice["text"],
                "logprobs": [{u["id"]: u["logprob"] for u in t["top_logprobs"]} for t in tokens]}

    for line in sys.stdin:
        job = json.loads(line)
        try:
            server = open_model(job["model"], job["n_ctx"])
            results = []
            for r in job["runs"]:
                try:
                    results.append(run(server, r))
                except Exception as e:
                    results.append({"error": str(e)})
            del server
            reply = {"results": results}
        except Exception as e:
            reply = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    serve()
