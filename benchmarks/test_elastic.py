"""A node joins and leaves a run under torchrun, on one host and on two in network namespaces; some minutes.

pytest benchmarks/test_elastic.py
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.classification.generated import write_npz
from tests.processes import column, command, environment

RECIPE = ["--model.backbone=resnet10_16", "--data.dataset=npz", "--data.image_size=16", "--train.batch_size=4"]
RECIPE += ["--train.workers=0", "--train.save_every=1", "--train.batch_norm=sync", "--device=cpu", "--resume=auto"]


class Node:
    """A torchrun agent with one worker, in a network namespace where that is asked for."""

    def __init__(
        self, arguments: list[str], endpoint: str, first: bool, log: Path, namespace: str | None, address: str
    ) -> None:
        options = ("--nnodes=1:2", "--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}", "--rdzv_id=test")
        options += ("--max_restarts=9", "--monitor_interval=0.2", f"--local_addr={address}")
        options += (f"--rdzv_conf=is_host={int(first)}",)
        words = command("train_cls.py", *arguments, torchrun=options)
        words.remove("--standalone")
        if namespace:
            words = ["ip", "netns", "exec", namespace, *words]
        # Otherwise a node that joins waits in vain for the address that PyTorch 2.14's first node has told before.
        variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        variables |= {"GLOO_SOCKET_IFNAME": "veth0"} if namespace else {}
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                words, env=environment(**variables), stdout=file, stderr=file, start_new_session=True
            )

    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in path.read_text().split()] if path.exists() else []

    def kill(self) -> None:
        for worker in self.workers():
            with contextlib.suppress(ProcessLookupError):  # it may have ended since it was listed
                os.kill(worker, signal.SIGKILL)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(params=["one host", "two hosts"])
def hosts(request: pytest.FixtureRequest) -> Iterator[list[tuple[str | None, str]]]:
    """Namespace and address of two nodes."""
    if request.param == "one host":
        yield [(None, "127.0.0.1")] * 2
        return
    names = [f"divdet{os.getpid()}{letter}" for letter in "ab"]
    if shutil.which("ip") is None:
        pytest.skip("two hosts are simulated by network namespaces: install iproute2")
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"two hosts are simulated by network namespaces, which cannot be made here: {made.stderr.strip()}")
    nodes = [(name, f"10.231.7.{number}") for number, name in enumerate(names, 1)]
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "name", "veth0", "netns", names[1])
        for name, address in nodes:
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield nodes
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def wait_until(condition: Callable[[], bool], node: Node) -> None:
    limit = time.monotonic() + 150
    while not condition():
        assert node.process.poll() is None, node.log.read_text()
        assert time.monotonic() < limit, node.log.read_text()
        time.sleep(0.1)


def test_a_node_joins_and_another_leaves(hosts: list[tuple[str | None, str]], tmp_path: Path) -> None:
    data, output = write_npz(tmp_path / "images.npz", train=32), tmp_path / "run"
    arguments = [
        *RECIPE,
        f"--data.root={data}",
        f"--output={output}",
        "--train.epochs=400",
        "--train.evaluate_every=99",
    ]
    endpoint = f"{hosts[0][1]}:{29500 + os.getpid() % 1000}"

    def epoch() -> int:
        last = output / "last.pt"
        return torch.load(last, weights_only=True)["epoch"] if last.exists() else 0

    def says(node: Node, text: str) -> bool:
        return text in node.log.read_text()

    nodes = []
    try:
        nodes.append(Node(arguments, endpoint, True, tmp_path / "a.log", *hosts[0]))
        wait_until(lambda: epoch() >= 2, nodes[0])
        nodes.append(Node(arguments, endpoint, False, tmp_path / "b.log", *hosts[1]))
        wait_until(lambda: says(nodes[0], "2 processes: 2 x 1"), nodes[0])
        joined = epoch()
        wait_until(lambda: epoch() >= joined + 2, nodes[0])
        alone = nodes[0].log.read_text().count("resuming")
        nodes[1].kill()
        wait_until(lambda: nodes[0].log.read_text().count("resuming") > alone, nodes[0])
        left = epoch()
        wait_until(lambda: epoch() >= left + 2, nodes[0])
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.kill()
    assert column(output, "epoch") == list(range(1, len(column(output, "epoch")) + 1))
