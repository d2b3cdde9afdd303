"""Many containers at once, many containers alive, many threads."""
import os
import statistics
import subprocess
import sys
import time

import costs
import measuring
import world

AT_ONCE = [1, 2, 16, 64]
WINDOW = 1.0
THREADS = 3000
# The containers of the group alive are created and deleted by as many commands at once as there are processors.
WIDTH = os.cpu_count() or 1
LEAST_FREE_KB = 2 * 1024 * 1024


def keep_busy(width, commands, seconds=None):
    """Runs commands, `width` at once, until none is left or the time is up. Returns their number and the time."""
    start = time.perf_counter()
    running, done = set(), 0
    commands = iter(commands)
    while True:
        while len(running) < width and (seconds is None or time.perf_counter() - start < seconds):
            words = next(commands, None)
            if words is None:
                break
            running.add(measuring.spawn(words))
        if not running:
            return done, time.perf_counter() - start
        pid, status = os.waitpid(-1, 0)
        if pid not in running:
            continue
        running.discard(pid)
        done += 1
        if status:
            settle(running)
            raise measuring.Failed(measuring.complaint(status))


def settle(running):
    for pid in running:
        os.waitpid(pid, 0)


def at_once(bundle, runtimes, least, rounds):
    """Measures containers per second by `run`: the median of windows of a second, with the runtimes taking turns."""
    found = {runtime.name: {} for runtime in costs.all_of(runtimes, least)}
    for width in AT_ONCE:
        rates = {}
        for _ in range(rounds):
            for runtime in costs.all_of(runtimes, least):
                if "fails" not in found[runtime.name]:
                    one_window(rates, found, runtime, bundle, width)
        for name, values in rates.items():
            found[name][str(width)] = statistics.median(values)
    return found


def one_window(rates, found, runtime, bundle, width):
    names = (f"{width}-{n}" for n in range(sys.maxsize))
    try:
        done, seconds = keep_busy(width, (costs.run_words(runtime, bundle, name) for name in names), WINDOW)
        rates.setdefault(runtime.name, []).append(done / seconds)
        if runtime.name != "floor":
            runtime.alive.clear()
    except measuring.Failed as failure:
        found[runtime.name]["fails"] = str(failure)
        costs.leave_nothing(runtime)


def creates(runtime, bundle, number, name="more"):
    """Measures create. Each container is deleted at once."""
    name = runtime.container(name)
    runtime.alive.add(name)
    samples = []
    for _ in range(number):
        samples.append(measuring.call(runtime.words("create", "--bundle", bundle.long, name)))
        measuring.call(runtime.words("delete", "--force", name))
        world.reap()
    runtime.alive.discard(name)
    return samples


def with_threads(bundle, runtimes, rounds):
    """Measures create with few and with 3,000 more threads on the host, in turns."""
    found = {}
    for number in [0, THREADS]:
        helper = threads(number) if number else None
        try:
            samples = {}
            for _ in range(rounds):
                for runtime in runtimes:
                    take(samples, found, runtime, bundle)
            for name, values in samples.items():
                found.setdefault(name, {})[str(number)] = measuring.summary(values)
        finally:
            if helper:
                helper.kill()
                helper.wait()
    return found


def take(samples, found, runtime, bundle):
    if "fails" in found.get(runtime.name, {}):
        return
    try:
        samples.setdefault(runtime.name, []).extend(creates(runtime, bundle, 1))
    except measuring.Failed as failure:
        found.setdefault(runtime.name, {})["fails"] = str(failure)
        runtime.delete_all()


def threads(number):
    """A process with many sleeping threads."""
    program = ("import sys, threading, time\nthreading.stack_size(65536)\n"
               "for _ in range(int(sys.argv[1])): threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n"
               "print('ready', flush=True)\ntime.sleep(1e6)")
    helper = subprocess.Popen([sys.executable, "-c", program, str(number)], stdout=subprocess.PIPE)
    if helper.stdout.readline() != b"ready\n":
        helper.wait()
        raise measuring.Failed(f"a process cannot have {number} threads here")
    return helper


def alive(bundle, runtimes, levels, number):
    """Measures create and list beside the runtime's own created containers. One runtime after the other."""
    found = {}
    for runtime in runtimes:
        say(runtime.name)
        found[runtime.name] = {}
        try:
            beside(found[runtime.name], bundle, runtime, levels, number)
        except measuring.Failed as failure:
            found[runtime.name]["fails"] = str(failure)
        remove_all(runtime)
    return found


def say(name):
    print(f"bench:   {name}", file=sys.stderr, flush=True)


def beside(found, bundle, runtime, levels, number):
    for level in [0, *levels]:
        for first in range(len(runtime.alive), level, 100):
            if free_kb() < LEAST_FREE_KB:
                found["not_measured"] = f"{level} alive: less than 2 GB of memory is free with {first}"
                return
            more(runtime, bundle, range(first, min(first + 100, level)))
        lists = [measuring.call(runtime.words("list")) for _ in range(number)]
        found[str(level)] = {"create": measuring.summary(creates(runtime, bundle, number)), "list": measuring.summary(lists)}


def more(runtime, bundle, numbers):
    names = [runtime.container(f"alive-{n}") for n in numbers]
    runtime.alive.update(names)
    keep_busy(WIDTH, [runtime.words("create", "--bundle", bundle.long, name) for name in names])


def remove_all(runtime):
    names, runtime.alive = runtime.alive, set()
    try:
        keep_busy(WIDTH, [runtime.words("delete", "--force", name) for name in sorted(names)])
    except measuring.Failed:
        runtime.alive = names
        runtime.delete_all()
    world.reap()


def free_kb():
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1])
    return 0
