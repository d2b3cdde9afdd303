"""Builds benches/floor, and checks that it makes the same container as the first runtime."""
import json
import os
import platform
import re
import subprocess
import sys

import bundles
import measuring
import world

SOURCE = os.path.join(bundles.TOP, "benches", "floor")
BUILT = os.path.join(bundles.TOP, "target", "floor", "{}-unknown-linux-gnu", "release")
PROBE = ("cat /proc/self/mountinfo; echo; cat /proc/self/status; echo; cat /proc/self/limits; ls /dev; hostname;"
         " cat /proc/self/cgroup; ls /sys/class/net; umask; pwd; cat /proc/net/dev")
# Lines of /proc/self/status that must be equal, and mount options of which the floor may not have fewer.
ALIKE = ["Uid", "Gid", "Groups", "NSpid", "NSsid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"]
KEPT_AWAY = {"ro", "nosuid", "nodev", "noexec"}


def program(name):
    return os.path.join(BUILT.format(platform.machine()), name)


def build():
    if platform.machine() == "x86_64":
        target = f"{platform.machine()}-unknown-linux-gnu"
        subprocess.run(["cargo", "build", "--release", "--quiet", "--target", target], cwd=SOURCE, check=True)


class Floor:
    """The floor, which is not a runtime but can `run`."""

    name = "floor"

    def __init__(self):
        self.path = program("floor")
        self.runs = 0

    def run_words(self, bundle, *payload):
        self.runs += 1
        return [self.path, f"{world.CGROUPS}/{world.mark()}-floor-{self.runs}", bundle.rootfs, *(payload or ["/bin/true"])]


def checked(place, runtime):
    """Returns the floor, or None and the reason. A floor that does less than the runtime ends the program."""
    if platform.machine() != "x86_64":
        return None, "floor is left out: it is for x86-64 only"
    spec = bundles.make_probe(place, runtime, ["/bin/sh", "-c", PROBE])
    name = runtime.container("probe")
    runtime.alive.add(name)
    theirs = measuring.output(runtime.words("run", "--bundle", spec.short, name))
    runtime.alive.discard(name)
    least = Floor()
    own = measuring.output(least.run_words(spec, "/bin/sh", "-c", PROBE))
    missing = differences(own, theirs)
    if missing:
        sys.exit("bench: floor does less than " + runtime.name + ":\n" + "\n".join(missing))
    return least, None


def differences(own, theirs):
    """Returns what the floor lacks: mounts, restrictions of mounts, and all other differences."""
    parts = [text.split("\n\n", 2) for text in (own, theirs)]
    (own_mounts, own_status, own_rest), (mounts, status, rest) = parts
    found = [*mounts_lacked(table(own_mounts), table(mounts))]
    for field in ALIKE:
        values = [re.search(rf"^{field}:\s*(.*)$", text, re.MULTILINE) for text in (own_status, status)]
        if values[0] and values[1] and values[0][1].strip() != values[1][1].strip():
            found.append(f"{field}: {values[0][1]}, not {values[1][1]}")
    if own_rest != rest:
        pairs = zip(own_rest.splitlines(), rest.splitlines())
        found += [f"{json.dumps(one)}, not {json.dumps(other)}" for one, other in pairs if one != other] or ["more or less"]
    return found


def mounts_lacked(own, theirs):
    for where, (kind, options) in theirs.items():
        if where not in own:
            yield f"{where} is not mounted"
        elif own[where][0] != kind:
            yield f"{where} is {own[where][0]}, not {kind}"
        elif (options & KEPT_AWAY) - own[where][1]:
            yield f"{where} lacks {', '.join(sorted((options & KEPT_AWAY) - own[where][1]))}"


def table(mountinfo):
    """Returns the mounts by their places, each with its kind and options. /dev/null is the host's or the container's."""
    mounts = {}
    for line in mountinfo.splitlines():
        words = line.split()
        kind = "null" if words[3] == "/null" else words[words.index("-") + 1]
        mounts[words[4]] = (kind, set(words[5].split(",")))
    return mounts
