"""Costs other than time: resident memory, the smallest cgroup, system calls."""
import json
import os
import shutil
import signal
import statistics
import subprocess
import time

import floor
import measuring
import world

STEP = 128 * 1024
LARGEST = 512
ATTEMPTS = 3


def run_words(runtime, bundle, name="cost"):
    """Returns the command line for `run` of a runtime or of the floor."""
    if isinstance(runtime, floor.Floor):
        return runtime.run_words(bundle)
    runtime.alive.add(runtime.container(name))
    return runtime.words("run", "--bundle", bundle.short, runtime.container(name))


def all_of(runtimes, least):
    return [*runtimes, *([least] if least else [])]


def resident(bundle, runtimes, least, number):
    """Measures ru_maxrss of run's process (and of its waited-for children) in kB: the median and the largest."""
    if not least:
        return {"not_measured": "peak, which spawns the runtime from a small process, is for x86-64 only"}
    found = {}
    for runtime in all_of(runtimes, least):
        try:
            values = [peak(run_words(runtime, bundle)) for _ in range(number)]
            found[runtime.name] = {"median_kb": statistics.median(values), "largest_kb": max(values)}
        except measuring.Failed as failure:
            found[runtime.name] = {"fails": str(failure)}
    return found


def peak(words):
    """Measures by a process of a few pages. Linux also counts the memory before execve, which would be Python's."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    actions = [(os.POSIX_SPAWN_DUP2, measuring.NULL, 0), (os.POSIX_SPAWN_DUP2, measuring.NULL, 1),
               (os.POSIX_SPAWN_DUP2, measuring.ERRORS, 2), (os.POSIX_SPAWN_DUP2, writer, 3)]
    pid = os.posix_spawn(floor.program("peak"), ["peak", *words], os.environ, file_actions=actions)
    os.close(writer)
    with os.fdopen(reader) as file:
        status = os.waitpid(pid, 0)[1]
        if status:
            raise measuring.Failed(measuring.complaint(status))
        return int(file.read())


class MemoryGroup:
    """A memory cgroup of our own, in v1's hierarchy, or in v2's if its root shares out the memory controller."""

    def __init__(self, place):
        self.v1 = place.memory_v1 is not None
        self.path = os.path.join(place.memory_v1 or world.CGROUPS, f"{world.mark()}-memory")

    def usable(self):
        """Returns None, or the reason why it does not exist."""
        try:
            os.mkdir(self.path)
            with open(os.path.join(self.path, self.limit_file()), "a"):
                return None
        except OSError as error:
            return f"no memory cgroup of our own: {error.strerror}: {error.filename}"
        finally:
            if os.path.isdir(self.path):
                world.remove(self.path)

    def limit_file(self):
        return "memory.limit_in_bytes" if self.v1 else "memory.max"

    def make(self, limit):
        """v2 allows processes only in leaves: one for the runtime, one for the container. The limit is above both."""
        os.mkdir(self.path)
        with open(os.path.join(self.path, self.limit_file()), "w") as file:
            file.write(str(limit))
        if self.v1:
            return self.path
        os.mkdir(os.path.join(self.path, "runtime"))
        return os.path.join(self.path, "runtime")

    def remove(self):
        for name in ["runtime", "container", ""]:
            path = os.path.join(self.path, name)
            for pid in world.members(path):
                world.end(pid)
            if os.path.isdir(path):
                world.remove(path)


def smallest_memory(place, bundle, runtimes, least):
    """Returns the smallest limit in kB with which `run` succeeds three times of three."""
    group = MemoryGroup(place)
    why = group.usable()
    if why:
        return {"not_measured": why}
    if not group.v1:
        bundle = placed_within(bundle, place, group)
        least = None
    return {runtime.name: bisected(group, runtime, bundle) for runtime in all_of(runtimes, least)}


def placed_within(bundle, place, group):
    """Puts the container's cgroup beside the runtime's, where v2's limit applies too."""
    directory = place.make("bundles", "memory")
    with open(os.path.join(bundle.short, "config.json")) as file:
        config = json.load(file)
    config["linux"]["cgroupsPath"] = f"/{os.path.basename(group.path)}/container"
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)
    placed = type("Placed", (), {})()
    placed.short, placed.rootfs = directory, bundle.rootfs
    return placed


def bisected(group, runtime, bundle):
    fails, works = 0, LARGEST
    if not fits(group, runtime, bundle, works * STEP):
        return {"fails": f"with {works * STEP // 1024} kB"}
    while works - fails > 1:
        middle = (fails + works) // 2
        if fits(group, runtime, bundle, middle * STEP):
            works = middle
        else:
            fails = middle
    return {"kb": works * STEP // 1024}


def fits(group, runtime, bundle, limit):
    try:
        for _ in range(ATTEMPTS):
            leaf = group.make(limit)
            enter = ["/bin/sh", "-c", f'echo $$ >{leaf}/cgroup.procs && exec "$@"', "sh"]
            measuring.call([*enter, *run_words(runtime, bundle)], patience=10)
            group.remove()
        return True
    except measuring.Failed:
        return False
    finally:
        group.remove()
        leave_nothing(runtime)


def leave_nothing(runtime):
    """Cleans up after a run that can have ended anywhere."""
    if isinstance(runtime, floor.Floor):
        world.sweep(world.CGROUPS)
    else:
        runtime.delete_all()
    world.reap()


def system_calls(place, bundle, runtimes, least):
    """Counts by strace -c -f, with threads and children."""
    if not shutil.which("strace"):
        return {"not_measured": "there is no strace"}
    out = place.path("calls")
    found = {runtime.name: calls_of(runtime, bundle, out) for runtime in runtimes}
    if least:
        found["floor"] = {"run": counted(least.run_words(bundle), out)}
    return found


def calls_of(runtime, bundle, out):
    name = runtime.container("calls")
    runtime.alive.add(name)
    commands = {
        "run": ["run", "--bundle", bundle.short, name], "create": ["create", "--bundle", bundle.long, name],
        "start": ["start", name], "state": ["state", name], "exec": ["exec", name, "/bin/true"], "ps": ["ps", name],
        "list": ["list"], "kill": ["kill", name, "KILL"], "delete": ["delete", name],
    }
    found = {}
    for command, words in commands.items():
        try:
            if command == "create":
                found[command] = counted_create(runtime, words, name, out)
            else:
                found[command] = counted(runtime.words(*words), out)
        except measuring.Failed as failure:
            found[command] = f"fails: {failure}"
        if command == "kill":
            world.reap(2)
    found["--version"] = counted([runtime.path, "--version"], out)
    runtime.delete_all()
    return found


def counted(words, out):
    measuring.call([shutil.which("strace"), "-f", "-c", "-o", out, *words])
    return total(out)


def total(out):
    """Returns the fourth column of the last line."""
    with open(out) as file:
        return int(file.read().strip().splitlines()[-1].split()[3])


def counted_create(runtime, words, name, out):
    """strace -f also traces the container's first process, so it is ended when the container exists."""
    # -I 2: with -o, strace would ignore the signal that ends it.
    strace = [shutil.which("strace"), "-I", "2", "-f", "-c", "-o", out, *runtime.words(*words)]
    tracer = subprocess.Popen(strace, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_created(runtime, name)
    finally:
        tracer.send_signal(signal.SIGTERM)
        end_of(tracer)
    return total(out)


def end_of(tracer):
    try:
        tracer.wait(10)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()
        raise measuring.Failed("strace does not end") from None


def await_created(runtime, name):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.1)
        try:
            if json.loads(measuring.output(runtime.words("state", name)))["status"] == "created":
                # The runtime's own process has not ended yet.
                time.sleep(0.3)
                return
        except (measuring.Failed, ValueError):
            continue
    raise measuring.Failed("no container within 20 s")
