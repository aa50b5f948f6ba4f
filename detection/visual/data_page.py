"""The page of ``inspect-data``: what a data set is like, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from detection.data.annotations import NAMES, Split
from detection.data.check import DataCheck
from detection.data.remarks import shift
from detection.data.statistics import SIZES, Statistics, span
from detection.heads import Input
from detection.visual.html import (
    bar,
    bullets,
    cards,
    columns,
    figure,
    folded,
    image,
    page,
    paragraph,
    pictures,
    section,
    table,
    text,
)
from detection.visual.samples import samples, smallest_pairs

_FAULTS, _CLASSES, _LISTED = 200, 500, 20  # lines that are shown
_OPEN = 20  # lines of which the rest is folded
_SMALLEST = 5  # objects of each split
_SAMPLES = {1: 12, 2: 8}  # pictures of a split by the number of splits

Numbers = Mapping[Split, Statistics]


def data_page(check: DataCheck, numbers: Numbers, lines: Sequence[str], sources: Sequence[str], form: Input) -> str:
    """The whole page.

    Args:
        check: what was found.
        numbers: of each split that could be read.
        lines: what is worth a look (see ``detection.data.remarks``).
        sources: names of the data.
        form: the network's input.
    """
    shown = [
        *(paragraph(source, "faint") for source in sources),
        cards(_totals(check, numbers)),
        section("Worth a look", bullets(lines)) if lines else "",
        _faults(check),
    ]
    if numbers:
        shown += [_classes(numbers), _sizes(numbers, form), _small(check, numbers, form), _images(check, numbers)]
        shown += [_samples(check, split) for split in numbers]
    return page("What the data is like", shown)


def _totals(check: DataCheck, numbers: Numbers) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for split, own in numbers.items():
        found += [(f"{NAMES[split]} images", f"{own.images:,}"), (f"{NAMES[split]} objects", f"{own.objects:,}")]
    if numbers:
        found.append(("classes", len(next(iter(numbers.values())).classes)))
    return [*found, ("faults", f"{len(check.faults):,}")]


def _faults(check: DataCheck) -> str:
    if not check.faults:
        return section("Faults", paragraph("None.", "good"))
    more = len(check.faults) - _FAULTS
    return section(
        "Faults",
        paragraph(f"{len(check.faults):,} in all; faults.txt lists them.", "bad"),
        bullets(check.faults[:_OPEN]),
        folded("More faults", bullets(check.faults[_OPEN:_FAULTS])) if len(check.faults) > _OPEN else "",
        paragraph(f"… and {more:,} more", "faint") if more > 0 else "",
    )


def _classes(numbers: Numbers) -> str:
    first = next(iter(numbers.values()))
    order = sorted(range(len(first.classes)), key=lambda label: -first.classes[label].objects)
    head = ["Class"]
    for split in numbers:
        head += [f"{NAMES[split]} objects", "images"]
    both = len(numbers) == 2
    head += ["share, times training's"] if both else []
    head += ["median side, input px", "meet no default box"]
    largest = {split: max((kind.objects for kind in own.classes), default=0) for split, own in numbers.items()}
    rows = []
    for label in order[:_CLASSES]:
        row = [text(first.classes[label].name)]
        for place, (split, own) in enumerate(numbers.items()):
            kind = own.classes[label]
            row += [bar(f"{kind.objects:,}", kind.objects / max(largest[split], 1), place == 1), f"{kind.images:,}"]
        if both:
            times = shift(*numbers.values(), label)
            row.append(
                ("∞" if times == float("inf") else f"{times:.2f}")
                if any(own.classes[label].objects for own in numbers.values())
                else "–"
            )
        kind = first.classes[label]
        row += [f"{kind.input_side:.0f}", _percent(kind.unmet)] if kind.objects else ["–", "–"]
        rows.append(row)
    styles = "tb b" if both else "tb"
    caption = f"Objects by class; the last two columns are of {NAMES[next(iter(numbers))]}"
    rest = f"{len(rows) - _OPEN} more classes" + (f" of {len(first.classes) - _OPEN}" if len(order) > _CLASSES else "")
    return section(
        "Classes",
        table(caption, head, rows[:_OPEN], styles),
        folded(rest, table("Further classes", head, rows[_OPEN:], styles)) if len(rows) > _OPEN else "",
    )


def _chart(caption: str, first: str, parts: Mapping[Split, Mapping[object, int]]) -> str:
    """Histograms of the splits side by side."""
    labels = list(dict.fromkeys(label for counts in parts.values() for label in counts))
    if labels and isinstance(labels[0], int):
        labels.sort()
    rows = []
    for label in labels:
        row = [text(label)]
        for place, counts in enumerate(parts.values()):
            count, total, most = counts.get(label, 0), max(sum(counts.values()), 1), max(counts.values(), default=1)
            row.append(bar(f"{count:,} ({_percent(count / total)})", count / max(most, 1), place == 1))
        rows.append(row)
    return table(caption, [first, *(NAMES[split] for split in parts)], rows, "tbb")


def _sizes(numbers: Numbers, form: Input) -> str:
    kept = ", in their aspect ratio," if form.fit == "letterbox" else ""
    in_image = {split: dict(zip(SIZES, own.sizes, strict=True)) for split, own in numbers.items()}
    in_input = {split: dict(zip(SIZES, own.input_sizes, strict=True)) for split, own in numbers.items()}
    limits = sorted({side for own in numbers.values() for side in own.sides})
    sides = {split: {f"{side}-{2 * side}": own.sides.get(side, 0) for side in limits} for split, own in numbers.items()}
    return section(
        "Sizes of objects",
        paragraph(
            "COCO calls objects of less than 32² pixels small and from 96² on large (here by the area of the box). "
            f"Images are resized{kept} to {form.size} × {form.size} pixels, and the objects with them."
        ),
        columns(
            _chart("In pixels of the images", "Size", in_image),
            _chart("In pixels of the network's input", "Size", in_input),
            _chart("Side (square root of the area) in input pixels", "Pixels", sides),
            _chart("Objects an image", "Objects", {split: own.per_image for split, own in numbers.items()}),
        ),
    )


def _small(check: DataCheck, numbers: Numbers, form: Input) -> str:
    sizes = sorted({size for own in numbers.values() for size in own.needed if size})
    rows = []
    met = {split: list(accumulate(own.needed.get(size, 0) for size in sizes)) for split, own in numbers.items()}
    for place, size in enumerate(sizes):
        unmet = [max(0.0, 1 - shares[place]) if numbers[split].needed else 0.0 for split, shares in met.items()]
        rows.append([f"{size / form.size:.1f}", *(bar(f"{share:.1%}", share, n == 1) for n, share in enumerate(unmet))])
    small = [
        [text(one.name), _sides(one.sides), _sides(one.input_sides), text(one.record.file_name)]
        for own in numbers.values()
        for one in own.smallest[:_SMALLEST]
    ]
    if not small:
        return ""
    return section(
        "Objects and default boxes" if rows else "The smallest objects",
        paragraph(
            "An object that meets no default box at IoU 0.5 is learned from a single one that fits it badly. "
            "Photos cut into tiles make objects larger."
        )
        if rows
        else "",
        columns(
            table("Objects that meet no default box", ["Times as large", *map(NAMES.get, numbers)], rows, "tbb")
            if rows
            else "",
            table("The smallest objects", ["Class", "Pixels", "Input pixels", "Image"], small, "t  t"),
        ),
        pictures(_pairs(own, form) for own in numbers.values()) if check.facts else "",
    )


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _sides(sides: tuple[float, float]) -> str:
    return text(f"{sides[0]:.1f} × {sides[1]:.1f}")


def _pairs(own: Statistics, form: Input) -> str:
    found = []
    for pair in smallest_pairs(own, 3, form):
        name = f"{pair.what.name} in {Path(pair.what.record.file_name).name}"
        views = image(pair.stored, f"{name}, in the image") + image(pair.seen, f"{name}, in the network's input")
        sizes = "{:.0f} × {:.0f} pixels become {:.1f} × {:.1f}".format(*pair.what.sides, *pair.what.input_sides)
        found.append(figure(f'<div class="pair">{views}</div>', f"{name}: {sizes}"))
    return "".join(found)


def _images(check: DataCheck, numbers: Numbers) -> str:
    parts = []
    for split, own in numbers.items():
        common = list(own.image_sizes.items())
        rows = [
            [f"{width} × {height}", bar(f"{count:,}", count / common[0][1], split == "val")]
            for (width, height), count in common[:8]
        ]
        widths, heights = zip(*own.image_sizes, strict=True) if common else ((0,), (0,))
        shapes = ", ".join(f"{count:,} {shape}" for shape, count in own.shapes.items())
        about = f"{shapes or 'of unknown size'}; {span(widths)} pixels wide, {span(heights)} high; "
        about += f"{own.turned:,} rotated or mirrored by EXIF; {own.empty:,} without objects"
        sizes = table(f"Most frequent sizes, {NAMES[split]}", ["Pixels", "Images"], rows, "tb") if rows else ""
        parts.append(f"{paragraph(f'{NAMES[split].capitalize()}: {about}')}{sizes}")
    copies = [
        f"{NAMES[split]}: " + " = ".join(map(str, group)) for split, groups in check.copies.items() for group in groups
    ]
    shared = [f"{one} = {other}" for one, other in check.shared]
    return section(
        "Images",
        columns(*parts),
        _listed("Copies: images with the same pixels", copies),
        _listed("In training and in validation", shared),
        "" if check.facts else paragraph("Images were not decoded."),
    )


def _listed(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    more = len(lines) - _LISTED
    rest = paragraph(f"… and {more:,} more", "faint") if more > 0 else ""
    return f"<h3>{text(title)}</h3>{bullets(lines[:_LISTED])}{rest}"


def _samples(check: DataCheck, split: Split) -> str:
    if not check.facts:
        return ""
    figures = []
    for sample in samples(check.splits[split], _SAMPLES[len(check.splits)]):
        name = Path(sample.record.file_name).name
        figures.append(figure(image(sample.picture, f"{name} with {sample.objects}"), f"{name}: {sample.objects}"))
    return section(f"{NAMES[split].capitalize()} images", pictures(figures))
