"""Members of a network run at once instead of one after the other, for inference (paper, Sec. III-A c)."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from divdet.engine.devices import resolve_device
from divdet.engine.errors import UserError
from divdet.engine.settings import Concurrency

Output = Any  # of a branch: a tensor or a tuple of tensors
Runner = Callable[[Sequence[Tensor]], Output]
_MAX_GRAPHS = 8  # per network: each input shape and layout has its own graph with its own memory


def concurrent(
    branches: Sequence[nn.Module], how: Concurrency, devices: str | None, device: torch.device
) -> Runner | None:
    """Creates what runs S branches at once; None for ``sequential`` and for a single branch.

    The runner takes one view per branch, all on one device, and returns the branches' outputs there, stacked in order;
    its next call may overwrite them. It is for evaluation mode: it may miss later changes of the weights.

    Args:
        branches: for each member, all layers from its view to its outputs; branches may share layers.
        how: ``streams``: one CUDA stream per branch. ``graph``: the same as parallel branches of one CUDA graph.
            ``devices``: on ``devices`` in turn, with copies made here once and one thread per device. ``threads``: CPU
            threads that share the cores.
        devices: names for ``devices``, separated by commas; default: all CUDA devices. A device listed several times
            gets several copies (``cpu,cpu``).
        device: where the branches are.

    Raises:
        UserError: where this machine cannot do it.
    """
    if devices and how != "devices":
        raise UserError(f"--devices {devices}: is for --concurrency devices, not {how}")
    if how in ("streams", "graph") and device.type != "cuda":
        raise UserError(f"--concurrency {how}: needs a CUDA device, not {device}; on a CPU use threads or sequential")
    if how == "threads" and device.type != "cpu":
        raise UserError(f"--concurrency threads: is for a CPU, not {device}; use streams, graph, devices or sequential")
    places = _places(devices) if how == "devices" else [device] * torch.get_num_threads()
    if how == "sequential" or len(branches) == 1:
        return None
    if how in ("streams", "graph"):
        return (Streams if how == "streams" else Graphs)(branches, device)
    return Workers(branches, places, copies=how == "devices")


def _places(devices: str | None) -> list[torch.device]:
    names = devices.split(",") if devices else [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if len(names) < 2:
        raise UserError(
            f"--concurrency devices: needs two devices or more, not {', '.join(names) or 'none'}; name them by "
            "--devices (cpu,cpu tries it without any)"
        )
    return [resolve_device(name.strip(), "--devices") for name in names]


@cache
def one_thread_in_forks() -> None:
    """Makes processes forked from this one compute on one thread, as PyTorch's data workers do.

    A fork lacks the threads of torch and OpenCV and would wait for them forever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=compute_on_one_thread)


def compute_on_one_thread() -> None:
    """Keeps torch and OpenCV from using other threads in this process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # 1 would wait for the threads that the parent process had before a fork


class Workers:
    """One thread per device, each running every n-th branch.

    Threads on the CPU share the cores that PyTorch may use: small operations gain nothing from a second core, large
    ones lose time in synchronization. Threads are not pinned: two programs would pin theirs to the same cores.

    Args:
        branches: see ``concurrent``.
        devices: of the threads; those beyond the number of branches are ignored.
        copies: give each device a copy of its branches; otherwise the branches must be on all ``devices`` already.
    """

    def __init__(self, branches: Sequence[nn.Module], devices: Sequence[torch.device], copies: bool) -> None:
        self.devices = list(devices[: len(branches)])
        parts = [nn.ModuleList(branches[number :: len(self.devices)]) for number in range(len(self.devices))]
        # A part is copied as a whole, so layers that its branches share stay shared.
        self.parts = [
            copy.deepcopy(part).to(device) if copies else part for part, device in zip(parts, self.devices, strict=True)
        ]
        self.cores = torch.get_num_threads()
        self.share = max(1, self.cores // max(1, sum(device.type == "cpu" for device in self.devices)))  # per thread
        self._start()

    def _start(self) -> None:
        self.process = os.getpid()
        self.pools = [ThreadPoolExecutor(1, "members", _set_threads, (self.share,)) for _ in self.devices]
        wait([pool.submit(os.getpid) for pool in self.pools])  # until all threads have started
        torch.set_num_threads(self.cores)  # per thread, but threads that start later take the last value set anywhere

    def submit(self, number: int, function: Callable[..., Any], *arguments: Any) -> Future:
        """Calls a function in thread ``number``, under the caller's gradient, inference and autocast modes."""
        if self.process != os.getpid():  # a forked process has none of the threads
            self.cores = self.share = 1  # see one_thread_in_forks
            self._start()
        return self.pools[number].submit(_Modes(self.devices[number].type).call, function, *arguments)

    def __call__(self, views: Sequence[Tensor]) -> Output:
        jobs = []
        for number, (part, device) in enumerate(zip(self.parts, self.devices, strict=True)):
            local = views[number :: len(self.devices)]
            moved = {id(view): _to(view, device) for view in local}  # members may share one view
            jobs.append(self.submit(number, _run, part, [moved[id(view)] for view in local], device))
        wait(jobs)
        outputs: list[Output] = [None] * len(views)
        for number, job in enumerate(jobs):
            outputs[number :: len(self.devices)] = [_to(output, views[0].device) for output in job.result()]
        return beside(self, views[0].device, _stacked, outputs)


def beside(runner: Runner | None, device: torch.device, function: Callable[..., Output], *arguments: Any) -> Output:
    """Calls a function of tensors on ``device``; on the CPU in one of the runner's threads, if it has some.

    OpenMP's threads spin for some milliseconds after an operation on several cores. Spinning threads of the caller
    would block the cores of members that run in the runner's threads.
    """
    if not isinstance(runner, Workers) or device.type != "cpu":
        return function(*arguments)
    return runner.submit(0, function, *arguments).result()


@contextmanager
def threads_of(runner: Runner | None) -> Iterator[None]:
    """Gives the caller as many threads per operation as the runner's threads have, for the same order of sums."""
    cores = torch.get_num_threads()
    torch.set_num_threads(runner.share if isinstance(runner, Workers) else cores)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def _set_threads(number: int) -> None:
    torch.get_num_threads()  # the first call in a thread overwrites its number by the last value set anywhere
    torch.set_num_threads(number)


def _run(branches: Sequence[nn.Module], views: Sequence[Tensor], device: torch.device) -> list[Output]:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return [branch(view) for branch, view in zip(branches, views, strict=True)]


def _in_sequence(branches: Sequence[nn.Module], views: Sequence[Tensor]) -> Output:
    return _stacked([branch(view) for branch, view in zip(branches, views, strict=True)])


def _to(output: Output, device: torch.device) -> Output:
    if isinstance(output, Tensor):
        return output.to(device, non_blocking=device.type == "cuda")
    return type(output)(_to(part, device) for part in output)


def _stacked(outputs: Sequence[Output]) -> Output:
    if isinstance(outputs[0], Tensor):
        return torch.stack(list(outputs))
    return tuple(torch.stack(part) for part in zip(*outputs, strict=True))


class _Modes:
    """The caller's gradient, inference and autocast modes, which PyTorch keeps per thread."""

    def __init__(self, device_type: str) -> None:
        self.inference, self.grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        dtype, enabled = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
        self.autocast = {"device_type": device_type, "dtype": dtype, "enabled": enabled}

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad), torch.autocast(**self.autocast):
            return function(*arguments)


class Streams:
    """One CUDA stream per branch on one device; the first branch uses the caller's.

    Side streams start each call after all work queued on the caller's stream, so memory that they free is not reused
    before the caller is done with it.
    """

    def __init__(self, branches: Sequence[nn.Module], device: torch.device) -> None:
        self.branches, self.device = list(branches), device
        self.streams = [torch.cuda.Stream(device) for _ in self.branches[1:]]

    def __call__(self, views: Sequence[Tensor]) -> Output:
        current = torch.cuda.current_stream(self.device)
        others = []
        # With its cache, autocast's copy of a shared weight could be read by streams that do not wait for it.
        with torch.autocast(**_Modes("cuda").autocast, cache_enabled=False):
            for stream, branch, view in zip(self.streams, self.branches[1:], views[1:], strict=True):
                stream.wait_stream(current)
                with torch.cuda.stream(stream):
                    others.append(branch(view))
            first = self.branches[0](views[0])
        for stream in self.streams:
            current.wait_stream(stream)
        return _stacked([first, *others])


class Graphs:
    """All branches as one CUDA graph per input shape and layout, captured when that comes first.

    Args:
        branches: see ``concurrent``.
        device: theirs.
        parallel: capture parallel branches of the graph; False captures them in sequence, to time graphs alone.
    """

    def __init__(self, branches: Sequence[nn.Module], device: torch.device, parallel: bool = True) -> None:
        self.run: Runner = Streams(branches, device) if parallel else partial(_in_sequence, branches)
        self.device = device
        self.captured: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Output]] = {}

    def __call__(self, views: Sequence[Tensor]) -> Output:
        ids = [id(view) for view in views]
        first = tuple(ids.index(own) for own in ids)  # for each view, the first one that is the same tensor
        modes = _Modes("cuda")
        key = (views[0].shape, views[0].stride(), views[0].dtype, first, modes.inference, *modes.autocast.values())
        if key not in self.captured:
            if len(self.captured) == _MAX_GRAPHS:
                return self.run(views)
            self.captured[key] = self._capture(views, first, modes)
        graph, inputs, outputs = self.captured[key]
        for number in set(first):
            inputs[number].copy_(views[number])
        graph.replay()
        return outputs

    def _capture(
        self, views: Sequence[Tensor], first: tuple[int, ...], modes: _Modes
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Output]:
        clones = {number: views[number].clone() for number in first}
        inputs = [clones[number] for number in first]
        current, warming = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        # Autocast's cached copies of the weights would be freed when the caller's context ends.
        with torch.autocast(**modes.autocast, cache_enabled=False):
            warming.wait_stream(current)
            with torch.cuda.stream(warming):
                for _ in range(2):
                    self.run(inputs)
            current.wait_stream(warming)
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)  # may not be the current device
            # thread_local: other threads may pin memory during the capture.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                outputs = self.run(inputs)
        return graph, inputs, outputs
