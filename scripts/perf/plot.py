"""Charts as SVG in pages that need nothing else, readable in light and dark."""

import html
import math

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --dim: #68727f; --line: #d9dee5; --card: #fff; --page: #f4f6f9;
        --data: #2563c9; --mark: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9f0; --dim: #98a2b1; --line: #323a47; --card: #1b212b;
        --page: #12161d; --data: #74a9ff; --mark: #fb923c; } }
body { margin: 0; padding: 2rem clamp(1rem, 4vw, 3rem); background: var(--page); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .8rem; }
p { color: var(--dim); max-width: 46rem; margin: .4rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .9rem 1rem .6rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figcaption { font-weight: 600; } figcaption small { display: block; font-weight: 400; color: var(--dim); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--dim); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); } .path { fill: none; stroke: var(--data); stroke-width: 1.8; }
.point { fill: var(--card); stroke: var(--data); stroke-width: 2; } .change { stroke: var(--mark); stroke-dasharray: 4 3; }
svg text.note { fill: var(--mark); }
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 260, 56, 16, 14, 44


def page(title, introduction, body):
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
            f"<p>{html.escape(introduction)}</p>{body}</html>\n")


def short(value):
    """A number as an axis shows it."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g}{suffix}"
    return f"{value:.3g}"


def ticks(low, high):
    """Round numbers within the range, as fine as there is room for: powers of ten alone where it is wide."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**exponent for exponent in exponents for factor in factors
                 if low * 0.999 <= factor * 10.0**exponent <= high * 1.001]
        if len(found) <= 7:
            break
    return found


def span(values):
    """The range of an axis: the values with some air, and a factor of four at least, so that noise is not drawn as growth."""
    low, high = min(values), max(values)
    middle = math.sqrt(low * high)
    return min(low / 1.25, middle / 2), max(high * 1.25, middle * 2)


def growth_chart(title, subtitle, x_title, y_title, points, expected=None, x_ticks=None):
    """Points (x, median, least, most) on logarithmic axes, and `expected` (x, y) as a dashed line."""
    x_low, x_high = points[0][0], points[-1][0]
    if x_low == x_high:
        x_low, x_high = x_low / 2, x_high * 2
    y_low, y_high = span([value for point in points for value in point[1:]] + [y for _, y in expected or ()])
    inner, tall = WIDTH - LEFT - RIGHT - 20, HEIGHT - TOP - BOTTOM
    x = lambda value: LEFT + 10 + inner * math.log(value / x_low) / math.log(x_high / x_low)
    y = lambda value: TOP + tall * (1 - math.log(value / y_low) / math.log(y_high / y_low))
    parts = []
    for value in ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
                     f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for value in [tick for tick in x_ticks or ticks(x_low, x_high) if x_low <= tick <= x_high]:
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
                     f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(value)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_title)}</text>'
                 f'<text transform="translate(12 {TOP + tall / 2:.0f}) rotate(-90)" text-anchor="middle">{html.escape(y_title)}</text>')
    if expected:
        line = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in expected)
        parts.append(f'<polyline class="change" fill="none" points="{line}"/>')
    line = " ".join(f"{x(at):.1f},{y(middle):.1f}" for at, middle, _, _ in points)
    parts.append(f'<polyline class="path" points="{line}"/>')
    for at, middle, low, high in points:
        tip = html.escape(f"{x_title} {at:,}: {middle:,.4g} ({low:,.4g}–{high:,.4g})")
        parts.append(f'<line class="path" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
                     f'<circle class="point" cx="{x(at):.1f}" cy="{y(middle):.1f}" r="3.5"><title>{tip}</title></circle>')
    return (f"<figure><figcaption>{html.escape(title)}<small>{html.escape(subtitle)}</small></figcaption>"
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg></figure>')
