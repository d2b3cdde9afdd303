#!/usr/bin/env python3
"""What libseccomp makes of profiles, for tests/seccomp_differential.rs. CORTEN_LIBSECCOMP names another library.

A line of JSON in, one out: {"names": [...]} is answered by {arch: {name: number}}, a profile by its program as
[[code, jt, jf, k], ...] or by a string that says what libseccomp refused. Rules are added as runc adds them.
"""

import ctypes
import errno
import json
import os
import struct
import sys

LIB = ctypes.CDLL(os.environ.get("CORTEN_LIBSECCOMP", "libseccomp.so.2"))
LIB.seccomp_init.restype = ctypes.c_void_p
LIB.seccomp_init.argtypes = [ctypes.c_uint32]
for name, args in {
    "seccomp_release": [ctypes.c_void_p],
    "seccomp_arch_add": [ctypes.c_void_p, ctypes.c_uint32],
    "seccomp_attr_set": [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32],
    "seccomp_export_bpf": [ctypes.c_void_p, ctypes.c_int],
    "seccomp_syscall_resolve_name": [ctypes.c_char_p],
    "seccomp_syscall_resolve_name_arch": [ctypes.c_uint32, ctypes.c_char_p],
}.items():
    getattr(LIB, name).argtypes = args
LIB.seccomp_arch_resolve_name.restype = ctypes.c_uint32

UNKNOWN = -1
OPTIMIZE = 8
OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
ACTIONS = {
    "KILL": 0,
    "KILL_THREAD": 0,
    "KILL_PROCESS": 0x80000000,
    "TRAP": 0x00030000,
    "ERRNO": 0x00050000,
    "NOTIFY": 0x7FC00000,
    "TRACE": 0x7FF00000,
    "LOG": 0x7FFC0000,
    "ALLOW": 0x7FFF0000,
}


class Compare(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def arch_number(name):
    return LIB.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())


def action_number(name, number):
    name = name.removeprefix("SCMP_ACT_")
    return ACTIONS[name] | ((1 if number is None else number) if name in ("ERRNO", "TRACE") else 0)


def add_rule(context, action, number, comparisons):
    array = (Compare * max(1, len(comparisons)))(*comparisons)
    rc = LIB.seccomp_rule_add_array(
        ctypes.c_void_p(context), ctypes.c_uint32(action), ctypes.c_int(number), ctypes.c_uint(len(comparisons)), array
    )
    if rc < 0:
        raise ValueError(f"rule for {number}: {os.strerror(-rc)}")


def add_syscall(context, default, syscall):
    action = action_number(syscall["action"], syscall.get("errnoRet"))
    if action == default:
        return
    comparisons = [
        Compare(arg["index"], OPERATORS[arg["op"].removeprefix("SCMP_CMP_")], arg["value"], arg.get("valueTwo", 0))
        for arg in syscall.get("args", [])
    ]
    indexes = [c.arg for c in comparisons]
    for name in syscall["names"]:
        number = LIB.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            continue
        if len(set(indexes)) < len(indexes):
            for comparison in comparisons:
                add_rule(context, action, number, [comparison])
        else:
            add_rule(context, action, number, comparisons)


def program(profile):
    default = action_number(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = LIB.seccomp_init(default)
    try:
        for arch in profile.get("architectures", []):
            rc = LIB.seccomp_arch_add(context, arch_number(arch))
            if rc < 0 and rc != -errno.EEXIST:
                raise ValueError(f"{arch}: {os.strerror(-rc)}")
        if len(profile.get("syscalls", [])) > 32:
            LIB.seccomp_attr_set(context, OPTIMIZE, 2)
        for syscall in profile.get("syscalls", []):
            add_syscall(context, default, syscall)
        fd = os.memfd_create("bpf")
        try:
            if (rc := LIB.seccomp_export_bpf(context, fd)) < 0:
                raise ValueError(f"export: {os.strerror(-rc)}")
            os.lseek(fd, 0, os.SEEK_SET)
            with os.fdopen(fd, "rb", closefd=False) as file:
                return list(struct.iter_unpack("=HBBI", file.read()))
        finally:
            os.close(fd)
    finally:
        LIB.seccomp_release(context)


def names(request):
    return {
        arch: {n: LIB.seccomp_syscall_resolve_name_arch(arch_number(arch), n.encode()) for n in request["names"]}
        for arch in request["archs"]
        if arch_number(arch) != 0
    }


for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = names(request) if "names" in request else program(request)
    except ValueError as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
