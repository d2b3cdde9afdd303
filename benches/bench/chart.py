"""A chart of the commands' times as ratios to the base: SVG, with colours for light and dark pages."""
from xml.sax.saxutils import escape

import measuring

WIDTH, LEFT, RIGHT, TOP = 760, 160, 70, 64
BAR, GAP = 13, 12
LONGEST = 4.0
STYLE = """
svg { color: #1f2328; background: #ffffff; font: 13px system-ui, sans-serif }
text { fill: currentColor } .line { stroke: currentColor; opacity: .35 }
.c0 { fill: #1f6feb } .c1 { fill: #8c959f } .c2 { fill: #d4a72c } .c3 { fill: #2da44e } .c4 { fill: #bf3989 }
@media (prefers-color-scheme: dark) {
svg { color: #e6edf3; background: #0d1117 }
.c0 { fill: #58a6ff } .c1 { fill: #6e7681 } .c2 { fill: #bb8009 } .c3 { fill: #3fb950 } .c4 { fill: #db61a2 } }"""


def write(found, path):
    with open(path, "w") as file:
        file.write(drawn(found))


def drawn(found):
    base = found["host"]["base"]
    rows = [row for row in found["times"] if row["bundle"] == "spec" and row.get("ratios")]
    ratios = {(row["command"], row["runtime"]): row["ratios"]["median"] for row in rows}
    names = [name for name in [*found["host"]["runtimes"], "floor"] if any(name == key[1] for key in ratios)]
    parts, y = [], TOP
    for command in measuring.COMMANDS:
        shown = [(name, ratios[command, name]) for name in names if (command, name) in ratios]
        if shown:
            parts.append(label(LEFT - 10, y + len(shown) * BAR / 2 + 4, command, "end"))
            for name, ratio in shown:
                parts += bar(y, names.index(name), ratio)
                y += BAR
            y += GAP
    title = f"Median times of the bundle spec, {base} = 1"
    return "\n".join([*head(title, y), *legend(names), *axis(y), *parts, "</svg>", ""])


def head(title, height):
    return [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">', f"<title>{title}</title>",
            f"<style>{STYLE}</style>", label(10, 22, title)]


def legend(names):
    parts, x = [], LEFT
    for number, name in enumerate(names):
        parts.append(f'<rect class="c{number % 5}" x="{x}" y="36" width="12" height="12"/>')
        parts.append(label(x + 17, 46, name))
        x += 40 + 8 * len(name)
    return parts


def axis(height):
    x = LEFT + scaled(1)
    return [f'<line class="line" x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - GAP / 2}"/>']


def bar(y, number, ratio):
    """Draws a bar with its number. A bar that is too long ends in a mark."""
    width = scaled(min(ratio, LONGEST))
    text = f"{ratio:.2f}" + (" →" if ratio > LONGEST else "")
    return [f'<rect class="c{number % 5}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}"/>',
            label(LEFT + width + 5, y + BAR - 3, text)]


def scaled(ratio):
    return ratio / LONGEST * (WIDTH - LEFT - RIGHT)


def label(x, y, text, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
