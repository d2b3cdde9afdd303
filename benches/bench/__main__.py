"""Compares the times of corten and other runtimes: python3 benches/bench [--rounds N] [--only GROUP,...] [--out DIR] RUNTIME...

The first runtime is compared with crun, or with the second one. Requires root. The runtimes run in private
namespaces, with bundles and state on a tmpfs. docs/performance.md explains each figure.
"""
import argparse
import os
import sys

import bundles
import chart
import costs
import floor
import measuring
import report
import scale
import world

GROUPS = [*bundles.WEIGHTS, "rss", "memory", "calls", "at-once", "threads", "alive"]


def arguments():
    parser = argparse.ArgumentParser(prog="benches/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="rounds of `spec`; other bundles have fewer (60)")
    parser.add_argument("--only", default="", help=f"groups, with commas: {', '.join(GROUPS)}")
    parser.add_argument("--out", default="target/bench", help="directory for the table, the JSON and the chart (target/bench)")
    parser.add_argument("--alive", default="500,2000", help="numbers of containers in the group alive (500,2000)")
    parser.add_argument("runtimes", nargs="+", metavar="RUNTIME")
    chosen = parser.parse_args()
    chosen.only = [word for word in chosen.only.split(",") if word] or GROUPS
    unknown = sorted(set(chosen.only) - set(GROUPS))
    if unknown or chosen.rounds < 1:
        parser.error(f"no group {', '.join(unknown)}" if unknown else "at least one round")
    strange = [path for path in chosen.runtimes if not os.access(path, os.X_OK)]
    if strange:
        parser.error(f"no program: {', '.join(strange)}")
    chosen.alive = [int(number) for number in chosen.alive.split(",")]
    chosen.out = os.path.abspath(chosen.out)
    return chosen


def measure(chosen, place, runtimes, least):
    """Measures all requested groups, and returns the parts of the report."""
    made = bundles.make(place, runtimes[0], [name for name in bundles.WEIGHTS if name in chosen.only or name == "spec"])
    log = measuring.Log(runtimes)
    parts = {}
    for name in bundles.WEIGHTS:
        if name in chosen.only:
            say(name)
            measuring.rounds(log, made[name], runtimes, least, bundles.rounds_of(name, chosen.rounds))
    few = max(2, chosen.rounds // 6)
    measures = {
        "rss": lambda: costs.resident(made["spec"], runtimes, least, few),
        "memory": lambda: costs.smallest_memory(place, made["spec"], runtimes, least),
        "calls": lambda: costs.system_calls(place, made["spec"], runtimes, least),
        "at-once": lambda: scale.at_once(made["spec"], runtimes, least, max(1, chosen.rounds // 12)),
        "threads": lambda: scale.with_threads(made["spec"], runtimes, few),
        "alive": lambda: scale.alive(made["spec"], runtimes, chosen.alive, few),
    }
    for name, take in measures.items():
        if name in chosen.only:
            say(name)
            try:
                parts[name] = take()
            except measuring.Failed as failure:
                parts[name] = {"not_measured": str(failure)}
    return {"times": log.rows(), **parts}


def say(group):
    print(f"bench: {group}", file=sys.stderr, flush=True)


def inside(chosen):
    """Runs in the private namespaces. Returns whether the first runtime has never failed."""
    place = world.Place()
    runtimes = world.runtimes(place, chosen.runtimes)
    try:
        least, why = floor.checked(place, runtimes[0])
        about = report.host(runtimes, chosen.rounds, why)
        found = {"host": about, **measure(chosen, place, runtimes, least)}
    finally:
        place.clean(runtimes)
    os.makedirs(chosen.out, exist_ok=True)
    report.write(found, chosen.out)
    chart.write(found, os.path.join(chosen.out, "bench.svg"))
    return not report.failures(found)


def main():
    chosen = arguments()
    if not world.is_inside():
        floor.build()
        sys.exit(world.enter())
    sys.exit(0 if inside(chosen) else 1)


main()
