"""The bundles: one rootfs of busybox, and a configuration for each kind of container."""
import copy
import functools
import json
import os
import re
import shutil
import subprocess

import measuring

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROFILE = os.path.join(TOP, "tests/golden/seccomp/docker.json")
TABLE = os.path.join(TOP, "src/seccomp/syscalls/table.rs")

# The share of the rounds for each bundle. Slow bundles have few.
WEIGHTS = {
    "spec": 1, "docker": 0.5, "seccomp": 0.5, "no-netns": 0.5, "minimal": 0.5, "userns": 0.5, "mounts-100": 0.25,
    "mounts-1000": 0.1, "seccomp-2000": 0.15,
}
FIRST_ID, IDS = 100000, 65536

DOCKER_CAPABILITIES = [
    f"CAP_{name}" for name in ("CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE"
                               " SYS_CHROOT KILL AUDIT_WRITE").split()
]
DOCKER_MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
]
DOCKER_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
# The numbers of the character devices that Docker allows. It denies the last one, /dev/fuse, again.
DOCKER_DEVICES = [(1, 5, True), (1, 3, True), (1, 9, True), (1, 8, True), (5, 0, True), (5, 1, True), (10, 229, False)]
# Calls of busybox's true, sh and sleep and of a runtime's last steps. The profile of 2,000 rules has no rule for them.
NEEDED = re.compile(
    r"^(_llseek|access|arch_prctl|brk|cap(get|set)|ch(dir|own)|clock_.*|clone3?|close(_range)?|dup[23]?|execve(at)?|exit.*"
    r"|f?stat.*|fs?tat(fs|at)?(64)?|faccessat2?|fch.*|fcntl(64)?|futex.*|get.*|ioctl|k?ill|keyctl|lseek|lstat(64)?|madvise"
    r"|membarrier|mmap2?|mprotect|mremap|munmap|nanosleep|new.*stat.*|open.*|pidfd_.*|pipe2?|poll|ppoll.*|prctl|pread64"
    r"|prlimit64|pselect6.*|read.*|recv.*|restart_syscall|rseq|rt_sig.*|sched_.*|seccomp|send.*|set.*|sig.*|socket.*|statx"
    r"|tgkill|tkill|umask|uname|unshare|v?fork|wait.*|write.*|epoll_.*|eventfd2?)$")


class Bundle:
    """A bundle in two directories: `short` ends at once, `long` runs until it is killed."""

    def __init__(self, name, directory, config):
        self.name = name
        self.rootfs = config["root"]["path"]
        self.short = written(os.path.join(directory, "short"), config, ["/bin/true"])
        self.long = written(os.path.join(directory, "long"), config, ["/bin/sleep", "10000"])


def written(directory, config, args):
    os.makedirs(directory)
    config["process"]["args"] = args
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)
    return directory


def rounds_of(name, rounds):
    return max(2, round(rounds * WEIGHTS[name]))


def make(place, runtime, names):
    """Makes the bundles of these names from the output of the runtime's `spec`."""
    spec = specification(place, runtime)
    return {name: Bundle(name, place.make("bundles", name), MAKERS[name](place, copy.deepcopy(spec))) for name in names}


def make_probe(place, runtime, args):
    """Returns the bundle `spec` with another program."""
    bundle = Bundle("probe", place.make("bundles", "probe"), specification(place, runtime))
    path = os.path.join(bundle.short, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["process"]["args"] = args
    with open(path, "w") as file:
        json.dump(config, file)
    return bundle


@functools.cache
def specification(place, runtime):
    directory = place.make("spec")
    measuring.output(runtime.words("spec", "--bundle", directory))
    with open(os.path.join(directory, "config.json")) as file:
        spec = json.load(file)
    spec["process"]["terminal"] = False
    spec["root"]["path"] = busybox(place.make("rootfs"))
    return spec


def busybox(rootfs):
    for name in ["bin", "proc", "sys", "dev", "etc"]:
        os.makedirs(os.path.join(rootfs, name))
    shutil.copy(shutil.which("busybox"), os.path.join(rootfs, "bin"))
    for name in ["true", "sleep", "sh", "cat", "ls", "hostname"]:
        os.symlink("busybox", os.path.join(rootfs, "bin", name))
    for name in ["resolv.conf", "hostname", "hosts"]:
        open(os.path.join(rootfs, "etc", name), "w").close()
    return rootfs


def seccomp(_place, config):
    with open(PROFILE) as file:
        config["linux"]["seccomp"] = json.load(file)
    return config


def docker(place, config):
    """Returns Docker's configuration for `docker run` without options on cgroup v2, without the network hook."""
    config = seccomp(place, config)
    sets = {name: DOCKER_CAPABILITIES for name in ["bounding", "effective", "permitted"]}
    config["process"].update(capabilities=sets, rlimits=[], noNewPrivileges=False, oomScoreAdj=0)
    config["root"]["readonly"] = False
    config["mounts"] = docker_mounts(place)
    rules_of_devices = [{"allow": False, "access": "rwm"}]
    for major, minor, allow in DOCKER_DEVICES:
        rules_of_devices.append({"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    config["linux"].update(maskedPaths=DOCKER_MASKED, readonlyPaths=DOCKER_READONLY, resources={"devices": rules_of_devices},
                           sysctl={"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"})
    return config


def docker_mounts(place):
    quiet = ["nosuid", "noexec", "nodev"]
    mounts = [
        ("/proc", "proc", "proc", quiet),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/sys", "sysfs", "sysfs", [*quiet, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", ["ro", *quiet]),
        ("/dev/mqueue", "mqueue", "mqueue", quiet),
        ("/dev/shm", "tmpfs", "shm", [*quiet, "mode=1777", "size=67108864"]),
    ]
    for name in ["resolv.conf", "hostname", "hosts"]:
        source = os.path.join(place.make("docker"), name)
        open(source, "a").close()
        mounts.append((f"/etc/{name}", "bind", source, ["rbind", "rprivate"]))
    return [{"destination": where, "type": kind, "source": source, "options": options}
            for where, kind, source, options in mounts]


def without_network(_place, config):
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
    return config


def minimal(_place, config):
    """Returns a configuration with a pid and a mount namespace, /proc and /dev. It has no masks, limits or device rules."""
    config.pop("hostname", None)
    config["process"].pop("rlimits", None)
    config["mounts"] = [one for one in config["mounts"] if one["destination"] in ("/proc", "/dev")]
    config["linux"] = {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
    return config


def user_namespace(_place, config):
    """Returns a configuration in which root is an unprivileged user of the host."""
    mapping = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)
    config["linux"]["namespaces"].append({"type": "user"})
    return config


def bind_mounts(number):
    def with_mounts(place, config):
        for n in range(number):
            os.makedirs(os.path.join(config["root"]["path"], "m", str(n)), exist_ok=True)
            source = place.make("sources", str(n))
            config["mounts"].append({"destination": f"/m/{n}", "type": "bind", "source": source,
                                     "options": ["rbind", "rprivate"]})
        return config

    return with_mounts


def rules(number):
    """Returns rules with mostly different actions. For every tenth name the action depends on an argument."""
    def with_rules(_place, config):
        with open(TABLE) as file:
            known = re.findall(r'^\s*row\("([^"]+)"', file.read(), re.MULTILINE)
        names = [name for name in known if not NEEDED.match(name)]
        each = -(-number // len(names))
        made = [rule(name, n, i) for n, name in enumerate(names) for i in range(each)][:number]
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": made,
        }
        return config

    return with_rules


def rule(name, number, fate):
    made = {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": number % 130 + 1}
    if number % 10 == 0:
        made.update(errnoRet=fate + 1, args=[{"index": 0, "value": fate, "op": "SCMP_CMP_EQ"}])
    return made


MAKERS = {
    "spec": lambda _place, config: config, "docker": docker, "seccomp": seccomp, "no-netns": without_network,
    "minimal": minimal, "userns": user_namespace, "mounts-100": bind_mounts(100), "mounts-1000": bind_mounts(1000),
    "seccomp-2000": rules(2000),
}
