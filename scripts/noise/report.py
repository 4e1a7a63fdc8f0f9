"""The sweep's results as CSV, as a markdown table and as a picture (plain SVG, light and dark)."""
import csv
import html
import math

FIELDS = ["model", "preset", "alpha_e", "alpha_h", "noise_all", "draws", "perplexity",
          "perplexity_change", "top1"]
TICKS = [0, 1, 3, 10, 30, 100, 300, 1000, 10000]
COLOURS = {"A1": ("#8a6d00", "#e3c04a"), "A2": ("#b3261e", "#ff8a80"), "A11": ("#1a5fb4", "#7ab7ff")}  # light, dark
PLAIN = """
  svg{font-family:Helvetica,Arial,sans-serif;font-size:13px}
  .line{stroke-width:2;fill:none} .hollow{stroke-width:1.8;fill:none} .name{font-weight:bold}"""
LIGHT = ".bg{fill:#fff} .text{fill:#222} .faint{fill:#666} .grid{stroke:#ddd} .axis{stroke:#666}"
DARK = ".bg{fill:#0d1117} .text{fill:#e6e6e6} .faint{fill:#9aa0a6} .grid{stroke:#2b3138} .axis{stroke:#9aa0a6}"


def style():
    def of(side, base):
        marks = " ".join(f".line.{k},.hollow.{k}{{stroke:{c[side]}}} .mark.{k},.name.{k}{{fill:{c[side]}}}"
                         for k, c in COLOURS.items())
        return f"{base} {marks}"
    return f"{PLAIN}\n  {of(0, LIGHT)}\n  @media (prefers-color-scheme:dark){{{of(1, DARK)}}}\n"


def percent(v):
    return f"{100 * v:.0f}" if v >= .0995 or v == 0 else f"{100 * v:.1f}"


def change(v):
    """The perplexity's change in per cent, signed."""
    p = 100 * v
    if p > 1e4:
        return f"times {1 + v:.3g}"
    return "0 %" if abs(p) < .05 else f"{p:+.0f} %" if abs(p) >= 10 else f"{p:+.1f} %"


def write_csv(path, rows, command):
    with open(path, "w", newline="") as f:
        f.write(f"# {command}\n")
        out = csv.writer(f)
        attacks = list(rows[0]["types"])
        out.writerow(FIELDS + [f"{a.split()[0]}_{kind}" for a in attacks for kind in ("types", "text")]
                     + ["chance"])
        for r in rows:
            out.writerow([r[k] if not isinstance(r[k], float) else f"{r[k]:.6g}" for k in FIELDS]
                         + [f"{r[kind][a]:.4f}" for a in attacks for kind in ("types", "text")]
                         + [f"{r['chance']:.5f}"])


def setting(r):
    if r["preset"] == "unrelated":
        return "unrelated base"
    return f"{r['preset']} | {r['alpha_e']:g} / {r['alpha_h']:g} | {r['noise_all']:g}"


def recovered(r):
    """One cell per attack, and the strongest."""
    cells = [f"{percent(r['types'][a])} / {percent(r['text'][a])}" for a in r["types"]]
    best = f"{percent(max(r['types'].values()))} / {percent(max(r['text'].values()))}"
    return " | ".join([*cells, best])


def lines(heads, rows, cells):
    """heads: of the columns before the attacks; cells(row): their contents."""
    out = ["| " + " | ".join([*heads, *rows[0]["types"], "strongest"]) + " |"]
    out.append("|" + "---|" * (len(heads) + len(rows[0]["types"]) + 1))
    out += [f"| {cells(r)} | {recovered(r)} |" for r in rows]
    return "\n".join(out) + "\n"


def table(rows):
    def cells(r):
        if r["preset"] == "unrelated":
            return "unrelated base | | | |"
        return f"{setting(r)} | {change(r['perplexity_change'])} | {r['top1']:.3f}"
    return lines(["preset", "alpha_e / alpha_h", "every other matrix", "perplexity", "top-1"], rows, cells)


def rotated_table(rows):
    return lines(["preset", "alpha_e / alpha_h"], rows,
                 lambda r: f"{r['setting'][0]} | {r['setting'][1]:g} / {r['setting'][2]:g}")


def tuned_table(rows):
    return lines(["steps", "loss on that text", "weights moved"], rows,
                 lambda r: f"{r['steps']} | {r['before']:.2f} -> {r['after']:.2f} | {100 * r['moved']:.1f} %")


# ---- the picture --------------------------------------------------------------------------------

def _x(value):
    """Per cent of perplexity -> 0..1; linear below 1, logarithmic above."""
    def f(v):
        return v if v <= 1 else 1 + math.log10(v) * 1.5
    return f(min(max(value, 0), TICKS[-1])) / f(TICKS[-1])


def _mark(kind, x, y, colour):
    if kind == "tight":
        return f'<circle class="mark {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    if kind == "all":
        return f'<rect class="hollow {colour}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return (f'<path class="hollow {colour}" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"/>')


def _panel(rows, left, top, width, height):
    name, out = rows[0]["model"], []
    rows = [r for r in rows if r["preset"] != "unrelated"]
    chance = rows[0]["chance"]
    at = lambda r, score: (left + width * _x(100 * r["perplexity_change"]), top + height * (1 - score))
    out.append(f'<text class="text" x="{left}" y="{top - 14}" font-weight="bold">{name}</text>')
    for t in TICKS:
        x = left + width * _x(t)
        out.append(f'<path class="grid" d="M{x:.1f} {top}v{height}"/>'
                   f'<text class="faint" x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{t}{"+" * (t == TICKS[-1])}</text>')
    for p in (0, 25, 50, 75, 100):
        y = top + height * (1 - p / 100)
        out.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>'
                   f'<text class="faint" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{p}</text>')
    y = top + height * (1 - chance)
    out.append(f'<path class="axis" stroke-dasharray="5 4" d="M{left} {y:.1f}h{width}"/>'
               f'<text class="faint" x="{left + width}" y="{y - 6:.1f}" text-anchor="end">chance</text>')
    for attack in rows[0]["types"]:
        colour = attack.split()[0]
        line = sorted((r for r in rows if r["preset"] == "tight" and not r["noise_all"]
                       and r["alpha_h"] in (0, .05) and bool(r["alpha_e"]) == bool(r["alpha_h"])),
                      key=lambda r: r["alpha_e"])
        points = [at(r, r["types"][attack]) for r in line]
        out.append(f'<path class="line {colour}" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>')
        for r in rows:
            kind = "all" if r["noise_all"] else r["preset"]
            out.append(_mark(kind, *at(r, r["types"][attack]), colour))
    out.append(f'<text class="text" x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">'
               "perplexity lost, per cent</text>")
    return out


def picture(by_model, command):
    width, panel = 80 + 460 * max(2, len(by_model)), 380 if len(by_model) > 1 else 840
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 460">',
           f"<desc>Made by {html.escape(command)}</desc>", f"<style>{style()}</style>", f'<rect class="bg" width="{width}" height="460"/>',
           '<text class="text" x="20" y="30" font-size="17" font-weight="bold">What noise costs, and what a server '
           "with the base weights still reads</text>"]
    x = 20
    for attack in by_model[0][0]["types"]:
        colour = attack.split()[0]
        out.append(f'<rect class="mark {colour}" x="{x}" y="44" width="12" height="12"/>'
                   f'<text class="name {colour}" x="{x + 18}" y="55">{attack}</text>')
        x += 30 + 8 * len(attack)
    for kind, label in (("tight", "embedding, head (line: head .05)"), ("all", "on every matrix"), ("paper", "preset paper")):
        out.append(_mark(kind, x + 6, 50, "A2"))
        out.append(f'<text class="faint" x="{x + 18}" y="55">{label}</text>')
        x += 38 + 7.2 * len(label)
    out.append('<text class="text" transform="translate(22 260) rotate(-90)" text-anchor="middle">'
               "tokens recovered, per cent of types</text>")
    for i, rows in enumerate(by_model):
        out += _panel(rows, 75 + 460 * i, 105, panel, 290)
    return "\n".join(out) + "\n</svg>\n"
