"""The plan command: latency measured here against known accuracy, for backbones, S, runtimes and trained runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, get_args

import torch

from classification.backbones import TIMM
from classification.backbones.cost import choose_image_size, default_dataset
from classification.backbones.registry import DATASETS, Dataset
from detection.heads import input_of
from detection.models.cost import foreground_classes
from detection.prediction_settings import PostprocessSettings, Runtime
from divdet.commands.known_accuracies import METRIC, Accuracy, Known, known_accuracies
from divdet.commands.network_settings import Plan
from divdet.commands.plan_front import mark_front
from divdet.commands.plan_runs import Run, read_runs
from divdet.commands.plan_table import check_folder, describe, draw
from divdet.commands.plan_timing import Timed, Timer
from divdet.commands.timed_networks import CANDIDATES, TimedNetwork, device_title, note_load, positive_numbers
from divdet.engine.cost import Cost
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.files import make_folder, write_json
from divdet.engine.words import counted


class Candidate(NamedTuple):
    """A network, and what is known of it."""

    title: str
    network: TimedNetwork
    cost: Cost
    accuracy: Accuracy | None


class Field(NamedTuple):
    """What is compared.

    Attributes:
        data: the accuracies' data set.
        recipe: the accuracies' training; None for runs, and where nothing is known.
        candidates: to be timed.
        refused: divisions that a backbone's rule does not allow: ``backbone``, ``members``, ``reason``.
        notes: for the user.
    """

    data: str
    recipe: str | None
    candidates: list[Candidate]
    refused: list[dict[str, Any]]
    notes: list[str]


def print_plan(config: Plan) -> dict[str, Any]:
    """Prints the table, or JSON, and writes them where ``output`` is given; returns what plan.json holds.

    Raises:
        UserError: with all faults of the settings, of the backbones and of the runs.
    """
    device = use_device(config.device)
    field, runtimes = _read(config, device.type)
    batch_size = config.batch_size or (32 if device.type == "cuda" else 8)
    config = replace(config, batch_size=batch_size)
    if config.output:
        check_folder(config.output)  # before the time is spent
    note_load(device)
    torch.manual_seed(config.seed)
    timer, networks = Timer(config, runtimes, device), {one.network: one.cost.params for one in field.candidates}
    print(f"timing {counted(len(networks), 'network')}: the table comes at the end", file=sys.stderr)
    with explained(batch_size, None, "nothing was written", section=""):
        times = timer.time(networks)
    rows = [_row(one, timed, config) for one in field.candidates for timed in times.get(one.network, [])]
    if not rows:
        raise UserError(f"nothing could be timed: {'; '.join(timer.missing)}")
    rows.sort(key=lambda row: row["milliseconds"])
    mark_front(rows)
    task = field.candidates[0].network.task
    found = {
        "task": task,
        "data": field.data,
        "recipe": field.recipe,
        "metric": METRIC[task],
        "budget_ms": config.budget_ms,
        "precision": config.precision,
        "device": device_title(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": batch_size,
        "postprocess": asdict(PostprocessSettings()) if task == "det" else None,
        "candidates": rows,
        "refused": field.refused,
        "missing": timer.missing,
        "drift": timer.drift,
        "measured": _measured(task, timer),
        "assumed": _assumed(task, field),
        "notes": field.notes,
    }
    print(json.dumps(found) if config.json else describe(found))
    if config.output:
        folder = make_folder(config.output)
        write_json(found, folder / "plan.json")
        draw(found, folder / "plan.png")
    return found


def _read(config: Plan, device: str) -> tuple[Field, list[Runtime]]:
    """Reads and checks all settings before anything is timed."""
    runs, wrong = read_runs(config.runs, config.task)
    task = config.task or (runs[0].network.task if runs else "det")
    names = [name for name in map(str.strip, (config.backbones or "").split(",")) if name]
    faults = [
        f"--{name} is {getattr(config, name)}: {wanted}"
        for name, right, wanted in (
            ("budget_ms", config.budget_ms is None or 0 < config.budget_ms < float("inf"), "give milliseconds above 0"),
            ("batch_size", config.batch_size is None or config.batch_size > 0, "give at least 1"),
            ("rounds", config.rounds > 1, "choose at least 2"),
            ("seconds", 0 < config.seconds < 3600, "choose more than 0 and less than 3600"),
            ("head", task == "det" or config.head is None, "classifiers have none: leave it out"),
            ("head", names or config.head is None, "runs have their own: it is for --backbones"),
            ("image_size", names or config.image_size is None, "runs have their own: it is for --backbones"),
            ("precision", config.precision != "fp16" or device == "cuda", "is for a GPU; on a CPU use float32 or bf16"),
        )
        if not right
    ]
    runtimes = _runtimes(config, task, device, faults)
    faults += wrong
    field = None
    if not names and not config.runs:
        faults.append("--backbones is missing: give names such as resnet10_24,resnet10_48, or --runs of your own")
    elif not wrong:  # the runs decide what the backbones are compared on
        try:
            field = _field(config, task, list(dict.fromkeys(names)), runs, faults)
        except UserError as error:
            faults.append(str(error))
    if faults or field is None:
        raise UserError("; ".join(faults))
    if not field.candidates:
        raise UserError(f"no division is possible: {'; '.join(one['reason'] for one in field.refused)}")
    return field, runtimes


def _runtimes(config: Plan, task: str, device: str, faults: list[str]) -> list[Runtime]:
    named = [name.strip() for name in config.runtimes.split(",")] if config.runtimes is not None else []
    if unknown := [name for name in named if name not in get_args(Runtime)]:
        faults.append(f"--runtimes {config.runtimes}: {unknown[0]!r} is none of {', '.join(get_args(Runtime))}")
    elif task == "cls" and named not in ([], ["torch"]):
        faults.append(f"--runtimes {config.runtimes}: classifiers run in torch alone: leave it out")
    if task == "cls":
        return ["torch"]
    return list(dict.fromkeys(named)) or (["torch"] if device == "cuda" else ["torch", "onnxruntime", "openvino"])


def _field(config: Plan, task: str, names: list[str], runs: Sequence[Run], faults: list[str]) -> Field:
    """The candidates: the runs, then each backbone by each number of members."""
    candidates, refused, recipe, notes = [], [], None, []
    for run in runs:
        try:
            candidates.append(Candidate(run.name, run.network, run.network.cost(), run.accuracy))
        except UserError as error:
            faults.append(f"{run.name}: {error}")
    data = runs[0].data if runs else config.dataset or ("coco" if task == "det" else _default_data(names))
    if runs and (config.dataset or config.recipe):
        faults.append("--dataset and --recipe are for backbones alone: with --runs the data are the runs'")
    if names:
        known = [] if runs else [one for one in known_accuracies() if one.network.task == task and one.data == data]
        shape = _shape(config, task, data, known, runs)
        networks, refused = _divided(names, shape, config, faults)
        recipe, joined, notes = _join(networks, known, config.recipe)
        trained = {run.network for run in runs}
        untrained = {one: cost for one, cost in networks.items() if one not in trained}
        candidates += [Candidate(one.title, one, cost, joined.get(one)) for one, cost in untrained.items()]
    return Field(data, recipe, candidates, refused, notes)


def _shape(config: Plan, task: str, data: str, known: list[Known], runs: Sequence[Run]) -> TimedNetwork:
    """A network without a backbone: what the networks of all backbones have in common."""
    if config.recipe:
        recipes = list(dict.fromkeys(one.recipe for one in known))
        if config.recipe not in recipes:
            listed = "; ".join(map(repr, recipes)) or "none"
            raise UserError(f"--recipe {config.recipe}: known for {data}: {listed}")
        known = [one for one in known if one.recipe == config.recipe]
    like = runs[0].network if runs else known[0].network if known else None
    if task == "det":
        own = like if runs or config.recipe else None
        head = config.head or (own and own.head) or "ssd300"
        size = own.image_size if own and own.head == head and config.image_size is None else config.image_size
        size = input_of(head, size, "--image_size").size
        return TimedNetwork("", 1, like.classes if like else _classes(data), size, head)
    if like and (runs or config.recipe or data not in DATASETS):
        facts = Dataset(like.form, like.classes, like.image_size)
    elif data in DATASETS:
        facts = DATASETS[data]
    else:
        raise UserError(f"--dataset {data}: give one of {', '.join([*DATASETS, *_known_data(task)])}")
    return TimedNetwork("", 1, facts.num_classes, choose_image_size(config.image_size, facts), form=facts.form)


def _default_data(names: list[str]) -> str:
    """The data set of the first backbone that is one; the others are refused later."""
    for name in names:
        try:
            return default_dataset(name)
        except UserError:
            continue
    return "cifar100"


def _classes(data: str) -> int:
    try:
        return foreground_classes(data)
    except UserError as error:
        raise UserError(f"{error}, or one of {', '.join(_known_data('det'))}") from error


def _known_data(task: str) -> list[str]:
    own = {one.data for one in known_accuracies() if one.network.task == task}
    return sorted(own - DATASETS.keys() - {"coco"})


def _divided(
    names: list[str], shape: TimedNetwork, config: Plan, faults: list[str]
) -> tuple[dict[TimedNetwork, Cost], list[dict[str, Any]]]:
    """The networks with their costs, and the divisions that are refused; adds backbones that are wrong to ``faults``.

    A backbone is wrong where S=1 fails: then the reason is not the division.
    """
    networks, refused = {}, []
    divisions = positive_numbers(config.members, "--members", "numbers of networks")
    for name in names:
        try:
            whole = replace(shape, backbone=name).cost()
        except UserError as error:
            several = any(other.startswith(TIMM) for other in names) and not name.startswith(TIMM)
            faults.append(f"--backbones: {error}{f' (each of timm is {TIMM}NAME)' if several else ''}")
            continue
        for members in divisions:
            network = replace(shape, backbone=name, members=members)
            try:
                networks[network] = whole if members == 1 else network.cost()
            except UserError as error:
                refused.append({"backbone": name, "members": members, "reason": str(error)})
    return networks, refused


def _join(
    networks: dict[TimedNetwork, Cost], known: list[Known], recipe: str | None
) -> tuple[str | None, dict[TimedNetwork, Accuracy], list[str]]:
    """The recipe, its accuracies by network, and what other recipes know: those of two cannot be compared."""
    counts = Counter(one.recipe for one in known if one.network in networks)
    recipe = recipe or next(iter(dict(counts.most_common(1))), None)
    others = [f"'{name}' of {count}" for name, count in counts.items() if name != recipe]
    notes = [f"other recipes know the accuracy, too (--recipe): {', '.join(others)}"] if others else []
    asked = {(network.backbone, network.members) for network in networks}
    elsewhere = [one for one in known if one.recipe not in counts]
    near = Counter(one.recipe for one in elsewhere if (one.network.backbone, one.network.members) in asked)
    if near:
        listed = ", ".join(f"'{name}' of {count}" for name, count in near.items())
        notes.append(f"at other image sizes or heads recipes know the accuracy (--recipe): {listed}")
    return recipe, {one.network: one.accuracy for one in known if one.recipe == recipe}, notes


def _row(candidate: Candidate, timed: Timed, config: Plan) -> dict[str, Any]:
    """A line of the table; ``docs/planning.md`` describes it."""
    network, single, batch = candidate.network, timed.single.median, timed.batch.median
    return {
        "name": f"{candidate.title}, {timed.way}",
        "backbone": network.backbone,
        "members": network.members,
        "head": network.head,
        "image_size": network.image_size,
        "classes": network.classes,
        **asdict(timed.way),
        "params": candidate.cost.params,
        "gflops": candidate.cost.gflops,
        "milliseconds": single,
        "quartiles": list(timed.single.quartiles),
        "batch_milliseconds": batch,
        "per_second": 1000 * config.batch_size / batch,
        "accuracy": asdict(candidate.accuracy) if candidate.accuracy else None,
        "within_budget": None if config.budget_ms is None else single <= config.budget_ms,
    }


def _measured(task: str, timer: Timer) -> list[str]:
    what = "from normalized images to the ensemble's scores"
    if task == "det":
        what = "from uint8 images of the input's size to fused boxes (reading and resizing are not in it)"
    speed = f"the machine's speed, which moved by a factor of {timer.drift:.2f} meanwhile (quartiles)"
    return [f"milliseconds and images/s here, {what}", speed]


def _assumed(task: str, field: Field) -> list[str]:
    found = ["random weights are as fast as trained ones"]
    if task == "det":
        found[0] += f", with about {CANDIDATES} scores of each member above the threshold"
    if any(candidate.accuracy for candidate in field.candidates):
        found.append("an accuracy is the same however the network is run")
    if field.recipe:
        found.append(f"networks rank on your data as on {field.data}, trained by {field.recipe}")
    return found
