"""The time of one command, rounds that interleave the runtimes, and the figures."""
import os
import signal
import statistics
import subprocess
import time

import world

WARM_UP = 2
PATIENCE = 60
LIFE = "create+start+delete"
COMMANDS = ["run", "create", "start", "state", "exec", "ps", "list", "kill", "delete", LIFE, "--version"]
NULL = os.open("/dev/null", os.O_RDWR)
# The stderr of all commands. The file is read and emptied when a command fails.
ERRORS = os.memfd_create("errors")


class Failed(Exception):
    """An exit status other than 0, or a timeout."""


class Sample:
    """Milliseconds of the clock and of the processor, for the command's process and the children that it waited for."""

    def __init__(self, wall, cpu):
        self.wall, self.cpu = wall, cpu

    def __add__(self, other):
        return Sample(self.wall + other.wall, self.cpu + other.cpu)


def spawn(words):
    actions = [(os.POSIX_SPAWN_DUP2, NULL, 0), (os.POSIX_SPAWN_DUP2, NULL, 1), (os.POSIX_SPAWN_DUP2, ERRORS, 2)]
    return os.posix_spawn(words[0], words, os.environ, file_actions=actions)


def too_long(*_):
    raise TimeoutError


signal.signal(signal.SIGALRM, too_long)


def call(words, patience=PATIENCE):
    """Runs a command to its end."""
    signal.setitimer(signal.ITIMER_REAL, patience)
    start = time.perf_counter()
    pid = spawn(words)
    try:
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - start
    except TimeoutError:
        world.end(pid)
        os.waitpid(pid, 0)
        raise Failed(f"no end within {patience} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if status:
        raise Failed(complaint(status))
    return Sample(wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000)


def complaint(status):
    """Returns the first line of stderr (a warning only if there is no other), or the exit status."""
    size = os.lseek(ERRORS, 0, os.SEEK_END)
    lines = os.pread(ERRORS, size, 0).decode(errors="replace").strip().splitlines()
    os.ftruncate(ERRORS, 0)
    os.lseek(ERRORS, 0, os.SEEK_SET)
    grave = [line for line in lines if "level=warning" not in line]
    return (grave or lines or [f"status {os.waitstatus_to_exitcode(status)}"])[0]


def output(words, allowed=(0,)):
    """Returns the output of a command whose time does not matter."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode not in allowed:
        raise Failed((done.stderr.strip() or f"status {done.returncode}").splitlines()[0])
    return done.stdout


class Log:
    """Samples and failures by bundle, command and runtime."""

    def __init__(self, runtimes):
        self.base = base_of(runtimes).name
        self.samples, self.failures = {}, {}
        self.warm = False

    def note(self, bundle, command, runtime, words):
        """Runs a command, unless it has failed before, and keeps the time."""
        key = (bundle.name, command, runtime.name)
        if key in self.failures:
            return None
        try:
            sample = call(words)
        except Failed as failure:
            self.failures[key] = str(failure)
            return None
        self.keep(key, sample)
        return sample

    def keep(self, key, sample):
        if self.warm:
            self.samples.setdefault(key, []).append(sample)

    def rows(self):
        """Returns one row for each bundle, command and runtime."""
        found = {key: summary(samples) for key, samples in self.samples.items() if key not in self.failures}
        rows = []
        for key in dict.fromkeys([*self.samples, *self.failures]):
            row = dict(zip(["bundle", "command", "runtime"], key))
            if key in self.failures:
                row["fails"] = self.failures[key]
            else:
                row.update(found[key])
                row["ratios"] = ratios(found[key], found.get((key[0], key[1], self.base)))
                row["ratios_to_floor"] = ratios(found[key], found.get((key[0], key[1], "floor")))
            rows.append(row)
        return rows


def base_of(runtimes):
    """Returns the base of the comparison: crun, or the second runtime, or the only one."""
    named = [runtime for runtime in runtimes if runtime.name == "crun"]
    return (named or runtimes[1:] or runtimes)[0]


def summary(samples):
    walls = [sample.wall for sample in samples]
    return {"rounds": len(samples), "minimum_ms": min(walls), "median_ms": statistics.median(walls),
            "cpu_ms": statistics.median(sample.cpu for sample in samples)}


def ratios(one, other):
    if not other:
        return None
    keys = {"minimum": "minimum_ms", "median": "median_ms", "cpu": "cpu_ms"}
    return {name: one[key] / other[key] if other[key] else None for name, key in keys.items()}


def rounds(log, bundle, runtimes, least, number):
    """Runs every runtime once in each round, with another one first each time. Other load then affects all equally."""
    measured = [*runtimes, *([least] if least and bundle.name == "spec" else [])]
    for i in range(number + WARM_UP):
        log.warm = i >= WARM_UP
        turn = i % len(measured)
        for runtime in measured[turn:] + measured[:turn]:
            if runtime is least:
                log.note(bundle, "run", least, least.run_words(bundle))
            else:
                one_life(log, bundle, runtime)


def one_life(log, bundle, runtime):
    """Runs every command once."""
    name = runtime.container()

    def note(command, *words):
        return log.note(bundle, command, runtime, runtime.words(*words))

    runtime.alive.add(name)
    note("run", "run", "--bundle", bundle.short, name)
    world.reap()
    created = note("create", "create", "--bundle", bundle.long, name)
    started = created and note("start", "start", name)
    if not started:
        runtime.delete(name)
        return
    note("state", "state", name)
    note("exec", "exec", name, "/bin/true")
    note("ps", "ps", name)
    note("list", "list")
    deleted = killed_and_deleted(note, name)
    if deleted:
        log.keep((bundle.name, LIFE, runtime.name), created + started + deleted)
        runtime.alive.discard(name)
    else:
        runtime.delete(name)
    if bundle.name == "spec":
        log.note(bundle, "--version", runtime, [runtime.path, "--version"])


def killed_and_deleted(note, name):
    world.reap()
    if not note("kill", "kill", name, "KILL"):
        return None
    # The container's first process was reparented to us when create ended.
    world.reap(2)
    return note("delete", "delete", name)
