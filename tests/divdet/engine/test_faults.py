"""Runs that are stopped, run out of something, or go wrong: what is kept, what is said, and how they go on."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from tests.classification.generated import write_npz
from tests.processes import command, environment, run

COMMON = ["--model.backbone=resnet10_16", "--data.dataset=npz", "--data.image_size=16", "--train.batch_size=4"]
COMMON += ["--train.workers=1", "--train.epochs=3", "--train.lr=0.05", "--train.accumulate=2", "--train.ema_decay=0.9"]
COMMON += ["--train.mixup=0.2", "--device=cpu"]

Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "images.npz", train=32)


@pytest.fixture(scope="module")
def whole(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped: 3 epochs of 4 steps of 2 batches."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    run("train_cls.py", *COMMON, f"--data.root={npz}", "--output", output)
    return output


@pytest.fixture
def start(npz: Path) -> Iterator[Start]:
    """Starts runs in process groups of their own; those that still go on at the end of the test are killed."""
    started = []

    def begin(output: Path, *arguments: str, data: Path = npz, processes: int = 1) -> subprocess.Popen:
        words = [*COMMON, f"--data.root={data}", "--output", output, *arguments]
        words = command("train_cls.py", *words, processes=processes)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(words, env=environment(), text=True, start_new_session=True, **streams))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(path: Path, process: subprocess.Popen) -> None:
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit, f"{path} does not come"
        time.sleep(0.02)


def children(process: subprocess.Popen) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def saved(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)


def check_same_end(one: Path, other: Path) -> None:
    for key in ("model", "trained", "optimizer"):
        first, second = saved(one)[key], saved(other)[key]
        assert first
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_run_inside_an_epoch_which_then_goes_on(
    number: signal.Signals, npz: Path, whole: Path, start: Start, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    process = start(output, "--train.save_every=1")
    wait_for(output / "last.pt", process)
    if number == signal.SIGTERM:  # as systemd and SLURM do: to every process of the job
        for child in children(process):
            os.kill(child, number)
    os.killpg(process.pid, number)  # as torchrun and terminals do
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, text
    assert "continue with --resume auto" in text
    assert "Traceback" not in text
    assert saved(output)["epoch"] < 3
    run("train_cls.py", *COMMON, f"--data.root={npz}", "--output", output, "--resume=auto")
    check_same_end(whole, output)


def test_killed_run_goes_on_from_inside_an_epoch(npz: Path, whole: Path, start: Start, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(output, "--train.save_every=1")
    wait_for(output / "last.pt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (output / f".{0:08x}.1.tmp").write_text("another program's file")
    run("train_cls.py", *COMMON, f"--data.root={npz}", "--output", output, "--resume=auto", "--train.save_every=1")
    check_same_end(whole, output)
    assert (output / f".{0:08x}.1.tmp").exists()


def test_killed_process_of_two_ends_the_run_which_goes_on_from_inside_an_epoch(
    npz: Path, start: Start, tmp_path: Path
) -> None:
    arguments, data = ("--train.batch_size=2", "--train.batch_norm=sync"), f"--data.root={npz}"
    run("train_cls.py", *COMMON, data, "--output", tmp_path / "whole", *arguments, processes=2)
    output = tmp_path / "run"
    process = start(output, "--train.save_every=1", *arguments, processes=2)
    wait_for(output / "last.pt", process)
    os.kill(children(process)[-1], signal.SIGKILL)
    text, _ = process.communicate(timeout=120)  # torchrun stops the other one
    assert process.returncode == 1, text
    assert saved(output)["epoch"] < 3
    run("train_cls.py", *COMMON, data, "--output", output, "--resume=auto", *arguments, processes=2)
    check_same_end(tmp_path / "whole", output)


def test_full_disk_keeps_the_checkpoint_before(npz: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run("train_cls.py", *COMMON, f"--data.root={npz}", "--output", output, "--train.epochs=1")
    before = (output / "last.pt").read_bytes()
    # A limit on the size of written files stands for the disk that is full; SIGXFSZ is ignored, so writing fails.
    words = command("train_cls.py", *COMMON, f"--data.root={npz}", "--output", output, "--resume=auto")
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 64; exec "$@"', "-", *words]
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert (output / "last.pt").read_bytes() == before
    assert not list(output.glob("*.tmp"))


def test_killed_data_worker_is_one_line(start: Start, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(output, "--train.save_every=1", "--train.epochs=200")
    wait_for(output / "last.pt", process)
    for child in children(process):
        os.kill(child, signal.SIGKILL)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2, text
    assert "lower train.workers" in text
    assert "Traceback" not in text


def test_killed_data_worker_of_an_evaluation_names_its_settings() -> None:
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    for workers, setting in ((2, r"workers \(now 2\)"), (None, r"batch_size \(now 16\)")):
        with (
            pytest.raises(UserError, match=f"was killed.*: lower {setting}; nothing was written"),
            explained(16, workers, "nothing was written", section=""),
        ):
            raise killed


def test_failed_evaluation_does_not_cost_the_epoch(start: Start, tmp_path: Path) -> None:
    damaged = write_npz(tmp_path / "damaged.npz", train=32)
    arrays = dict(np.load(damaged))
    arrays["test_bytes"] = np.zeros_like(arrays["test_bytes"])
    np.savez(damaged, **arrays)
    process = start(tmp_path / "run", data=damaged)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2, text
    state = saved(tmp_path / "run")
    assert (state["epoch"], state["batch"]) == (0, 8)


def test_not_finite_loss_names_the_images(npz: Path, start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--train.lr=1e30", "--train.warmup_epochs=0")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2, text
    assert "not finite" in text
    assert "image " in text
    assert str(npz) in text.splitlines()[-1]


def test_weights_that_are_not_finite_are_not_saved(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--train.lr=1e300", "--train.warmup_epochs=0", "--train.save_every=1")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2, text
    assert "is not finite after epoch 1, batch 2: lower train.lr" in text
    assert "there is no checkpoint yet" in text
    assert not (tmp_path / "run/last.pt").exists()


def test_full_shared_memory_is_named() -> None:
    text = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
    with pytest.raises(UserError, match=r"/dev/shm.* is full: lower train\.workers \(now 2\)"), explained(32, 2, ""):
        raise RuntimeError(text)


NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3356, "


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[pair.cc:561] Connection closed by peer [127.0.0.1]:37543", "another process of this run has ended"),
        ("[unbound_buffer.cc:78] Timed out waiting 300000ms for recv operation to complete", "does not answer"),
        (
            "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, NumelIn=9, "
            "NumelOut=9, Timeout(ms)=300000) ran for 300026 milliseconds before timing out.",
            "does not answer",
        ),
        (
            "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key "
            "'0', but store->get('0') got error: wait timeout after 300000ms, keys: /default_pg/0//cuda//0",
            "does not answer",
        ),
        ("Timed out after 301 seconds waiting for clients. 1/2 clients joined.", "does not answer"),
        (
            NCCL + "remote process exited or there was a network error, NCCL version 2.27.5\nncclRemoteError: A call "
            "failed possibly due to a network error or a remote process exiting prematurely.\nLast error:\n",
            "another process of this run has ended",
        ),
        ("NCCL communicator was aborted on rank 1.", "another process of this run has ended"),
        (
            NCCL + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
            "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. \n"
            "Last error:\nsocketStartConnect: Connect to 10.0.0.2<52345> failed : Software caused connection abort",
            "NCCL_DEBUG=INFO in the environment",
        ),
        (
            NCCL + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
            "ncclSystemError: System call failed.\nLast error:\nError while creating shared memory segment "
            "/dev/shm/nccl-Zq2kVu (size 9637888)",
            "has no room in /dev/shm: enlarge it",
        ),
        (NCCL + "invalid usage\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on", "the same GPU"),
        (
            NCCL + "unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
            "Failed to CUDA calloc async 608 bytes",
            "out of memory: lower train.batch_size",
        ),
    ],
)
def test_what_happens_between_processes_is_one_line(text: str, line: str) -> None:
    with pytest.raises(UserError) as caught, explained(32, 2, "all is kept"):
        raise torch.distributed.DistBackendError(text)
    assert line in str(caught.value)
    assert str(caught.value).endswith("; all is kept")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_lack_of_memory_says_what_to_lower(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"lower train\.batch_size .*accumulate.*kept"),
        explained(32, 2, "all is kept"),
    ):
        raise error
    with pytest.raises(RuntimeError, match="another fault"), explained(32, 2, ""):
        raise RuntimeError("another fault")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DataLoader worker (pid 7) is killed"), ConnectionResetError(), EOFError()],
)
@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_death_of_a_data_worker_is_named_also_where_it_hands_over_a_batch(
    error: Exception, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "Windows":
        monkeypatch.delattr(signal, "SIGCHLD")
    with (
        pytest.raises(UserError, match=r"train\.workers \(now 2\); all is kept"),
        explained(32, 2, "all is kept"),
    ):
        raise error
