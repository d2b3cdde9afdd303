#!/usr/bin/env python3
"""Turns an engine's profile template into the `linux.seccomp` that it writes for a container on x86-64.

    scripts/seccomp-fixtures.py TEMPLATE CAPABILITY... > tests/golden/seccomp/NAME.json

The source of docker.json is profiles/seccomp/default.json of Debian's golang-github-docker-docker-dev (26.1.5), and that of podman.json is
/usr/share/containers/seccomp.json of golang-github-containers-common (0.67.1). Each was made with the
engine's default capabilities.
"""

import json
import sys

ARCHES = {"amd64"}


def kept(rule, capabilities):
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and not ARCHES & set(includes["arches"]):
        return False
    if not set(includes.get("caps") or []) <= capabilities:
        return False
    # `minKernel` is always met: corten requires a newer kernel than all of these rules.
    return not (ARCHES & set(excludes.get("arches") or []) or capabilities & set(excludes.get("caps") or []))


def section(template, capabilities):
    out = {"defaultAction": template["defaultAction"]}
    if (errno := template.get("defaultErrnoRet")) is not None:
        out["defaultErrnoRet"] = errno
    for row in template["archMap"]:
        if row["architecture"] == "SCMP_ARCH_X86_64":
            out["architectures"] = [row["architecture"], *row["subArchitectures"]]
    out["syscalls"] = []
    for rule in template["syscalls"]:
        if not kept(rule, capabilities):
            continue
        syscall = {"names": rule["names"], "action": rule["action"]}
        if (errno := rule.get("errnoRet")) is not None:
            syscall["errnoRet"] = errno
        if rule.get("args"):
            members = ("index", "value", "valueTwo", "op")
            syscall["args"] = [{m: arg[m] for m in members if arg.get(m) or m != "valueTwo"} for arg in rule["args"]]
        out["syscalls"].append(syscall)
    return out


if len(sys.argv) < 3:
    sys.exit(__doc__)
with open(sys.argv[1], encoding="utf-8") as file:
    result = section(json.load(file), set(sys.argv[2:]))
rules = ",\n    ".join(json.dumps(rule) for rule in result.pop("syscalls"))
print(json.dumps(result, indent=2)[:-2] + ',\n  "syscalls": [\n    ' + rules + "\n  ]\n}")
