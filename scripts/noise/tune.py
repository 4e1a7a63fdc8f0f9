"""A private fine-tune of a public base: the victim whose weights the server does not quite have."""
import torch


def loss_of(m, rows):
    said = m.logits(rows[:, :-1])
    return torch.nn.functional.cross_entropy(said.flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def mean_loss(m, rows):
    return sum(float(loss_of(m, part)) * len(part) for part in rows.split(16)) / len(rows)


def tune(base, rows, steps, rate=1e-3, seed=1):
    """AdamW on batches of 16 rows [n, t] of ids, rate falling to zero; all weights move."""
    generator = torch.Generator().manual_seed(seed)
    w = {name: t.clone().requires_grad_() for name, t in base.w.items()}
    if torch.equal(base.w["lm_head.weight"], base.embed):  # stays tied
        w["lm_head.weight"] = w["model.embed_tokens.weight"]
    m = base.with_weights(w)
    optimiser = torch.optim.AdamW(set(w.values()), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, steps)
    for _ in range(steps):
        pick = torch.randint(len(rows), (16,), generator=generator)
        optimiser.zero_grad()
        loss_of(m, rows[pick]).backward()
        optimiser.step()
        schedule.step()
    return base.with_weights({name: t.detach() for name, t in w.items()})


def moved(base, tuned):
    """How far the matrices went: |new - old| / |old|, over all of them."""
    pairs = [(base.w[n], tuned.w[n]) for n in base.w if base.w[n].dim() == 2]
    change = sum(float((a - b).square().sum()) for a, b in pairs)
    return (change / sum(float(a.square().sum()) for a, _ in pairs)) ** .5
