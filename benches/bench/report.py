"""The figures as JSON and as tables of Markdown."""
import json
import os
import platform
import time

import measuring

ABOUT = """Times in ms: the median, and in brackets the ratios to {base} of the minimum, the median and the processor time (user and
system, by wait4, of the command's process and the children that it waits for, without a container that goes on)."""


def host(runtimes, rounds, without_floor):
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"), "kernel": platform.release(), "machine": platform.machine(),
        "processors": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2), "rounds": rounds,
        "base": measuring.base_of(runtimes).name, "without_floor": without_floor,
        "runtimes": {runtime.name: version(runtime) for runtime in runtimes},
    }


def version(runtime):
    try:
        return measuring.output([runtime.path, "--version"]).splitlines()[0]
    except (measuring.Failed, IndexError):
        return "unknown"


def write(found, directory):
    with open(os.path.join(directory, "bench.json"), "w") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    text = markdown(found)
    with open(os.path.join(directory, "bench.md"), "w") as file:
        file.write(text)
    print(text, end="")


def failures(found):
    """Returns whether the first runtime has failed anywhere."""
    first = next(iter(found["host"]["runtimes"]))
    rows = [row for row in found["times"] if row["runtime"] == first and "fails" in row]
    others = [part for key, part in found.items() if key not in ("host", "times") and fails(part.get(first, {}))]
    return rows or others


def fails(part):
    return any(key == "fails" or str(value).startswith("fails") for key, value in part.items())


def markdown(found):
    names = list(found["host"]["runtimes"])
    lines = [heading(found["host"]), ""]
    if found["times"]:
        lines += [ABOUT.format(base=found["host"]["base"]), "", *times(found["times"], names, found["host"]["base"])]
    for key, title, table in SECTIONS:
        if key in found:
            lines += ["", f"## {title}", "", *section(found[key], table, names)]
    return "\n".join(lines) + "\n"


def heading(about):
    versions = ", ".join(f"{name} ({text})" for name, text in about["runtimes"].items())
    words = (f"{about['date']}, {about['processors']} processors of {about['machine']}, Linux {about['kernel']}, load "
             f"{about['load_before']}, {about['rounds']} rounds; {versions}.")
    return " ".join(filter(None, [words, about["without_floor"] and about["without_floor"] + "."]))


def times(rows, names, base):
    bundles = list(dict.fromkeys(row["bundle"] for row in rows))
    cells = {(row["bundle"], row["command"], row["runtime"]): row for row in rows}
    with_floor = any(row["runtime"] == "floor" for row in rows)
    columns = [*names, *(["floor"] if with_floor else [])]
    lines = grid_head(["bundle", "command", "rounds", *columns])
    for bundle in bundles:
        for command in measuring.COMMANDS:
            found = [cells.get((bundle, command, name)) for name in columns]
            if any(found):
                rounds = max(row.get("rounds", 0) for row in found if row)
                lines.append(grid_row([bundle, command, rounds, *(cell(row, base) for row in found)]))
        if bundle == "spec" and with_floor:
            found = [cells.get((bundle, "run", name)) for name in columns]
            lines.append(grid_row(["spec", "run, to floor", "", *map(to_floor, found)]))
    return lines


def grid_head(words):
    return [grid_row(words), "|" + "---|" * len(words)]


def grid_row(words):
    return "| " + " | ".join(str(word).replace("|", "\\|") for word in words) + " |"


def cell(row, base):
    if row is None:
        return ""
    if "fails" in row:
        return f"fails: {row['fails']}"
    return f"{row['median_ms']:.2f}" + ("" if row["runtime"] == base else in_brackets(row["ratios"]))


def to_floor(row):
    return in_brackets(row["ratios_to_floor"]).strip() if row and "fails" not in row else ""


def in_brackets(ratios):
    if not ratios:
        return ""
    return " (" + " ".join("–" if value is None else f"{value:.2f}" for value in ratios.values()) + ")"


def section(part, table, names):
    if "not_measured" in part:
        return [f"Not measured: {part['not_measured']}."]
    columns = [*names, *(["floor"] if "floor" in part else [])]
    lines = [*grid_head(["", *columns]), *table(part, columns)]
    for name in columns:
        for key in ["fails", "not_measured"]:
            if key in part.get(name, {}):
                lines += ["", f"{name} {key.replace('_', ' ')}: {part[name][key]}"]
    return lines


def resident(part, columns):
    yield grid_row(["median, MB", *(number(part, name, ["median_kb"], 1024) for name in columns)])
    yield grid_row(["largest, MB", *(number(part, name, ["largest_kb"], 1024) for name in columns)])


def smallest(part, columns):
    yield grid_row(["kB", *(number(part, name, ["kb"], 1, 0) for name in columns)])


def calls(part, columns):
    for command in measuring.COMMANDS:
        if any(command in part[name] for name in columns):
            yield grid_row([command, *(part[name].get(command, "") for name in columns)])


def rates(part, columns):
    for width in levels(part):
        yield grid_row([f"{width} at once", *(number(part, name, [width], 1, 0) for name in columns)])


def threads(part, columns):
    for level in levels(part):
        yield grid_row([f"create, {level} threads more, ms",
                        *(number(part, name, [level, "median_ms"]) for name in columns)])


def alive(part, columns):
    for command in ["create", "list"]:
        for level in levels(part):
            yield grid_row([f"{command}, {level} alive, ms",
                            *(number(part, name, [level, command, "median_ms"]) for name in columns)])


def levels(part):
    return sorted({key for found in part.values() for key in found if key.isdigit()}, key=int)


def number(part, name, path, unit=1, digits=2):
    """Formats a figure, or returns an empty text if there is none."""
    value = part.get(name)
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None else f"{value / unit:.{digits}f}"


SECTIONS = [
    ("rss", "Largest resident set of run's process", resident),
    ("memory", "Smallest memory cgroup in which run succeeds three times of three", smallest),
    ("calls", "System calls, threads and children included", calls),
    ("at-once", "Containers per second (run)", rates),
    ("threads", "Threads on the host", threads),
    ("alive", "Containers alive, created and waiting", alive),
]
