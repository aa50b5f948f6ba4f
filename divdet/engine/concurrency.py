"""Members of a network run at the same time instead of one after the other (paper, Sec. III-A c), for inference."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from divdet.engine.devices import resolve_device
from divdet.engine.errors import UserError
from divdet.engine.settings import Concurrency

# What a member's whole part of the network gives for its view: a tensor, or several.
Output = Any
Runner = Callable[[Sequence[Tensor]], Output]
_MOST_GRAPHS = 8  # of one network: each shape and layout of input has its own, with its own memory


def concurrent(
    branches: Sequence[nn.Module], how: Concurrency, devices: str | None, device: torch.device
) -> Runner | None:
    """What runs S branches at once; None for ``sequential``, and for one branch, which has nothing beside it.

    The runner takes a view for each branch, all on one device, and returns their outputs there, stacked in order. They
    may be overwritten by its next call. It is for evaluation mode: weights that change later may or may not be seen.

    Args:
        branches: for each member, everything between its view and its outputs; they may share layers.
        how: ``streams``: a CUDA stream each, on one GPU. ``graph``: these streams as parallel branches of one CUDA
            graph. ``devices``: on ``devices`` in turn, with copies made here once, by one thread for each.
            ``threads``: on a CPU, by threads that share out its cores.
        devices: names for ``devices``, separated by commas; by default all CUDA devices. A device listed several times
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
    places = _places(devices) if how == "devices" else []
    if how == "sequential" or len(branches) == 1:
        return None
    if how == "streams":
        return Streams(branches, device)
    if how == "graph":
        return Graphs(branches, device)
    if how == "devices":
        return Workers(branches, places, copies=True)
    if how == "threads":
        return Workers(branches, [device] * min(len(branches), torch.get_num_threads()), copies=False)
    raise ValueError(how)


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
    """From now on processes that are forked from this one compute on one thread, as PyTorch's data workers do.

    The threads of torch and OpenCV are not in a forked process, which would wait for them forever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=compute_on_one_thread)


def compute_on_one_thread() -> None:
    """Keeps torch and OpenCV from starting threads in this process and from waiting for any."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # none beside the caller's; 1 would wait for the threads of the process before a fork


class Workers:
    """A thread for each device, which runs every n-th branch.

    Those on the CPU share out its cores (as many as PyTorch may use): small operations gain nothing from a second core,
    and large ones lose the time in which cores wait for each other. Threads are not pinned: two programs would pin
    theirs to the same cores.

    Args:
        branches: see ``concurrent``.
        devices: of the threads; surplus ones are left out.
        copies: give each device a copy of its branches; otherwise all devices must be where the branches are.
    """

    def __init__(self, branches: Sequence[nn.Module], devices: Sequence[torch.device], copies: bool) -> None:
        self.devices = list(devices[: len(branches)])
        parts = [nn.ModuleList(branches[number :: len(self.devices)]) for number in range(len(self.devices))]
        # A list is copied as one, so that what its branches share stays shared.
        self.parts = [
            copy.deepcopy(part).to(device) if copies else part for part, device in zip(parts, self.devices, strict=True)
        ]
        self.cores = torch.get_num_threads()
        #: threads of an operation on the CPU
        self.share = max(1, self.cores // max(1, sum(device.type == "cpu" for device in self.devices)))
        self._start()

    def _start(self) -> None:
        self.process = os.getpid()
        self.pools = [ThreadPoolExecutor(1, "members", _take_cores, (self.share,)) for _ in self.devices]
        wait([pool.submit(os.getpid) for pool in self.pools])  # they are set up
        # Each thread has its own number, but new ones begin with the last that was set.
        torch.set_num_threads(self.cores)

    def submit(self, number: int, function: Callable[..., Any], *arguments: Any) -> Future:
        """Calls a function in a thread, in the caller's modes."""
        if self.process != os.getpid():  # a forked process has none of the threads
            self.cores = self.share = 1  # see one_thread_in_forks
            self._start()
        return self.pools[number].submit(_Modes(self.devices[number].type).call, function, *arguments)

    def __call__(self, views: Sequence[Tensor]) -> Output:
        jobs = []
        for number, (part, device) in enumerate(zip(self.parts, self.devices, strict=True)):
            own = views[number :: len(self.devices)]
            moved = {id(view): _to(view, device) for view in own}  # one view may be all members'
            jobs.append(self.submit(number, _run, part, [moved[id(view)] for view in own], device))
        wait(jobs)
        outputs: list[Output] = [None] * len(views)
        for number, job in enumerate(jobs):
            outputs[number :: len(self.devices)] = [_to(output, views[0].device) for output in job.result()]
        return beside(self, views[0].device, _stacked, outputs)


def beside(runner: Runner | None, device: torch.device, function: Callable[..., Output], *arguments: Any) -> Output:
    """Calls a function of tensors on ``device``; on a CPU in one of the runner's threads, where it has some.

    After an operation on several cores OpenMP's threads wait some milliseconds for the next one, spinning. Where those
    of the caller do, members that run in the runner's threads lack their cores.
    """
    if not isinstance(runner, Workers) or device.type != "cpu":
        return function(*arguments)
    return runner.submit(0, function, *arguments).result()


def _stacked(outputs: Sequence[Output]) -> Output:
    if isinstance(outputs[0], Tensor):
        return torch.stack(list(outputs))
    return tuple(torch.stack(part) for part in zip(*outputs, strict=True))


@contextmanager
def threads_of(runner: Runner | None) -> Iterator[None]:
    """Gives the caller's operations as many threads as the runner's have, so that sums are taken in the same order."""
    cores = torch.get_num_threads()
    torch.set_num_threads(runner.share if isinstance(runner, Workers) else cores)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def _take_cores(number: int) -> None:
    torch.get_num_threads()  # a thread's first question sets its number to the last that any thread set
    torch.set_num_threads(number)


def _run(part: nn.ModuleList, views: list[Tensor], device: torch.device) -> list[Output]:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return [branch(view) for branch, view in zip(part, views, strict=True)]


def _to(output: Output, device: torch.device) -> Output:
    if isinstance(output, Tensor):
        return output.to(device, non_blocking=device.type == "cuda")
    return type(output)(_to(part, device) for part in output)


class _Modes:
    """The caller's gradient, inference and autocast modes, which belong to a thread, for another one."""

    def __init__(self, device_type: str) -> None:
        self.inference, self.grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        self.autocast = {
            "device_type": device_type,
            "dtype": torch.get_autocast_dtype(device_type),
            "enabled": torch.is_autocast_enabled(device_type),
        }

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad), torch.autocast(**self.autocast):
            return function(*arguments)


class Streams:
    """A CUDA stream for each branch, on one device; the first one's is the caller's.

    Memory needs no further care: a side stream begins each call after all that the caller's stream has been given, so
    what it frees is not used again before the caller is done with it.
    """

    def __init__(self, branches: Sequence[nn.Module], device: torch.device) -> None:
        self.branches, self.device = list(branches), device
        self.streams = [torch.cuda.Stream(device) for _ in self.branches[1:]]

    def __call__(self, views: Sequence[Tensor]) -> Output:
        current = torch.cuda.current_stream(self.device)
        others = []
        # A cached cast of a shared weight would be read by streams that have not waited for the one that made it.
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
    """All branches as one CUDA graph for each shape and layout of input, which is captured when it comes first.

    Args:
        branches: see ``concurrent``.
        device: theirs.
        parallel: capture a stream each, which become parallel branches of the graph; False captures them in sequence.
    """

    def __init__(self, branches: Sequence[nn.Module], device: torch.device, parallel: bool = True) -> None:
        # In sequence, one is enough to know what a graph brings by itself.
        self.run: Runner = Streams(branches, device) if parallel else lambda views: _in_sequence(branches, views)
        self.device = device
        self.captured: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Output]] = {}

    def __call__(self, views: Sequence[Tensor]) -> Output:
        places = {id(view): number for number, view in reversed(list(enumerate(views)))}
        same = tuple(places[id(view)] for view in views)  # for each view the first that is the same tensor
        modes = _Modes("cuda")
        key = (views[0].shape, views[0].stride(), views[0].dtype, same, modes.inference, *modes.autocast.values())
        if key not in self.captured:
            if len(self.captured) == _MOST_GRAPHS:
                return self.run(views)
            self.captured[key] = self._capture(views, same, modes)
        graph, inputs, outputs = self.captured[key]
        for number, place in enumerate(same):
            if number == place:
                inputs[number].copy_(views[number])
        graph.replay()
        return outputs

    def _capture(
        self, views: Sequence[Tensor], same: tuple[int, ...], modes: _Modes
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Output]:
        clones = {place: views[place].clone() for place in same}
        inputs = [clones[place] for place in same]
        current, warming = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        # Autocast would keep its copies of the weights only as long as the caller's context lasts.
        with torch.autocast(**modes.autocast, cache_enabled=False):
            warming.wait_stream(current)
            with torch.cuda.stream(warming):
                for _ in range(2):
                    self.run(inputs)
            current.wait_stream(warming)
            graph = torch.cuda.CUDAGraph()
            # Of this device, which need not be the current one; other threads may pin memory meanwhile.
            stream = torch.cuda.Stream(self.device)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                outputs = self.run(inputs)
        return graph, inputs, outputs


def _in_sequence(branches: Sequence[nn.Module], views: Sequence[Tensor]) -> Output:
    return _stacked([branch(view) for branch, view in zip(branches, views, strict=True)])
