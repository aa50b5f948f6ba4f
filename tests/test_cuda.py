"""What only a GPU shows. All of it is skipped where there is none; nothing here has run on one yet."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from detection import Detector, create_ssd
from detection import settings as detection
from detection.default_boxes import ssd300_default_boxes
from detection.models.matcher import Matcher
from detection.models.multibox_loss import multibox_loss
from detection.preprocess import FromPixels, Normalize
from divdet.engine.cli import to_yaml
from divdet.engine.distributed import World
from divdet.engine.loss_report import LossReports
from divdet.engine.optimization import build_optimizer
from divdet.engine.settings import TrainSettings
from divdet.engine.state import ModelEMA
from tests.detection.generated import shapes
from tests.processes import column, command, environment, run

GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICE = "cuda"


def need(count: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(count > GPUS, reason=f"fewer than {count} CUDA devices")


def batch(images: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, boxes and labels, the last image without objects."""
    pixels = torch.randint(256, (images, 300, 300, 3), dtype=torch.uint8)
    boxes, labels = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.8]]).repeat(images, 1, 1), [[0, 2]] * images
    boxes[-1], labels[-1] = 0, [-1, -1]
    return pixels, boxes, torch.tensor(labels)


def test_a_training_step_waits_for_nothing() -> None:
    device = torch.device(DEVICE)
    model = create_ssd("resnet10_16", 2, 3).to(device, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, TrainSettings(), 1e-4)
    average, reports = ModelEMA(model, 0.9), LossReports(World(), device)
    matcher, normalize = Matcher(ssd300_default_boxes().to(device)), Normalize().to(device)
    pinned = [part.pin_memory() for part in batch()]

    def step(number: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        pixels, boxes, labels = (part.to(device, non_blocking=True) for part in pinned)
        with torch.autocast("cuda", torch.bfloat16):
            losses = multibox_loss(*model(normalize(pixels)), *matcher(boxes, labels), cot_weight=0.5)
        losses["loss"].backward()
        reports.add([{name: value.detach() for name, value in losses.items()}], number, 0)
        optimizer.step()
        average.update()

    for number in range(3):  # libraries are loaded and tuned
        step(number)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3, 6):
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(report.wait()[0]["loss"] > 0 for report in reports.due(all_of_them=True))


def test_targets_losses_and_averages_are_those_of_the_cpu() -> None:
    _, boxes, labels = batch(3)
    deltas, logits = torch.randn(2, 3, 8732, 4), torch.randn(2, 3, 8732, 4)
    found = {}
    for name in ("cpu", DEVICE):
        outputs = [part.to(name).requires_grad_() for part in (deltas, logits)]
        targets = Matcher(ssd300_default_boxes().to(name))(boxes.to(name), labels.to(name))
        losses = multibox_loss(*outputs, *targets, cot_weight=0.5)
        gradients = torch.autograd.grad(losses["loss"], outputs)
        torch.manual_seed(0)
        model = create_ssd("resnet10_16", 2, 3).to(name)
        average = ModelEMA(model, 0.9)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        average.update()
        found[name] = [*targets, *losses.values(), *gradients, *average.values.values()]
    for ours, expected in zip(found[DEVICE], found["cpu"], strict=True):
        torch.testing.assert_close(ours.detach().cpu(), expected.detach(), rtol=1e-4, atol=1e-5)


def test_the_compiled_network_is_recorded_as_a_cuda_graph() -> None:
    from torch._dynamo.utils import counters

    model = create_ssd("resnet10_16", 2, 3).to(DEVICE).eval()
    pixels = FromPixels(model)
    images = batch()[0].to(DEVICE)
    counters.clear()
    compiled = torch.compile(pixels, dynamic=False, mode="reduce-overhead")
    with torch.inference_mode():
        expected = pixels(images)
        for _ in range(3):
            found = [part.clone() for part in compiled(images)]
    assert counters["inductor"]["cudagraph_skips"] == 0
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-2, atol=1e-2 * wanted.abs().max().item())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of two members, 2 epochs of 2 steps."""
    folder = tmp_path_factory.mktemp("recipe")
    data = shapes(folder / "shapes")
    train = detection.DetectionTrainSettings(epochs=2, batch_size=4, lr=1e-3, workers=1, ema_decay=0.9)
    train.warmup_epochs = 0.5
    config = detection.TrainDetection(detection.ModelSettings("resnet10_16", 2), data, train, device=DEVICE)
    (folder / "recipe.yaml").write_text(to_yaml(config))
    return folder / "recipe.yaml"


def test_a_run_is_trained_resumed_and_evaluated(recipe: Path, tmp_path: Path) -> None:
    words = ("--config", recipe, "--output", tmp_path / "run")
    run("train_det.py", *words, "--train.epochs=1", "--train.save_every=1")
    run("train_det.py", *words, "--resume=auto")
    assert column(tmp_path / "run", "epoch") == [1, 2]
    run("eval_det.py", "--checkpoint", tmp_path / "run/last.pt", f"--device={DEVICE}")
    metrics = json.loads((tmp_path / "run/eval/metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(column(tmp_path / "run", "AP")[-1], abs=0.02)  # folded, TF32
    picture = batch()[0][0].numpy()
    found, expected = (
        Detector.load(tmp_path / "run/last.pt", device).predict([picture])[0] for device in (DEVICE, "cpu")
    )
    torch.testing.assert_close(found.scores[:5], expected.scores[:5], rtol=0.05, atol=0.01)  # TF32


def test_a_loss_that_is_not_finite_is_not_saved(recipe: Path, tmp_path: Path) -> None:
    words = command("train_det.py", "--config", recipe, "--output", tmp_path, "--train.lr=1e30", "--train.save_every=1")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "not finite" in done.stderr.splitlines()[-1]
    if (tmp_path / "last.pt").exists():
        saved = torch.load(tmp_path / "last.pt", weights_only=True)
        assert all(value.isfinite().all() for value in saved["model"].values())


@need(2)
def test_only_the_named_device_is_used(recipe: Path, tmp_path: Path) -> None:
    """In a process of its own: what is on the first device is nothing but what the driver itself puts there."""
    run("train_det.py", "--config", recipe, "--output", tmp_path, "--device=cuda:1", "--train.epochs=1")
    code = f"""
import torch
from divdet.commands.eval_det import evaluate
from divdet.commands.settings import EvaluateDetection
evaluate(EvaluateDetection({str(tmp_path / "last.pt")!r}, device="cuda:1"))
print(torch.cuda.current_device(), torch.cuda.memory_reserved(0))
"""
    words = [*command("eval_det.py")[:1], "-c", code]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "1 0", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("processes", "arguments"),
    [
        pytest.param(2, [], marks=need(2)),
        pytest.param(2, ["--train.member_parallel=true"], marks=need(2)),
        pytest.param(4, ["--train.member_parallel=true", "--train.batch_norm=sync"], marks=need(4)),
    ],
)
def test_several_gpus_learn_as_one(recipe: Path, tmp_path: Path, processes: int, arguments: list[str]) -> None:
    replicas = processes // 2 if "--train.member_parallel=true" in arguments else processes
    common = ("--config", recipe, "--train.precision=float32")
    run("train_det.py", *common, "--output", tmp_path / "one", "--train.batch_size=4")
    shared = (*arguments, f"--train.batch_size={4 // replicas}", "--train.batch_norm=sync")
    run("train_det.py", *common, "--output", tmp_path / "many", *shared, processes=processes)
    assert column(tmp_path / "many", "train_loss") == pytest.approx(column(tmp_path / "one", "train_loss"), rel=0.02)


@need(2)
def test_the_end_of_a_process_ends_the_run(recipe: Path, tmp_path: Path) -> None:
    words = command(
        "train_det.py",
        "--config",
        recipe,
        "--output",
        tmp_path,
        "--train.epochs=500",
        "--train.save_every=1",
        processes=2,
    )
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(words, env=environment(), text=True, start_new_session=True, **streams)
    try:
        limit = time.monotonic() + 300
        while not (tmp_path / "last.pt").exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < limit
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
