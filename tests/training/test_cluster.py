"""Several workers of MXNet's parameter server, on this machine: the same training, and an end when one dies."""
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import yaml
from conftest import CPUS, ROOT, TINY

from core.dataset.create import create_dataset
from core.dataset.samples import training_samples
from core.errors import UserError
from core.network.snapshots import load_snapshot
from core.runtime.mxnet_backend import joined_cluster
from core.training import cluster
from core.training import train as training
from core.training.batches import BatchLoader
from core.training.trainer import Trainer

pytestmark = pytest.mark.slow

LAUNCH = [sys.executable, os.path.join(ROOT, "launch.py")]


@pytest.fixture
def prepared(sample, tiny):
    config = dataclasses.replace(tiny, init_epoch_size=5, max_epoch=3)  # 10 steps
    create_dataset(config, 1)
    with open(str(sample / "tiny.yaml"), "w") as file:
        yaml.safe_dump({**{key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()},
                        "init_epoch_size": 5}, file)
    return config


def training_command(config, *flags):
    return [sys.executable, os.path.join(ROOT, "train_seg_model.py"), "--model", "init", "--gpus", "cpu", "--root",
            config.root, "--config", os.path.join(config.root, "tiny.yaml"), "--kv-store", "dist_sync", *flags]


def descendants(pid):
    """{process id: command line} of all processes below `pid`."""
    parents, lines = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{name}/cmdline") as file:
                lines[int(name)] = file.read().replace("\0", " ")
    found, front = {}, [pid]
    while front:
        parent = front.pop()
        children = [child for child, its_parent in parents.items() if its_parent == parent]
        front += children
        found.update((child, lines.get(child, "")) for child in children)
    return found


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {seconds} seconds")


def alive(pids):
    left = []
    for pid in pids:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] not in "ZX":
                    left.append(pid)
    return left


@contextlib.contextmanager
def launched(flags, command, **environment):
    process = subprocess.Popen(LAUNCH + flags + ["--"] + command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               universal_newlines=True, env=dict(os.environ, OMP_NUM_THREADS="1", **environment))
    try:
        yield process
    finally:
        below = list(descendants(process.pid))
        for pid in [process.pid] + below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_two_workers_train_as_two_devices_of_one(prepared):
    """Steps, not only gradients: so rescale_grad is that of the whole batch, which Module does not touch."""
    training.train(prepared, "init", devices=CPUS[:2])
    expected = load_snapshot(prepared, "init", 2).parameters
    for name in os.listdir(prepared.layout.snapshots):
        os.remove(os.path.join(prepared.layout.snapshots, name))
    with launched(["--workers", "2"], training_command(prepared)) as job:
        output = job.communicate(timeout=300)[0]
        assert job.returncode == 0, output
    found = load_snapshot(prepared, "init", 2).parameters
    for part, expected_part in zip(found, expected):
        for name, value in expected_part.items():
            np.testing.assert_allclose(part[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    log = open(prepared.layout.log("train_init_model")).read()
    assert log.count("command:") == output.count("command:") == 1, "rank 0 alone logs"
    assert log.count("[epoch: 2] [batch: 5/5]") == 1 and log.count("saved") == 2


@pytest.mark.kill
def test_a_killed_worker_ends_the_job_with_an_error(prepared):
    with launched(["--workers", "2"], training_command(prepared, "--epoch-size", "1000000")) as job:
        log = prepared.layout.log("train_init_model")
        wait_for(lambda: os.path.exists(log) and "training images" in open(log).read(), 200)
        below = descendants(job.pid)
        victim = max(pid for pid, line in below.items() if "train_seg_model.py" in line and "--node" not in line)
        os.kill(victim, signal.SIGKILL)
        output = job.communicate(timeout=60)[0]
        assert job.returncode == 2 and "on localhost was killed by signal 9: the job is ended" in output
        assert not alive(below)


@pytest.mark.parametrize("victim", ["scheduler", "server", "node", "launcher", "worker"])
def test_whatever_dies_takes_the_job_with_it(victim):
    with launched(["--workers", "2"], ["sleep", "600"]) as job:
        below = wait_for(lambda: len(descendants(job.pid)) == 5 and all(descendants(job.pid).values())
                         and descendants(job.pid))
        direct = {pid for pid in below if os.getpgid(pid) == pid}
        nodes = [pid for pid, line in below.items() if "--node" in line]
        inner = set(descendants(nodes[0]))
        pids = {"node": nodes, "launcher": [job.pid], "worker": [pid for pid in below if "sleep" in below[pid]],
                "server": [pid for pid in inner if "--serve" in below[pid]],
                "scheduler": [pid for pid in direct - inner if "--serve" in below[pid]]}[victim]
        os.kill(pids[0], signal.SIGKILL)
        output = job.communicate(timeout=60)[0]
        wait_for(lambda: not alive(below), 20)
        if victim != "launcher":
            assert job.returncode == 2 and "was killed by signal 9: the job is ended" in output


def test_a_worker_that_fails_ends_the_job_at_once(prepared):
    started = time.monotonic()
    with launched(["--workers", "2"], ["sh", "-c", "exit 3"]) as job:
        output = job.communicate(timeout=60)[0]
    assert job.returncode == 2 and "on localhost ended with status 3: the job is ended" in output
    assert time.monotonic() - started < 30


@pytest.fixture
def fake_hosts(tmp_path):
    """PATH with ssh, srun and scontrol that note their arguments and run the command here; ssh drops the variables."""
    for name, body in (("ssh", 'echo "$@" >>%s/ssh.log; for last; do :; done; '
                               'exec env -i PATH=/usr/bin:/bin sh -c "$last"'),
                       ("srun", 'echo "$@" >>%s/srun.log; while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'),
                       ("scontrol", 'echo "$@" >>%s/scontrol.log; printf "localhost\\nlocalhost\\n"')):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + (body % tmp_path) + "\n")
        path.chmod(0o755)
    return f"{tmp_path / 'bin'}:{os.environ['PATH']}"


@pytest.mark.parametrize("way", ["ssh", "srun"])
def test_hosts_are_reached_and_end_with_the_launcher(tmp_path, fake_hosts, way):
    (tmp_path / "hosts.txt").write_text("# two of them\nlocalhost\n\nlocalhost:2222 slots=2  # the other\n")
    flags = ["--slurm"] if way == "srun" else ["--hosts", str(tmp_path / "hosts.txt")]
    command = ["sh", "-c", 'echo "$DMLC_NUM_WORKER $DMLC_NUM_SERVER $DMLC_ROLE $OMP_NUM_THREADS $PWD" >>"it\'s.txt"; '
                           'exec sleep 600']
    os.chdir(str(tmp_path))
    with launched(flags, command, PATH=fake_hosts, SLURM_JOB_NODELIST="n[1-2]", SLURM_CPUS_PER_TASK="7") as job:
        path = tmp_path / "it's.txt"
        wait_for(lambda: path.exists() and path.read_text().count("\n") == 2)
        assert set(path.read_text().splitlines()) == {f"2 2 worker 1 {tmp_path}"}
        below = descendants(job.pid)
        log = (tmp_path / (way + ".log")).read_text()
        assert log.count("--node ") == 2
        if way == "srun":
            assert "--nodelist=localhost" in log and "--cpus-per-task=7" in log
            assert "n[1-2]" in (tmp_path / "scontrol.log").read_text()
        else:
            assert "ServerAliveInterval" in log and "BatchMode=yes" in log
            assert log.count(" -p 2222 localhost ") == 1
        job.kill()
        wait_for(lambda: not alive(below), 30)


def test_forms_of_a_hosts_file(tmp_path, capsys):
    path = tmp_path / "hosts.txt"
    path.write_text("\ufeff# mine\r\n  a.example  # first\r\nme@b_1-x:2222\n10.0.0.1\n::1\n[fe80::1%eth0]:22\n"
                    "c slots=2 max_slots=4\n", encoding="utf-8")
    assert [tuple(host) for host in cluster.read_hosts(str(path))] == [
        ("a.example", None), ("me@b_1-x", 2222), ("10.0.0.1", None), ("::1", None), ("fe80::1%eth0", 22), ("c", None)]
    assert "line 7: slots=2 max_slots=4 is ignored: --workers" in capsys.readouterr().err


@pytest.mark.parametrize("line, message", [
    ("a b", "is not one host"), ("a, b", "is not one host"), ("a gpus=2", "is not one host"), ("ssh a", "not one host"),
    ("a:2", "2 is not a port of ssh"), ("a:70000", "70000 is not a port"), ("a:x", "'a:x' is not a host"),
    ("-oProxyCommand=x", "is not a host"), ("http://a", "is not a host"), ("u@:22", "is not a host")])
def test_a_line_that_is_no_host_is_named(tmp_path, line, message):
    (tmp_path / "hosts.txt").write_text(f"a\n# b\n{line}\n")
    with pytest.raises(UserError, match="hosts.txt, line 3: .*" + message):
        cluster.read_hosts(str(tmp_path / "hosts.txt"))


def test_a_hosts_file_without_hosts_is_refused(tmp_path):
    (tmp_path / "hosts.txt").write_text("# none\n")
    with pytest.raises(UserError, match="names no host"):
        cluster.read_hosts(str(tmp_path / "hosts.txt"))


@pytest.mark.parametrize("names, expected", [(["localhost", "n1", "n2"], "10.0.0.1"), (["localhost"], "127.0.0.1")])
def test_other_machines_are_not_given_the_loopback_address(monkeypatch, names, expected):
    routes = {"localhost": "127.0.0.1", "n1": "10.0.0.1", "n2": "10.0.0.1"}
    monkeypatch.setattr(cluster, "_address_towards", routes.get)
    assert cluster._own_address([cluster.Host(name) for name in names]) == expected


def test_python_is_that_of_the_launcher_where_the_path_has_another(tmp_path, fake_hosts):
    (tmp_path / "hosts.txt").write_text("localhost\n")
    command = ["python", "-c", "import sys; sys.exit('this is ' + sys.executable)"]
    with launched(["--hosts", str(tmp_path / "hosts.txt")], command, PATH=fake_hosts) as job:
        assert f"this is {os.path.dirname(sys.executable)}/python" in job.communicate(timeout=200)[0]


def test_a_node_ends_when_the_launcher_is_silent(monkeypatch):
    monkeypatch.setattr(cluster, "_SILENCE", 0.5)
    silent, _ = pipe = os.pipe()
    with cluster._Processes() as processes, pytest.raises(UserError, match="no sign of life from the launcher"):
        processes.start("worker 0", ["sleep", "10"], {})
        processes.watch(silent)
    assert processes._running[0][1].returncode == -signal.SIGTERM
    for end in pipe:
        os.close(end)


def test_the_launcher_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr(cluster, "_SIGN_EVERY", 0.1)
    with cluster._Processes() as processes:
        processes.start("the part of the job on n1", ["timeout", "20", "head", "-c", "3"], {}, tied=True)
        processes.watch()  # raises, where head got none and ran into its time limit


def test_parts_of_a_batch_are_the_batch(prepared):
    samples = training_samples("init", prepared)

    def second(part=0, parts=1):
        batches = BatchLoader(samples, prepared, part=part, parts=parts).batches(1)
        batch = next(batches)
        batches.close()
        return batch
    whole, parts = second(), [second(0, 2), second(1, 2)]
    assert whole.names == parts[0].names + parts[1].names and len(parts[0].names) == 2
    for name in ("data", "labels", "image_labels"):
        assert (getattr(whole, name) == np.concatenate([getattr(part, name) for part in parts])).all()


@pytest.mark.parametrize("flags, message", [(["--worker", "2"], "did you mean --workers?"), ([], "no command"),
                                            (["--workers", "0"], "a whole number above 0 is expected, not 0")])
def test_mistakes_of_the_launcher_end_in_one_line(flags, message):
    done = subprocess.run(LAUNCH + flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_a_store_that_does_not_suit_the_start_is_reported(monkeypatch):
    with pytest.raises(UserError, match="launch.py --workers N"), joined_cluster("dist_sync"):
        pass
    monkeypatch.setenv("DMLC_ROLE", "worker")
    with pytest.raises(UserError, match="give --kv-store dist_sync"), joined_cluster("device"):
        pass


class Store:
    """A key-value store in which worker 0 has said `first`."""
    rank, num_workers = 1, 2

    def init(self, key, value):
        self.value = value

    def pull(self, key, out):
        (self.value if self.first is None else self.first).copyto(out)


def test_workers_that_start_from_different_files_are_refused():
    store = Store()
    store.first = None
    training._check_agreement(CPUS[0], store, training.Checkpoint(1, None, {}, {"list_sha256": "a"}))
    store.first = store.value.copy()
    with pytest.raises(UserError, match="worker 1 starts from another epoch"):
        training._check_agreement(CPUS[0], store, training.Checkpoint(1, None, {}, {"list_sha256": "b"}))
    with pytest.raises(UserError, match="worker 1 starts from another epoch"):
        training._check_agreement(CPUS[0], store, training.Checkpoint(2, None, {}, {"list_sha256": "a"}))


def test_every_worker_draws_its_own_dropout_in_every_epoch(prepared):
    seeds = []
    config = dataclasses.replace(prepared, init_epoch_size=1)
    trainer = Trainer.__new__(Trainer)
    trainer._config, trainer._model, trainer.epoch_size = config, "init", 1
    trainer._steps = types.SimpleNamespace(seed=seeds.append)
    for trainer._rank in (0, 1, 2):
        for epoch in (3, 4):
            with contextlib.suppress(StopIteration):
                trainer.train_epoch(epoch, iter([]))
    assert len(set(seeds)) == 6


def test_a_mistake_that_every_worker_meets_ends_in_its_line_and_no_wait(prepared):
    with launched(["--workers", "2"], training_command(prepared, "--batch-size", "3")) as job:
        output = job.communicate(timeout=100)[0]
    assert job.returncode == 2 and "train_seg_model.py: error: a batch of 3 images can't be shared" in output
