"""Members that run at once give what members in sequence give, in every mode that this machine has."""

import os
import signal
import threading
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from classification import create_ensemble
from classification.ensemble import Ensemble, MeanOfMembers
from classification.settings import EvaluateClassification
from detection.models.ssd import SSD
from divdet.commands.settings import Detect, EvaluateDetection
from divdet.engine.cli import parse
from divdet.engine.concurrency import Runner, beside, concurrent, threads_of
from divdet.engine.errors import UserError

CPU = torch.device("cpu")
MODES = [("threads", None), ("devices", "cpu,cpu"), ("devices", "cpu,cpu,cpu,cpu,cpu")]


def run_at_once(branches: Sequence[nn.Module], how: str, devices: str | None) -> Runner | None:
    """The runner of a machine of two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return concurrent(branches, how, devices, CPU)
    finally:
        torch.set_num_threads(before)


class Backbone(nn.Sequential):
    """[N,3,300,300] -> [N,C,38,38]."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(3, channels, 8, stride=8, padding=2), nn.BatchNorm2d(channels), nn.ReLU())
        self.out_channels = [channels]


def detector(*channels: int) -> SSD:
    net = SSD(nn.ModuleList(Backbone(c) for c in channels), num_classes=3).eval()
    for head in net.conf:
        nn.init.normal_(head.weight, std=0.3)  # outputs of a trained network's size
    return net


@pytest.mark.parametrize(("how", "devices"), MODES)
@pytest.mark.parametrize("channels", [(32, 32), (32, 32, 32, 32), (16, 32)])  # the last with adapters
@torch.inference_mode()
def test_detectors_give_the_same(how: str, devices: str | None, channels: tuple[int, ...]) -> None:
    net = detector(*channels)
    views = torch.randn(len(channels), 1, 3, 300, 300)
    expected = [*net(views[0]), *net(views)]
    net.concurrent = run_at_once(net.branches(), how, devices)
    for found, wanted in zip([*net(views[0]), *net(views)], expected, strict=True):
        assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max().clamp(min=1)
    with threads_of(net.concurrent):
        in_turn = zip(*[branch(view) for branch, view in zip(net.branches(), views, strict=True)], strict=True)
    assert all(torch.equal(found, torch.stack(wanted)) for found, wanted in zip(net(views), in_turn, strict=True))


@pytest.mark.parametrize(("how", "devices"), MODES)
@pytest.mark.parametrize("members", [2, 4])
@torch.inference_mode()
def test_classifiers_give_the_same(how: str, devices: str | None, members: int) -> None:
    net = create_ensemble("resnet10_16", members, num_classes=10, dataset="cifar10").eval()
    views = torch.randn(members, 3, 3, 32, 32)
    expected = [net(views[0]), net(views)]
    net.concurrent = run_at_once(net.branches(), how, devices)
    for found, wanted in zip([net(views[0]), net(views)], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_an_ensemble_of_ensembles_runs_one_beside_the_other() -> None:
    ensembles = [create_ensemble("resnet10_16", n, 10, "cifar10").eval() for n in (1, 2)]
    net = Ensemble(nn.ModuleList(map(MeanOfMembers, ensembles))).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = net(images)
    torch.testing.assert_close(expected, torch.stack([ensemble(images).mean(0) for ensemble in ensembles]))
    net.concurrent = run_at_once(net.branches(), "threads", None)
    torch.testing.assert_close(net(images), expected, rtol=1e-6, atol=1e-6)


class Meeting(nn.Module):
    """A member that waits until another one is in its forward pass, and notes what it runs under."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.barrier, self.weight, self.seen = barrier, nn.Parameter(torch.ones(4, 4)), {}

    def __deepcopy__(self, memo: dict) -> "Meeting":
        return self  # a barrier cannot be copied, and the note must come back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.barrier.wait(timeout=20)
        self.seen = {
            "threads": torch.get_num_threads(),
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
        }
        return x @ self.weight


@pytest.mark.parametrize(("how", "devices"), MODES[:2])
def test_members_run_at_once_on_their_share_of_the_cores_in_the_callers_modes(how: str, devices: str | None) -> None:
    barrier = threading.Barrier(2)
    branches = [Meeting(barrier), Meeting(barrier)]
    run = run_at_once(branches, how, devices)
    views = [torch.ones(2, 4)] * 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert [output.dtype for output in run(views)] == [torch.bfloat16] * 2
    assert [branch.seen for branch in branches] == [{"threads": 1, "grad": False, "inference": False}] * 2
    with torch.inference_mode():
        assert [output.dtype for output in run(views)] == [torch.float32] * 2
    assert all(branch.seen["inference"] for branch in branches)


def test_operations_beside_the_members_take_no_core_from_them() -> None:
    def note() -> tuple[str, int, bool]:
        return threading.current_thread().name, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        name, threads, inference = beside(run_at_once([nn.Identity()] * 2, "threads", None), CPU, note)
    assert (name.startswith("members"), threads, inference) == (True, 1, True)
    assert beside(None, CPU, note) == note()


def test_a_forked_process_has_threads_of_its_own() -> None:
    branches = [nn.Linear(3, 2).requires_grad_(False) for _ in range(2)]
    runner, view = run_at_once(branches, "threads", None), torch.ones(1, 3)
    expected = runner([view, view])
    doubled = view + view
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of forking beside threads
        child = os.fork()
    if not child:
        signal.alarm(60)  # ends a process that waits for threads it does not have
        ended = 1
        try:
            right = torch.equal(beside(runner, CPU, torch.add, view, view), doubled)
            ended = 0 if right and torch.equal(runner([view, view]), expected) else 1
        finally:
            os._exit(ended)
    assert os.waitpid(child, 0)[1] == 0


def test_no_more_threads_than_cores_and_the_callers_number_stays() -> None:
    before = torch.get_num_threads()
    branches = [nn.Identity() for _ in range(4)]
    assert len(run_at_once(branches, "threads", None).pools) == 2
    try:
        torch.set_num_threads(1)
        assert len(concurrent(branches, "threads", None, CPU).pools) == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_each_device_has_a_copy_whose_shared_layers_are_one() -> None:
    net = detector(32, 32, 32, 32)
    first, second = run_at_once(net.branches(), "devices", "cpu,cpu").parts
    assert first[0].head.loc is first[1].head.loc
    pointers = [{p.data_ptr() for p in part.parameters()} for part in (net, first, second)]
    assert len(set.union(*pointers)) == sum(len(set(own)) for own in pointers)


def test_a_member_that_fails_is_heard_after_the_others_are_done() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    run = run_at_once([Failing(), nn.Identity()], "threads", None)
    with pytest.raises(ValueError, match="no"):
        run([torch.ones(1)] * 2)


def test_in_training_members_run_in_sequence() -> None:
    net = create_ensemble("resnet10_16", 2, num_classes=10, dataset="cifar10")
    net.concurrent = lambda views: pytest.fail("was run")
    net.train()(torch.randn(2, 3, 32, 32))


def test_nothing_is_set_up_for_members_in_sequence_or_a_single_one() -> None:
    assert concurrent([nn.Identity(), nn.Identity()], "sequential", None, CPU) is None
    assert concurrent([nn.Identity()], "threads", None, CPU) is None


@pytest.mark.parametrize(
    ("how", "devices", "device", "message"),
    [
        ("streams", None, "cpu", "--concurrency streams: needs a CUDA device, not cpu; on a CPU use threads"),
        ("graph", None, "cpu", "--concurrency graph: needs a CUDA device, not cpu"),
        ("threads", None, "cuda", "--concurrency threads: is for a CPU, not cuda; use streams"),
        ("devices", "cpu", "cpu", "needs two devices or more, not cpu; name them by --devices"),
        ("devices", "cpu,tpu9", "cpu", "--devices tpu9: unknown"),
        ("devices", "cpu,cuda:99", "cpu", "--devices cuda:99: this machine has"),
        ("threads", "cpu,cpu", "cpu", "--devices cpu,cpu: is for --concurrency devices, not threads"),
        ("sequential", "cpu,cpu", "cpu", "--devices cpu,cpu: is for --concurrency devices, not sequential"),
    ],
)
def test_what_a_machine_lacks_is_named(how: str, devices: str | None, device: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        concurrent([nn.Identity(), nn.Identity()], how, devices, torch.device(device))


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has several CUDA devices")
def test_devices_must_be_named_where_there_is_none() -> None:
    with pytest.raises(UserError, match="needs two devices or more"):
        concurrent([nn.Identity(), nn.Identity()], "devices", None, CPU)


@pytest.mark.parametrize("command", [EvaluateDetection, Detect, EvaluateClassification])
def test_commands_take_it(command: type) -> None:
    config = parse(command, ["--concurrency", "devices", "--devices", "cpu,cpu"])
    assert (config.concurrency, config.devices) == ("devices", "cpu,cpu")
    with pytest.raises(UserError, match="concurrency"):
        parse(command, ["--concurrency", "all"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("how", ["streams", "graph"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@torch.inference_mode()
def test_one_gpu_gives_the_same(how: str, dtype: torch.dtype | None) -> None:
    device = torch.device("cuda")
    net = detector(32, 32, 32).to(device)
    batches = [torch.randn(size, 3, 300, 300, device=device) for size in (2, 1, 2)]
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        expected = [net(batch) for batch in batches]
    net.concurrent = concurrent(net.branches(), how, None, device)
    tolerance = 1e-3 if dtype is None else 2e-2  # TF32, bf16
    for batch, wanted in zip(batches, expected, strict=True):
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            found = net(batch)
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
