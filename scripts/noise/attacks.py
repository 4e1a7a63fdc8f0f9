"""Three attacks of a server that holds the base weights, on checkpoint files alone.

Each takes the base model, the obfuscated one and the noise that was spent (the method is public, so
the adversary knows it) and returns a guess: for each cipher id a plain id. None sees the key.

row_sort     sorted rows of products in which the hidden-state keys cancel (A1: Lin et al. 2024,
             arXiv 2505.18332; appendix F.1 of arXiv 2603.01499), summed over layers and matrices
columns      columns of the same products first, by fingerprints that no order of rows changes, then
             rows, in turns (A2); from the embedding's side and from the head's
function     runs both models on every single token and matches what they say (A11); reads no weight
"""
import dataclasses

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

N_SIM = 6
QUANTILES = [.0005, .002, .01, .05, .1, .25, .5, .75, .9, .95, .99, .998, .9995]
CLIP = -14.0  # log-probabilities below say nothing more


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviations over that of the matrix: embedding, head, every other matrix."""
    e: float = 0.0
    h: float = 0.0
    all: float = 0.0


def distances(a, b):
    """Squared, [len(a), len(b)]; f32 after taking out the mean."""
    mean = b.mean(0)
    a, b = (a - mean).astype(np.float32), (b - mean).astype(np.float32)
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)


def assign(cost):
    return linear_sum_assignment(cost)[1]


def trained(rows):
    """Rows far from the bulk of equal rows: rows never trained are nearly one vector."""
    near = np.sort(distances(rows, rows) + np.diag(np.full(len(rows), np.inf)), 1)[:, :3].mean(1)
    return near > 0.05 * np.median(near)


def spread(rows):
    return rows[trained(rows)].std()


def noisy(rng, m, scale, sigma=None):
    return m + scale * (m.std() if sigma is None else sigma) * rng.standard_normal(m.shape)


# ---- what the keys leave in the files -----------------------------------------------------------

def f64(t):
    return t.numpy().astype(np.float64)


def views(model):
    """[(rows [n, d], [matrix [d, f] per layer], scaled)]: rows @ matrix is free of the hidden-state
    keys; what is left is the order of rows, the order of columns and, if scaled, a factor +-s each."""
    layers = range(model.n_layer)
    embed, head = f64(model.embed), f64(model.head)
    norm = "post_attention_layernorm"
    return {
        "gate": (embed, [f64(model.folded(i, "mlp.gate_proj", norm)).T for i in layers], False),
        "up": (embed, [f64(model.folded(i, "mlp.up_proj", norm)).T for i in layers], True),
        "down": (head, [f64(model.layer(i, "mlp.down_proj")) for i in layers], True),
    }


def products(view):
    rows, matrices, scaled = view
    out = []
    for w in matrices:
        y = rows @ w
        out.append(y / np.sqrt((y * y).mean(0)) if scaled else y / y.std())
    return out


# ---- A1 -----------------------------------------------------------------------------------------

def row_sort(base, victim, noise, seed):
    del noise, seed  # it has no use for either
    plain, seen = views(base), views(victim)
    cost = 0
    for name, view in plain.items():
        scaled = view[2]
        for x, y in zip(products(view), products(seen[name])):
            x, y = (np.sort(np.abs(z) if scaled else z, 1) for z in (x, y))
            d = distances(y, x)
            cost = cost + d / np.median(d)
    x, y = (np.sort(f64(m.embed) @ f64(m.head).T, 1) for m in (base, victim))
    d = distances(y / y.std(), x / x.std())
    return assign(cost + d / np.median(d))


# ---- A2 -----------------------------------------------------------------------------------------

def fingerprint(y, scaled):
    """Of each column over the vocabulary: [f, k]."""
    if scaled:
        y = np.abs(y)
    return np.vstack([y.mean(0), y.std(0), np.quantile(y, QUANTILES, axis=0)]).T


def first_columns(rows, w, y, alpha, sigma, share, scaled, rng):
    """Column of y -> column of w by whitened fingerprints, its sign and confidence."""
    sims = []
    for _ in range(N_SIM):
        s = noisy(rng, rows, alpha, sigma) @ noisy(rng, w, share)
        sims.append(s / np.sqrt((s * s).mean(0)) if scaled else s / s.std())
    marks = [fingerprint(s, scaled) for s in sims]
    mean = np.mean(marks, 0)
    rest = np.concatenate([m - mean for m in marks])
    cov = rest.T @ rest / len(rest) * N_SIM / (N_SIM - 1)
    cov += (1e-6 * np.var(mean, 0).mean() + 1e-12) * np.eye(len(cov))
    whiten = np.linalg.cholesky(np.linalg.inv(cov))
    d = distances(fingerprint(y, scaled) @ whiten, mean @ whiten)
    column = assign(d)
    two = np.partition(d, 1, 1)[:, :2]
    sign = np.ones(y.shape[1])
    if scaled:
        x = np.sort(np.mean(sims, 0), 0)[:, column]
        up, down = np.sort(y, 0), np.sort(-y, 0)
        sign = np.where(((x - up) ** 2).sum(0) <= ((x - down) ** 2).sum(0), 1.0, -1.0)
    return column, sign, (two[:, 1] - two[:, 0]) / (two[:, 0] + 1e-9)


def em(plain, seen, alpha, share, rng, n_round=8):
    """Costs [cipher id, plain id] of one view. alpha: noise of the rows, share: of the matrices."""
    rows, ws, scaled = plain
    sigma, (n, d) = spread(rows), rows.shape
    xs, ys = products(plain), products(seen)
    # The matrices in the scale of the products.
    gains = [np.sqrt(((rows @ w) ** 2).mean(0) + (alpha * sigma) ** 2 * (w * w).sum(0)) if scaled
             else np.full(w.shape[1], (rows @ w).std()) for w in ws]
    units = [w / g for w, g in zip(ws, gains)]
    state = [first_columns(rows, w, y, alpha, sigma, share, scaled, rng) for w, y in zip(ws, ys)]
    prior = np.linalg.inv(np.cov(rows.T) + (max(alpha, 1e-3) * sigma) ** 2 * np.eye(d))
    mean = rows.mean(0)
    v = None
    for it in range(n_round):
        part = min(1, .3 + .1 * it)
        a, y = [], []
        for unit, seen_y, (column, sign, sure) in zip(units, ys, state):
            k = np.argsort(-sure)[:max(20, int(part * len(sure)))]
            a.append(unit[:, column[k]])
            y.append(seen_y[:, k] * sign[k])
        a, y = np.hstack(a), np.hstack(y)
        if v is None:
            v = sigma ** 2 * (share ** 2 + .3) * (a * a).sum(0).mean()
        posterior = np.linalg.inv(prior + a @ a.T / v)
        guess = (y @ a.T / v + prior @ mean) @ posterior
        v = max(((y - guess @ a) ** 2).mean(), 1e-9)
        # guess - row = noise of the row + what the columns leave open.
        metric = np.linalg.cholesky(np.linalg.inv((max(alpha, 1e-3) * sigma) ** 2 * np.eye(d) + posterior))
        cost = distances(guess @ metric, rows @ metric)
        row = cost.argmin(1)
        two = np.partition(cost, 1, 1)[:, :2]
        best = np.argsort(-(two[:, 1] - two[:, 0]))[:max(150, int(part * n))]
        for i, (x, seen_y) in enumerate(zip(xs, ys)):
            p, q = x[row[best]], seen_y[best]
            p, q = p - p.mean(0), q - q.mean(0)
            cor = (q / (np.linalg.norm(q, axis=0) + 1e-12)).T @ (p / (np.linalg.norm(p, axis=0) + 1e-12))
            strength = np.abs(cor) if scaled else cor
            column = assign(-strength)
            two = np.partition(strength, -2, 1)[:, -2:]
            at = cor[np.arange(len(cor)), column]
            state[i] = column, np.where(at < 0, -1.0, 1.0) if scaled else np.ones(len(cor)), two[:, 1] - two[:, 0]
    return cost


def columns(base, victim, noise, seed):
    rng = np.random.default_rng(seed)
    plain, seen = views(base), views(victim)
    cost = em(plain["gate"], seen["gate"], noise.e, noise.all, rng)
    cost = cost + em(plain["down"], seen["down"], noise.h, noise.all, rng)
    return assign(cost)


# ---- A11 ----------------------------------------------------------------------------------------

def says(model):
    """log p(next | BOS, id) for every id [n, n], and all gate values at that place [n, layers * f]."""
    n, gates = model.n_vocab, []
    ids = torch.arange(n)[:, None]
    if model.bos is not None:
        ids = torch.cat((torch.full((n, 1), model.bos), ids), 1)
    said = f64(model.forward(ids, gates)[:, -1])
    return np.maximum(said, CLIP), [f64(g[:, -1]) for g in gates]


def simulated(base, noise, rng):
    """The base model with noise of its own of the same size."""
    own = {"model.embed_tokens.weight": noise.e * spread(f64(base.embed)),
           "lm_head.weight": noise.h * spread(f64(base.w["lm_head.weight"]))}
    w = {}
    for name, t in base.w.items():
        if t.dim() == 2:
            scale = own.get(name, noise.all * float(t.std()))
            t = t + torch.from_numpy(scale * rng.standard_normal(t.shape)).float()
        w[name] = t
    return base.with_weights(w)


def sorted_cost(seen, sims):
    """Distances of sorted rows, whitened by the noise of the simulations."""
    pick = np.unique(np.linspace(0, seen.shape[1] - 1, 192).round().astype(int))
    seen = np.sort(seen, 1)[:, pick]
    sims = [np.sort(s, 1)[:, pick] for s in sims]
    mean = np.mean(sims, 0)
    rest = np.concatenate([s - mean for s in sims])
    std = np.sqrt((rest * rest).mean(0)) + 1e-4
    cov = (rest / std).T @ (rest / std) / len(rest) * N_SIM / (N_SIM - 1) + .05 * np.eye(len(pick))
    whiten = np.linalg.cholesky(np.linalg.inv(cov)) / std[:, None]
    return distances(seen @ whiten, mean @ whiten)


def function(base, victim, noise, seed):
    rng = np.random.default_rng(seed)
    least = Noise(max(noise.e, 1e-3), max(noise.h, 1e-3), noise.all)
    said, gates = says(victim)
    sims = [says(simulated(base, least, rng)) for _ in range(N_SIM)]
    cost = sorted_cost(said, [s for s, _ in sims])
    for i, gate in enumerate(gates):
        cost = cost + sorted_cost(gate, [g[i] for _, g in sims])
    guess = assign(cost)
    # Rows and columns of `said` carry the same permutation: match unsorted rows with columns in the
    # order of the last guess, and columns likewise, until nothing moves.
    mean = np.mean([s for s, _ in sims], 0)
    noise2 = np.mean([(s - mean) ** 2 for s, _ in sims], 0) * N_SIM / (N_SIM - 1)
    col, row = (1 / np.sqrt(noise2.mean(axis) + 1e-4) for axis in (0, 1))
    for _ in range(8):
        order = np.argsort(guess)  # plain id -> cipher id
        d = distances(said[:, order] * col, mean * col) + distances(said[order].T * row, mean.T * row)
        last, guess = guess, assign(d)
        if (last == guess).all():
            break
    return guess


ATTACKS = {"A1 row sort": row_sort, "A2 columns first": columns, "A11 function": function}
