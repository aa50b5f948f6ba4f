"""Every runtime finds the same boxes as PyTorch runs the network unfolded."""

import ctypes
import gc
import importlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detection import Detector, create_ssd
from detection.heads import Input
from detection.images import read_image
from detection.prediction_settings import RuntimeSettings
from detection.preprocess import FromPixels, Normalize, to_input
from detection.runtimes.backends import create_network
from detection.runtimes.fuse_conv_bn import fuse_conv_bn, fusible
from detection.runtimes.running import runtime_device
from detection.settings import ModelSettings, TrainDetection
from divdet.commands.eval_det import evaluate
from divdet.commands.settings import EvaluateDetection
from divdet.engine import checkpoint
from divdet.engine.cli import parse, to_dict
from divdet.engine.errors import UserError

CPU = torch.device("cpu")
SHAPE = (1, 3, 300, 300)
SETTINGS = {"members": 2, "num_classes": 3}


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms as after training: no two channels alike."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize(
    ("backbone", "left"),
    [
        ("resnet10_16", 0),
        ("se_resnet50", 0),
        ("timm:mobilenetv3_small_100", 0),  # batch norms that activate
        ("timm:tf_efficientnet_lite0", 0),  # convolutions that pad for themselves, and ours
        ("efficientnet_b0", 0),
        ("timm:densenet121", 62),  # half of them stand before a convolution, behind a concatenation
    ],
)
def test_folding_leaves_the_outputs(backbone: str, left: int) -> None:
    network = with_statistics(create_ssd(backbone, 1, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = fuse_conv_bn(network, SHAPE)
    assert norms(found) == left < norms(network)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    images = torch.randn(SHAPE)
    with torch.inference_mode():
        for got, expected in zip(found(images), network(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize("backbone", ["wrn50_2", "resnext101_64x4d", "senet154"])
def test_every_batch_norm_of_the_large_ones_can_be_folded(backbone: str) -> None:
    with torch.device("meta"):
        network = create_ssd(backbone, 2, 2)
    network = network.to_empty(device="cpu")
    assert len(fusible(network, SHAPE)) == norms(network)


class Unfoldable(nn.Module):
    """Batch norms that only look like those of the convolutions before them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)  # read twice
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)  # behind an activation
        self.conv3, self.bn3 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)  # called twice
        self.bn4, self.conv4 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)  # the other way round: the one that can be folded
        self.conv5, self.bn5 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)  # an output, too

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv1(x)
        x = self.bn1(y) + y
        x = self.bn2(self.conv2(x).relu())
        x = self.bn3(self.conv3(self.bn3(self.conv3(x))))
        z = self.conv5(x)
        return {"last": self.bn4(self.conv4(x)), "convolved": z, "normalised": self.bn5(z)}


def test_only_what_one_batch_norm_alone_reads_is_folded() -> None:
    network = with_statistics(Unfoldable())
    found = fuse_conv_bn(network, (1, 3, 8, 8))
    norms = [found.bn1, found.bn2, found.bn3, found.bn5, found.bn4]
    assert [type(layer) for layer in norms] == [nn.BatchNorm2d] * 4 + [nn.Identity]
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found(images), network(images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two members that find something: random weights, whose class heads are sharpened."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runtimes")
    network = with_statistics(create_ssd("resnet10_16", **SETTINGS))
    for head in network.conf:
        nn.init.normal_(head.weight, std=0.1)
    categories = [{"id": number + 1, "name": f"class {number}"} for number in range(SETTINGS["num_classes"])]
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(3):
        coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"images/{number}.png"), cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_CUBIC))
    images = [{"id": number, "file_name": f"{number}.png", "width": 400, "height": 300} for number in range(3)]
    truth = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 100, 100], "area": 10000, "iscrowd": 0}
    annotations = {"images": images, "annotations": [truth], "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(annotations))
    config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", SETTINGS["members"])))
    config["data"] |= {"train_images": str(folder / "images")}
    config["data"] |= {"val_images": str(folder / "images"), "val_annotations": str(folder / "annotations.json")}
    saved = {"kind": "detection", "model": network.state_dict(), "config": config, "meta": {"categories": categories}}
    torch.save(saved, folder / "best.pt")
    return folder


def plain(trained: Path) -> nn.Module:
    network = create_ssd("resnet10_16", **SETTINGS)
    network.load_state_dict(checkpoint.read(trained / "best.pt")["model"])
    return network.eval()


def inputs(trained: Path) -> Tensor:
    return torch.from_numpy(
        np.stack([to_input(read_image(trained / f"images/{number}.png"), Input()) for number in range(3)])
    )


def need(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


PACKAGES = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino",)}


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_a_runtime_finds_the_same_boxes(runtime: str, trained: Path) -> None:
    need(*PACKAGES.get(runtime, ()))
    network, images = plain(trained), inputs(trained)
    with torch.inference_mode():
        expected = network(Normalize()(images))
    loaded = Detector.load(trained / "best.pt", "cpu", run=RuntimeSettings(runtime=runtime))
    for batch in (images, images[:1]):  # of any size
        for got, wanted in zip(loaded.network(batch), expected, strict=True):
            torch.testing.assert_close(got, wanted[:, : len(batch)], rtol=0, atol=2e-5 * wanted.abs().max().item())
    live = Detector(network, loaded.names, loaded.category_ids, loaded.settings, CPU)
    for got, wanted in zip(loaded.detect(images)[1], live.detect(images)[1], strict=True):
        # Scores that differ by rounding alone may change places.
        rows = [torch.cat((r.boxes, r.scores[:, None], r.labels[:, None]), 1) for r in (got, wanted)]
        distance, counterpart = torch.cdist(*rows, p=torch.inf).min(1)
        assert len(got.scores) == len(wanted.scores) == len(counterpart.unique()) > 20
        assert distance.max() < 1e-5
    # What was loaded stays the SSD that create_ssd makes.
    for got, wanted in zip(loaded.model.state_dict().items(), network.state_dict().items(), strict=True):
        assert got[0] == wanted[0]
        assert torch.equal(got[1], wanted[1])


def test_compile_hands_the_network_to_the_compiler(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes a minute; that inductor computes what PyTorch does is PyTorch's to test.
    real, asked = torch.compile, []

    def quick(module: nn.Module, **how: Any) -> Any:
        asked.append(how)
        return real(module, backend="eager", dynamic=how["dynamic"])

    monkeypatch.setattr(torch, "compile", quick)
    images = inputs(trained)
    loaded = Detector.load(trained / "best.pt", "cpu", run=RuntimeSettings(runtime="compile"))
    with torch.inference_mode():
        for got, wanted in zip(loaded.network(images), plain(trained)(Normalize()(images)), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5 * wanted.abs().max().item())
    create_network(loaded.model, RuntimeSettings(runtime="compile"), torch.device("cuda"))
    assert asked == [{"dynamic": False, "options": {"freezing": True}}, {"dynamic": False, "mode": "reduce-overhead"}]
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="needs a C"):
        Detector.load(trained / "best.pt", "cpu", run=RuntimeSettings(runtime="compile"))


def test_the_compiled_graph_makes_no_tensors_of_its_own() -> None:
    """One made on the CPU inside it would keep it from being recorded as a CUDA graph."""

    class Network(nn.Conv2d):
        concurrent = None

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    pixels = FromPixels(Network(3, 4, 3))
    images = torch.randint(256, (2, 9, 9, 3), dtype=torch.uint8)
    torch._dynamo.reset()
    found = torch.compile(pixels, backend=keep, fullgraph=True)(images)
    assert torch.equal(found, pixels(images))
    assert torch.tensor not in {node.target for graph in graphs for node in graph.graph.nodes}
    assert set(pixels.state_dict()) == {"network.weight", "network.bias"}
    pixels.network.to("meta")
    assert FromPixels(pixels.network).normalize.mean.device.type == "meta"


def test_half_precision_stays_close(trained: Path) -> None:
    images = inputs(trained)
    loaded = Detector.load(trained / "best.pt", "cpu", run=RuntimeSettings(precision="bf16"))
    with torch.inference_mode():
        for got, wanted in zip(loaded.network(images), plain(trained)(Normalize()(images)), strict=True):
            assert got.dtype == torch.bfloat16
            assert (got - wanted).square().mean() < 1e-3 * wanted.square().mean()


def test_int8_stays_close_and_leaves_no_files(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("openvino", "nncf")
    images, files = inputs(trained), sorted(trained.rglob("*"))
    with torch.inference_mode():
        expected = plain(trained)(Normalize()(images))
    loaded = Detector.load(trained / "best.pt", "cpu", run=RuntimeSettings(runtime="openvino", precision="int8"))
    assert "calibrating int8 with 3 images" in capsys.readouterr().out
    for got, wanted in zip(loaded.network(images), expected, strict=True):
        error = (got - wanted).square().mean() / wanted.square().mean()
        assert 1e-7 < error < 0.02  # not float, and not noise
    assert sorted(trained.rglob("*")) == files


def test_openvino_leaves_the_signal_stack(trained: Path) -> None:
    """Its instances unmap their own; one of them in force would end the process at the next signal."""
    need("openvino")
    sigaltstack = ctypes.CDLL(None).sigaltstack

    def stack() -> bytes:
        now = ctypes.create_string_buffer(24)
        assert sigaltstack(None, now) == 0
        return now.raw

    before = stack()
    run = RuntimeSettings(runtime="openvino")
    loaded = [Detector.load(trained / "best.pt", "cpu", run=run) for _ in range(2)]
    loaded[1].network(inputs(trained))
    assert stack() == before
    del loaded[0]  # the first one first
    loaded.clear()
    gc.collect()
    assert stack() == before


def test_int8_needs_images(trained: Path, tmp_path: Path) -> None:
    need("openvino", "nncf")
    for calibration, reason in ((str(tmp_path / "none"), "no such folder"), (str(tmp_path), "no image found")):
        with pytest.raises(UserError, match=reason):
            Detector.load(
                trained / "best.pt",
                "cpu",
                run=RuntimeSettings(runtime="openvino", precision="int8", calibration=calibration),
            )


def test_metrics_name_what_ran(trained: Path, tmp_path: Path) -> None:
    data = json.loads((trained / "annotations.json").read_text())
    config = parse(EvaluateDetection, ["--checkpoint", str(trained / "best.pt"), "--precision", "bf16"])
    config.data.val_annotations, config.data.val_images = str(trained / "annotations.json"), str(trained / "images")
    config.output, config.device = str(tmp_path), "cpu"
    metrics = evaluate(config)
    assert (metrics["runtime"], metrics["precision"], metrics["images"]) == ("torch", "bf16", len(data["images"]))
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert (written["runtime"], written["precision"]) == ("torch", "bf16")


@pytest.mark.parametrize(
    ("runtime", "package"),
    [("onnxruntime", "onnxruntime"), ("onnxruntime", "onnxscript"), ("openvino", "openvino")],
)
def test_a_runtime_that_is_not_installed_is_one_line(
    runtime: str, package: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module
    need(*(name for name in PACKAGES[runtime] if name != package))

    def missing(name: str, *arguments: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'divdet\[{runtime}\]'"):
        Detector.load(trained / "best.pt", "cpu", run=RuntimeSettings(runtime=runtime))


def test_what_a_runtime_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime, precision in (("torch", "int8"), ("onnxruntime", "int8"), ("openvino", "fp16")):
        with pytest.raises(UserError, match=f"precision is '{precision}': runtime {runtime} takes"):
            parse(EvaluateDetection, ["--runtime", runtime, "--precision", precision])
    with pytest.raises(UserError, match="runtime"):
        parse(EvaluateDetection, ["--runtime", "tensorrt"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime_device(RuntimeSettings(runtime="openvino"), "auto") == CPU
    assert runtime_device(RuntimeSettings(), "auto") == torch.device("cuda")
    with pytest.raises(UserError, match="runs on the CPU"):
        runtime_device(RuntimeSettings(runtime="openvino"), "cuda")
