"""The place of the measurements: private namespaces, a tmpfs, one view of the cgroups, and the clean-up."""
import os
import signal
import subprocess
import sys
import tempfile
import time

# The pid in all names, and the directory of the tmpfs, for the program inside the namespaces.
MARK, TMPFS = "CORTEN_BENCH_MARK", "CORTEN_BENCH_TMPFS"
CGROUPS = "/sys/fs/cgroup"
UNIFIED = f"{CGROUPS}/unified"
MEMORY = f"{CGROUPS}/memory"


def is_inside():
    return MARK in os.environ


def mark():
    """Returns the part that the names of all containers, cgroups and directories of this run share."""
    return f"corten-bench-{os.environ[MARK]}"


def enter():
    """Runs this program again in private namespaces. Afterwards the rest in the cgroups is removed."""
    if os.geteuid():
        sys.exit("bench: as root: it mounts and makes cgroups")
    directory = tempfile.mkdtemp(prefix="corten-bench.")
    os.chmod(directory, 0o755)
    os.environ.update({MARK: str(os.getpid()), TMPFS: directory})
    words = ["unshare", "--fork", "--kill-child", "--mount-proc", "-m", "-p", "-n", "-i", "-u", sys.executable, *sys.argv]
    child = subprocess.Popen(words)
    # A terminal sends ^C to both programs. The one inside cleans up and ends, and this one waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: inner_end(child))
    try:
        return child.wait()
    finally:
        for hierarchy in [UNIFIED if os.path.isdir(UNIFIED) else CGROUPS, MEMORY]:
            sweep(hierarchy)
        os.rmdir(directory)


def inner_end(child):
    """Asks the program inside to end: the only child of unshare's process."""
    with open(f"/proc/{child.pid}/task/{child.pid}/children") as file:
        for pid in file.read().split():
            os.kill(int(pid), signal.SIGTERM)


def run(*words):
    subprocess.run(words, check=True)


class Place:
    """The tmpfs and the usable cgroup hierarchies."""

    def __init__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.directory = os.environ[TMPFS]
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "tmpfs", "-o", "mode=755", "corten-bench", self.directory)
        self.memory_v1 = self.bound_memory()
        if os.path.isdir(UNIFIED):
            run("mount", "--bind", UNIFIED, CGROUPS)

    def bound_memory(self):
        """Returns v1's memory hierarchy, outside of the view of the runtimes, or None on a host without it."""
        if not os.path.exists(f"{MEMORY}/memory.limit_in_bytes"):
            return None
        run("mount", "--bind", MEMORY, self.make("memory"))
        return self.path("memory")

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def make(self, *names):
        os.makedirs(self.path(*names), exist_ok=True)
        return self.path(*names)

    def clean(self, runtimes):
        for runtime in runtimes:
            runtime.delete_all()
        reap()
        for hierarchy in [CGROUPS, self.memory_v1]:
            sweep(hierarchy)
        os.chdir("/")
        run("umount", "--recursive", "--lazy", self.directory)


class Runtime:
    """A measured runtime, with a state root of its own and the containers that it can still have."""

    def __init__(self, place, number, path, name):
        self.path, self.name, self.number = os.path.abspath(path), name, number
        self.alive = set()
        self.root = place.make("state", str(number))

    def words(self, *words):
        return [self.path, "--root", self.root, *words]

    def container(self, number=0):
        return f"{mark()}-{self.number}-{number}"

    def delete_all(self):
        for name in sorted(self.alive):
            self.delete(name)

    def delete(self, name):
        """Removes a container in any state."""
        words = self.words("delete", "--force", name)
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        self.alive.discard(name)


def runtimes(place, paths):
    """Returns a runtime for each path. If two have the same name, the second gets a number."""
    made, names = [], set()
    for number, path in enumerate(paths):
        name = os.path.basename(path)
        name = f"{name}-{number + 1}" if name in names else name
        names.add(name)
        made.append(Runtime(place, number, path, name))
    return made


def reap(patience=0.0):
    """Waits for orphans, which are reparented to us as the first process of the pid namespace: one, if there is time, and the rest."""
    end = time.monotonic() + patience
    some = False
    while True:
        try:
            pid = os.waitpid(-1, os.WNOHANG)[0]
        except ChildProcessError:
            pid = 0
        some = some or pid > 0
        if not pid:
            if some or time.monotonic() >= end:
                return
            time.sleep(0.0002)


def sweep(hierarchy):
    """Kills the processes in the cgroups of this run and removes them."""
    if not hierarchy or not os.path.isdir(hierarchy):
        return
    ours = [path for path, _, _ in os.walk(hierarchy, topdown=False) if mark() in path]
    for path in ours:
        for pid in members(path):
            end(pid)
    for path in ours:
        remove(path)


def members(group):
    try:
        with open(os.path.join(group, "cgroup.procs")) as file:
            return [int(pid) for pid in file.read().split() if pid != "0"]
    except OSError:
        return []


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def remove(group):
    """A cgroup is busy until its last process has ended."""
    for _ in range(200):
        try:
            return os.rmdir(group)
        except FileNotFoundError:
            return None
        except OSError:
            if is_inside():
                reap()
            time.sleep(0.01)
    print(f"bench: {group} remains", file=sys.stderr)
