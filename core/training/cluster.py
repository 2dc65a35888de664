"""Start the scheduler, the servers and the workers of MXNet's parameter server, and end them all when one dies.

    launch.py -+- scheduler                                 (introduces the others to each other)
               +- launch.py --node on each machine -+- servers   (sum the gradients)
                                                    +- workers   (train)

Every process ends when the one above it does: a node when its standard input is closed, which a connection by ssh or
srun passes on, or when no sign of life comes through it, as where the network is cut; what runs below a node, and the
scheduler, by the kernel's parent-death signal. Does not import mxnet.
"""
import contextlib
import ctypes
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Sequence

import joblib

from core.errors import UserError
from core.io.files import read_text

_LAUNCHER = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "launch.py")
_GRACE = 30  # seconds that other processes may run after the first one has ended well
_STOP = 5  # seconds from SIGTERM to SIGKILL
_LOOK_EVERY = 0.2  # seconds
_SIGN_EVERY = 5  # seconds between the launcher's signs of life
_SILENCE = 40  # seconds without one after which a node ends; ssh's limit below, at which the launcher does, is 30
_PR_SET_PDEATHSIG = 1
# A host that falls silent ends its connection, and so the job, within 30 seconds.
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=10",
        "-o", "ServerAliveCountMax=3")

_HOST = re.compile(r"(?P<user>[\w.+][\w.+-]*@)?(?:(?P<name>\w[\w.-]*)(?::(?P<port>[0-9]{1,9}))?"
                   r"|\[(?P<bracketed>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)\](?::(?P<ipv6_port>[0-9]{1,9}))?"
                   r"|(?P<ipv6>[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?))")
_SLOTS = re.compile(r"(?:slots|max[-_]slots|cpu)=[0-9]+")
_FIRST_PORT = 22  # a smaller number behind a colon is meant as MPICH's number of processes


def launch(command: List[str], hosts_file: Optional[str] = None, slurm: bool = False, workers: int = 1,
           servers: int = 1, address: Optional[str] = None) -> None:
    """Run a command as the workers of a job, to its end.

    Args:
        command: list of the program and its arguments.
        hosts_file: path of a list of machines that ssh reaches; None with `slurm` unset is this machine alone.
        slurm: take the machines of the Slurm job that this process runs in.
        workers, servers: number of processes on each machine.
        address: address of this machine that the others reach; None finds it.

    Raises:
        UserError: a process of the job failed or died, or the machines are unknown.
    """
    if hosts_file:
        hosts = read_hosts(hosts_file)
    else:
        hosts = [Host(name) for name in (_slurm_hosts() if slurm else ["localhost"])]
    alone = not (hosts_file or slurm)
    address = address or ("127.0.0.1" if alone else _own_address(hosts))
    environment = {"DMLC_PS_ROOT_URI": address, "DMLC_PS_ROOT_PORT": str(free_port()),
                   "DMLC_NUM_WORKER": str(workers * len(hosts)), "DMLC_NUM_SERVER": str(servers * len(hosts))}
    if alone:
        environment["DMLC_LOCAL"] = "1"  # sockets in the file system instead of the network
    if "OMP_NUM_THREADS" in os.environ:  # ssh passes nothing on by itself
        environment["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    node = {"environment": environment, "folder": os.getcwd(), "command": command, "workers": workers,
            "servers": servers}
    with _Processes() as processes:
        processes.start("the scheduler", [sys.executable, _LAUNCHER, "--serve"],
                        dict(environment, DMLC_ROLE="scheduler", DMLC_NODE_HOST=address), essential=False)
        for host in hosts:
            below = [sys.executable, _LAUNCHER, "--node", json.dumps(dict(node, host=host.name))]
            if slurm:
                below = _srun(host.name) + below
            elif not alone:
                port = ["-p", str(host.port)] if host.port else []
                below = [*_SSH, *port, host.name, " ".join(map(shlex.quote, below))]
            processes.start(f"the part of the job on {host.name}", below, {}, tied=True)
        processes.watch()


def run_here(command: List[str], environments: List[Dict[str, str]]) -> None:
    """Run a command as workers on this machine, to its end, each with variables of its own.

    Raises:
        UserError: one failed or died; then all are ended.
    """
    with _Processes() as processes:
        for number, environment in enumerate(environments):
            processes.start(f"worker {number}", command, environment)
        processes.watch()


class Host(NamedTuple):
    """A machine: its name or address, perhaps with a user (user@name), and the port of its ssh, None for ssh's own."""

    name: str
    port: Optional[int] = None


def read_hosts(path: str) -> List[Host]:
    """Machines of a hosts file, one a line: HOST, USER@HOST, HOST:PORT or [IPv6]:PORT.

    What follows a # is a comment. The slots=N of MPI's files are left out, with a warning on stderr.

    Raises:
        UserError: a line is none of these; its number is named. Or the file names no host.
    """
    hosts = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        place = f"{path}, line {number}"
        settings = [word for word in words[1:] if _SLOTS.fullmatch(word)]
        if len(settings) < len(words) - 1:
            raise UserError(f"{place}: {line.strip()!r} is not one host: HOST, USER@HOST or HOST:PORT is expected")
        if settings:
            print(f"{place}: {' '.join(settings)} is ignored: --workers sets the number of processes on each machine",
                  file=sys.stderr)
        hosts.append(_host(words[0], place))
    if not hosts:
        raise UserError(f"{path} names no host: one per line is expected")
    return hosts


def _host(text: str, place: str) -> Host:
    match = _HOST.fullmatch(text)
    if not match:
        raise UserError(f"{place}: {text!r} is not a host: HOST, USER@HOST, HOST:PORT or [IPv6]:PORT is expected")
    name = (match.group("user") or "") + (match.group("name") or match.group("bracketed") or match.group("ipv6"))
    port = match.group("port") or match.group("ipv6_port")
    if port is None:
        return Host(name)
    if not _FIRST_PORT <= int(port) <= 65535:
        raise UserError(f"{place}: {port} is not a port of ssh ({_FIRST_PORT} to 65535); --workers sets the number of "
                        "processes on each machine")
    return Host(name, int(port))


def run_node(text: str) -> None:
    """Run the servers and workers of one machine, until they end, or the launcher is gone or silent.

    Args:
        text: JSON of what `launch` passes.

    Raises:
        UserError: a process failed or died.
    """
    node = json.loads(text)
    environment = node["environment"]
    try:
        os.chdir(node["folder"])
    except OSError as error:
        raise UserError(f"{node['host']}: the folder {node['folder']} can't be entered: {error.strerror}") from error
    shared = dict(environment, DMLC_NODE_HOST=_address_towards(environment["DMLC_PS_ROOT_URI"]),
                  # so that "python" is the launcher's, also where ssh knows nothing of its virtual environment
                  PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]))
    threads = max(1, joblib.cpu_count(only_physical_cores=True) // node["workers"])
    shared.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(threads)))
    with _Processes() as processes:
        for number in range(node["servers"]):
            processes.start(f"server {number} on {node['host']}", [sys.executable, _LAUNCHER, "--serve"],
                            dict(shared, DMLC_ROLE="server"), essential=False)
        for number in range(node["workers"]):
            processes.start(f"worker {number} on {node['host']}", node["command"],
                            dict(shared, DMLC_ROLE="worker"))
        processes.watch(sys.stdin.fileno())


def serve() -> NoReturn:
    """Be the scheduler or a server, as the environment says; ends when the workers are finished."""
    import core.runtime.mxnet_backend  # noqa: F401  MXNet does it all while it is imported
    raise UserError("the environment has no DMLC_ROLE of a scheduler or server")


class _Processes:
    """Child processes that live and die together. Leaving the block ends those that still run."""

    def __init__(self):
        self._running = []  # (name, Popen, essential)

    def __enter__(self) -> "_Processes":
        self._old = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # being ended twice must not leave processes behind
        for kill, seconds in ((signal.SIGTERM, _STOP), (signal.SIGKILL, None)):
            for _, process, _ in self._running:
                if process.stdin:
                    with contextlib.suppress(OSError):
                        process.stdin.close()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, kill)
            end = time.monotonic() + (seconds or 0)
            while seconds and time.monotonic() < end and any(child.poll() is None for _, child, _ in self._running):
                time.sleep(_LOOK_EVERY)
        for _, process, _ in self._running:
            process.wait()
        signal.signal(signal.SIGTERM, self._old)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], essential: bool = True,
              tied: bool = False) -> None:
        """Start a process in a session of its own.

        Args:
            name: what it is, for messages.
            environment: variables in addition to those of this process.
            essential: whether the job is done when this and the other essential ones are.
            tied: whether its standard input is a pipe, which brings signs of life and closes when this process ends.
        """
        try:
            process = subprocess.Popen(command, env=dict(os.environ, **environment), start_new_session=True,
                                       preexec_fn=_die_with_parent,
                                       stdin=subprocess.PIPE if tied else subprocess.DEVNULL)
        except OSError as error:
            raise UserError(f"{name} can't be started: {command[0]}: {error.strerror}") from error
        if process.stdin:  # it is tied
            os.set_blocking(process.stdin.fileno(), False)
        self._running.append((name, process, essential))

    def watch(self, tie: Optional[int] = None) -> None:
        """Wait until all essential processes have ended well, and at most _GRACE seconds for the others.

        Args:
            tie: file descriptor whose end of file, or silence, ends the processes.

        Raises:
            UserError: a process failed or died, some outlived others for too long, or the tie broke.
        """
        first_end = None
        heard = signed = time.monotonic()
        while True:
            if time.monotonic() - signed > _SIGN_EVERY:
                self._sign()
                signed = time.monotonic()
            states = [(name, process.poll(), essential) for name, process, essential in self._running]
            failed = min(((status, name) for name, status, _ in states if status), default=None)
            if failed:  # a killed one rather than those that miss it
                raise UserError(f"{failed[1]} {_words(failed[0])}: the job is ended")
            late = [name for name, status, _ in states if status is None]
            if not late:
                return
            if len(late) < len(states):
                first_end = first_end or time.monotonic()
                if time.monotonic() - first_end > _GRACE:
                    essential = [name for name, status, essential in states if essential and status is None]
                    if essential:
                        raise UserError(f"{essential[0]} still runs {_GRACE} seconds after others of the job were "
                                        "finished: the job is ended")
                    return
            if tie is None:
                time.sleep(_LOOK_EVERY)
            elif select.select([tie], [], [], _LOOK_EVERY)[0]:
                if not os.read(tie, 4096):
                    raise UserError("the launcher is gone: the job is ended")
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE:
                raise UserError(f"no sign of life from the launcher for {_SILENCE} seconds: the job is ended")

    def _sign(self):
        """Give a sign of life to all tied processes."""
        for _, process, _ in self._running:
            if process.stdin:
                with contextlib.suppress(OSError):  # gone, or so slow that its pipe is full: both show elsewhere
                    os.write(process.stdin.fileno(), b".")


def _words(status):
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def _die_with_parent():
    """Runs in the child, before the program: SIGKILL for it when the process that started it is gone."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _slurm_hosts():
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise UserError("there is no SLURM_JOB_NODELIST: --slurm is for use in a job of sbatch or salloc")
    try:
        return subprocess.run(["scontrol", "show", "hostnames", nodes], stdout=subprocess.PIPE, check=True,
                              universal_newlines=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"scontrol show hostnames {nodes} failed: {error}") from error


def _srun(host):
    command = ["srun", "--nodes=1", "--ntasks=1", "--nodelist=" + host, "--overlap"]
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    return command + (["--cpus-per-task=" + cpus] if cpus else [])


def _own_address(hosts: Sequence[Host]) -> str:
    """Address at which the hosts reach this machine, which may be one of them and call itself 127.0.0.1."""
    addresses = (_address_towards(host.name) for host in hosts)
    return next((address for address in addresses if not address.startswith("127.")), "127.0.0.1")


def _address_towards(host):
    """Address of this machine on the way to another one; nothing is sent."""
    host = host.split("@")[-1]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return probe.getsockname()[0]
    except OSError as error:
        raise UserError(f"there is no route to {host} ({error.strerror or error}): set --address to the address at "
                        "which it reaches this machine") from error


def free_port() -> int:
    """Number of an unused port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
