import hashlib
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets as torchvision_datasets

from classification.data.datasets import default_image_size, load_images, load_training_images
from classification.settings import DataSettings
from divdet.engine.errors import UserError
from divdet.engine.images import decode_image
from tests.classification.generated import CLASSES, encoded, generated_images, write_folder, write_npz


def settings(dataset: str, root: Path, **others: object) -> DataSettings:
    return DataSettings(dataset=dataset, root=str(root), **others)


def test_npz_gives_its_images_labels_and_classes(tmp_path: Path) -> None:
    data = settings("npz", write_npz(tmp_path / "a.npz"))
    train, test = load_training_images(data, seed=0)
    images, labels = generated_images(24, seed=0)
    assert [train.read(i).tolist() for i in range(24)] == images.tolist()
    assert train.labels.tolist() == labels.tolist()
    assert (train.classes, len(test), default_image_size(data, train)) == (CLASSES, 12, 16)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_encoded_images_are_rgb_as_pillow_reads_them(tmp_path: Path, suffix: str) -> None:
    train = load_images(settings("npz", write_npz(tmp_path / "a.npz", suffix=suffix)), "train")
    path = tmp_path / f"image{suffix}"
    path.write_bytes(encoded(generated_images(24)[0][1], suffix).tobytes())
    reference = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(train.read(1).astype(int) - reference).mean() < 3


@pytest.mark.parametrize(
    ("replaced", "named"),
    [
        ({"train_labels": None}, "train_labels"),
        ({"classes": None}, "classes"),
        ({"classes": np.array(["one"])}, "classes"),
        ({"classes": np.array([1, 2, 3])}, "classes"),
        ({"classes": np.array(CLASSES, dtype=object)}, "classes"),
        ({"train_bytes": np.zeros(10, np.float32)}, "train_bytes"),
        ({"train_labels": np.full(24, 3)}, "train_labels"),
        ({"train_labels": np.full(24, -1)}, "train_labels"),
        ({"train_labels": np.zeros(24)}, "train_labels"),
        ({"train_labels": np.zeros(0, int)}, "train_labels"),
        ({"train_offsets": np.arange(24)}, "train_offsets"),
        ({"train_offsets": np.arange(25)[::-1]}, "train_offsets"),
        ({"train_offsets": np.arange(25) * 10**6}, "train_offsets"),
    ],
)
def test_malformed_npz_is_refused_naming_file_and_key(tmp_path: Path, replaced: dict, named: str) -> None:
    path = write_npz(tmp_path / "bad.npz", **replaced)
    with pytest.raises(UserError, match=rf"bad\.npz: .*{named}"):
        load_images(settings("npz", path), "train")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_svhn_is_read_from_its_mat_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {}
    for seed, (split, count) in enumerate({"train": 12, "test": 7, "extra": 5}.items()):
        images, _ = generated_images(count, size=32, seed=seed)
        path = tmp_path / f"{split}_32x32.mat"
        labels = 1 + np.arange(count)[:, None] % 10  # the files write 10 for the digit 0
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels})
        lists[split] = ["no address", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision_datasets.SVHN, "split_list", lists)
    train, test = load_training_images(settings("svhn", tmp_path), seed=0)
    assert train.classes == list("0123456789")
    assert train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert [train.read(i).tolist() for i in range(12)] == generated_images(12, size=32)[0].tolist()
    assert (len(test), default_image_size(settings("svhn", tmp_path), train)) == (7, 32)
    more, _ = load_training_images(settings("svhn", tmp_path, extra=True), seed=0)
    assert more.labels.tolist() == [*train.labels, 1, 2, 3, 4, 5]
    assert [more.read(12 + i).tolist() for i in range(5)] == generated_images(5, size=32, seed=2)[0].tolist()
    (tmp_path / "extra_32x32.mat").unlink()
    with pytest.raises(UserError, match="no intact extra_32x32"):
        load_training_images(settings("svhn", tmp_path, extra=True), seed=0)
    (tmp_path / "train_32x32.mat").write_bytes(b"damaged")
    with pytest.raises(UserError, match="no intact train_32x32"):
        load_images(settings("svhn", tmp_path), "train")


def test_pickles_are_refused_without_running_them(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    inside = write_npz(tmp_path / "inside.npz", train_bytes=np.array([Malicious(target)], dtype=object))
    whole = tmp_path / "whole.npz"
    whole.write_bytes(pickle.dumps(Malicious(target)))
    for path in (inside, whole):
        with pytest.raises(UserError, match=path.name):
            load_images(settings("npz", path), "train")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_files_that_are_no_npz_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.npz"):
        load_images(settings("npz", path), "train")
    with pytest.raises(UserError, match="no such file"):
        load_images(settings("npz", tmp_path / "none.npz"), "train")


def test_damaged_npz_members_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bad.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.npz"):
        load_images(settings("npz", path), "train")


def test_folder_has_a_class_per_subfolder(tmp_path: Path) -> None:
    train, val = load_training_images(settings("folder", write_folder(tmp_path)), seed=0)
    assert train.classes == CLASSES
    assert train.labels.tolist() == sorted(generated_images(12)[1].tolist())
    assert len(val) == 12
    expected = generated_images(12)[0][3]  # the second image of class 0
    assert (train.read(1) == expected).all()


def test_files_that_are_left_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path)
    assert len(load_images(settings("folder", root), "train")) == 12
    assert capsys.readouterr().out == ""
    for name in ("red/more/a.GIF", "red/b.gif", "red/.DS_Store", "blue/c", "d.png", "blue/e.JPG"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_bytes(b"")
    assert len(load_images(settings("folder", root), "train")) == 13
    assert capsys.readouterr().out.startswith(
        f"note: {root}/train: files left out: 2 .gif, 1 .png, 1 without suffix; images are jpg, jpeg, png"
    )


def test_faults_of_a_folder_are_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    data = settings("folder", root)
    (root / "train/empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        load_images(data, "train")
    (root / "train/empty").rmdir()
    shutil.move(root / "val/red", root / "val/rde")
    with pytest.raises(UserError, match=r"val: its classes differ .*1 missing \(red\); 1 unexpected \(rde\)"):
        load_training_images(data, seed=0)
    shutil.rmtree(root / "val")
    with pytest.raises(UserError, match="val: no such folder"):
        load_training_images(data, seed=0)


def test_corrupt_images_are_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    path = sorted((root / "train/blue").iterdir())[0]
    content = path.read_bytes()
    for bad in (b"", b"not an image", content[:40]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=path.name):
            load_images(settings("folder", root), "train").read(0)


def test_jpeg_that_ends_early_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(noise, ".jpg")
    assert decode_image(data, "whole").shape == (64, 64, 3)
    trailing = np.concatenate([data, np.zeros(9, np.uint8)])
    assert (decode_image(trailing, "trailing") == decode_image(data, "whole")).all()
    with pytest.raises(UserError, match=r"cut\.jpg"):
        decode_image(data[: len(data) * 2 // 3], "cut.jpg")


def test_limit_takes_a_random_part_that_the_seed_decides(tmp_path: Path) -> None:
    data = settings("npz", write_npz(tmp_path / "a.npz"), limit=10)
    first, again, other = (load_training_images(data, seed)[0] for seed in (0, 0, 1))
    assert len(first) == 10
    assert first.items.tolist() == again.items.tolist() != other.items.tolist()
    assert all((first.read(i) == again.read(i)).all() for i in range(10))


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "imagenet"])
def test_missing_published_data_gives_one_clear_line(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(UserError, match=r"--data\.root") as caught:
        load_images(settings(dataset, tmp_path), "train")
    assert "\n" not in str(caught.value)


def test_cifar_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = generated_images(6, size=32)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    planes = images.transpose(0, 3, 1, 2).reshape(6, -1)
    batches = {"batch": {"data": planes, "labels": labels.tolist()}, "meta": {"label_names": CLASSES}}
    sums = {}
    for name, content in batches.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cifar = torchvision_datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [["batch", sums["batch"]]])
    monkeypatch.setattr(cifar, "test_list", [["batch", sums["batch"]]])
    monkeypatch.setattr(cifar, "meta", {"filename": "meta", "key": "label_names", "md5": sums["meta"]})
    train = load_images(settings("cifar10", tmp_path), "train")
    assert (train.read(4) == images[4]).all()
    assert (train.classes, train.labels.tolist()) == (CLASSES, labels.tolist())
    (folder / "batch").write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
    with pytest.raises(UserError, match="intact"):
        load_images(settings("cifar10", tmp_path), "train")
    assert not (tmp_path / "executed").exists()


def test_imagenet_may_be_plain_folders(tmp_path: Path) -> None:
    data = settings("imagenet", write_folder(tmp_path))
    train, _ = load_training_images(data, seed=0)
    assert train.classes == CLASSES
    assert default_image_size(data, train) == 224


def test_shared_npz_files_are_read(shared: Path) -> None:
    cifar = load_images(settings("npz", shared / "data/cifar10.npz"), "val")
    assert (len(cifar), len(cifar.classes), cifar.read(9_999).shape) == (10_000, 10, (32, 32, 3))


@pytest.mark.parametrize("dataset", ["folder", "imagenet"])
def test_a_name_that_is_too_long_is_no_folder(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data\.root"):
        load_images(settings(dataset, tmp_path / ("x" * 300)), "train")


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.root is ~nosuchuser/x: there is no such user"):
        load_images(settings("folder", Path("~nosuchuser/x")), "train")


def with_header(path: Path, key: str, header: bytes) -> Path:
    """An .npz file, one of whose arrays says ``header`` of itself."""
    with zipfile.ZipFile(write_npz(path)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[f"{key}.npy"] = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (1%s,)}" % (b"0" * 30),
        b"[" * 9000,
    ],
    ids=["open bracket", "petabyte", "beyond 64 bits", "deep"],
)
def test_an_array_that_lies_about_itself_is_refused(tmp_path: Path, header: bytes) -> None:
    path = with_header(tmp_path / "bad.npz", "train_bytes", header)
    with pytest.raises(UserError, match=r"bad\.npz: (train_bytes cannot be|there is not enough memory to) read"):
        load_images(settings("npz", path), "train")


def test_an_npz_of_a_strange_compression_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bad.npz")
    content = path.read_bytes()
    at = content.index(b"PK\1\2") + 10
    path.write_bytes(content[:at] + b"\x63\0" + content[at + 2 :])
    with pytest.raises(UserError, match=r"bad\.npz: .* cannot be read"):
        load_images(settings("npz", path), "train")


def test_an_npz_that_unpacks_to_far_more_than_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, train_bytes=np.zeros(10**8, np.uint8))
    with pytest.raises(UserError, match=r"bomb\.npz: [\d,]+ bytes that unpack to 100,000,128"):
        load_images(settings("npz", path), "train")


@pytest.mark.parametrize("size", [7, 4097])
def test_a_size_that_only_the_images_give_has_bounds_too(tmp_path: Path, size: int) -> None:
    file = encoded(np.zeros((size, 5000, 3), np.uint8))
    path = write_npz(
        tmp_path / "a.npz", train_bytes=file, train_offsets=np.array([0, len(file)]), train_labels=np.array([0])
    )
    data = settings("npz", path)
    with pytest.raises(
        UserError, match=rf"a\.npz: the shorter side of its first image is {size}: set --data\.image_size"
    ):
        default_image_size(data, load_images(data, "train"))


def test_a_class_whose_name_no_checkpoint_could_hold_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    os.rename(root / "train/blue", os.fsencode(root / "train") + b"/\xff")
    with pytest.raises(UserError, match=r"the class folder \\udcff has a name that is not UTF-8"):
        load_images(settings("folder", root), "train")


def test_links_that_lead_round_in_circles_are_refused_and_others_followed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    os.rename(root / "train/blue", tmp_path / "elsewhere")
    (root / "train/blue").symlink_to(tmp_path / "elsewhere")
    data = settings("folder", root)
    assert len(load_images(data, "train")) == 12
    (root / "train/red/more").symlink_to(tmp_path / "elsewhere")  # another way to the same images
    assert len(load_images(data, "train")) == 16
    (tmp_path / "elsewhere/back").symlink_to(root / "train/red")
    with pytest.raises(UserError, match="a link to a folder that it is in leads round in circles; remove it"):
        load_images(data, "train")
    (tmp_path / "elsewhere/back").unlink()
    for level in range(30):  # twice as many ways at each level
        (tmp_path / f"levels/{level}").mkdir(parents=True)
        for name in "ab":
            (tmp_path / f"levels/{level}/{name}").symlink_to(tmp_path / f"levels/{level + 1}")
    (tmp_path / "elsewhere/levels").symlink_to(tmp_path / "levels/0")
    with pytest.raises(UserError, match="in too many ways; remove some"):
        load_images(data, "train")


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    os.mkfifo(root / "train/blue/0.png")
    with pytest.raises(UserError, match=r"blue/0\.png: not a file"):
        load_images(settings("folder", root), "train").read(0)
