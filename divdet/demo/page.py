"""The page: its parts, and what happens when they are used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from threading import Lock
from typing import Any

import gradio as gr

from detection.detector import Detector
from divdet.demo import panels
from divdet.demo.controls import CONFS, FIELDS, METHODS, settings_of, why_idle
from divdet.demo.examples import Example
from divdet.demo.outputs import Outputs, find, run
from divdet.demo.sessions import Sessions
from divdet.demo.uploads import read_upload
from divdet.engine.errors import UserError

REMOVE_AFTER = 600  # seconds after which uploads are removed
_BY_METHOD = {  # controls that not every fusion method has
    "fusion_iou": "boxes of members that overlap by more become one",
    "fusion_conf": "avg lowers what only some members find; max does not",
}
_AT_ONCE = 4  # results that are made at the same time
_MOST_WAITING = 64  # requests that wait for one


@dataclass
class Page:
    """What the page needs, and what it keeps of its users.

    Attributes:
        detector: as loaded.
        title, subtitle: which model it is.
        exported: whether suppression is part of the network.
        score_threshold: the lowest score that is shown at first.
        examples: images to try.
        max_pixels: of an image.
        sessions: what is kept.
    """

    detector: Detector
    title: str
    subtitle: str
    exported: bool = False
    score_threshold: float = 0.3
    examples: Sequence[Example] = ()
    max_pixels: int = 50_000_000
    sessions: Sessions = field(default_factory=Sessions)
    _one_at_a_time: Lock = field(default_factory=Lock)

    def build(self) -> gr.Blocks:
        """The page as Gradio serves it."""
        blocks = gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=(60, REMOVE_AFTER), fill_width=True)
        with blocks:
            _panel("title", f"<h1>{escape(self.title)}</h1><p>{escape(self.subtitle)}</p>")
            with gr.Row(elem_id="work"):
                with gr.Column(scale=4, min_width=300, elem_id="left"):
                    image, chosen = self._source()
                    values = self._controls()
                with gr.Column(scale=9, min_width=300, elem_id="right"):
                    status, fused, summary, members = (
                        _panel(name, panels.EMPTY * (name == "fused"))
                        for name in ("status", "fused", "summary", "members")
                    )
                    with gr.Tabs(elem_id="details"):
                        with gr.Tab("Boxes"):
                            table = _panel("table")
                        with gr.Tab("JSON"):
                            text = _panel("json")
            gr.on(
                [image.change, *(control.input for control in values)],
                self.show,
                [image, *values],
                [status, fused, summary, members, table, text],  # not the image: an update would undo its preprocess
                trigger_mode="always_last",
                show_progress="minimal",
                show_progress_on=fused,
                concurrency_limit=_AT_ONCE,
                api_visibility="private",
            )
            by_field = dict(zip(FIELDS, values[1:], strict=True))
            method = by_field["fusion_method"]
            depending = [by_field[name] for name in _BY_METHOD]
            method.input(self._idle_by_method, method, depending, queue=False, api_visibility="private")
            if chosen is not None:
                chosen.click(self._example, chosen, image, queue=False, api_visibility="private")
            blocks.unload(self._leave)
        return blocks.queue(max_size=_MOST_WAITING, default_concurrency_limit=_AT_ONCE, api_open=False)

    def _source(self) -> tuple[gr.Image, gr.Dataset | None]:
        """The place where images come in, and the examples."""
        image = gr.Image(
            type="filepath",
            sources=["upload", "webcam", "clipboard"],
            label="Image",
            height=210,
            buttons=["fullscreen"],
            elem_id="source",
        )
        # Gradio's own would decode the file and write it anew; a subclass would write a .pyi beside this file
        image.preprocess = lambda payload: payload and payload.path
        if not self.examples:
            return image, None
        samples = [[str(example.thumbnail)] for example in self.examples]
        components = [gr.Image(render=False, label="Examples")]
        return image, gr.Dataset(
            components=components,
            samples=samples,
            type="index",
            label="Examples",
            samples_per_page=12,
            elem_id="examples",
        )

    def _controls(self) -> list[gr.components.Component]:
        """The lowest score shown, then one control for each of ``FIELDS``."""
        base = self.detector.settings
        idle = why_idle(len(self.detector.model.members), self.exported, base.fusion_method)
        names = list(dict.fromkeys(self.detector.names))

        def of(name: str, info: str) -> dict[str, Any]:
            return {"info": idle.get(name, info), "interactive": name not in idle}

        def share(name: str, label: str, info: str) -> gr.Slider:
            return _slider(0, 1, getattr(base, name), step=0.01, label=label, **of(name, info))

        with gr.Column(elem_id="controls", min_width=0), gr.Group():  # a group's id would be there twice
            threshold = _slider(0, 1, self.score_threshold, step=0.01, label="Score", info="the lowest that is shown")
            nms_iou = share("nms_iou", "NMS IoU", "of a member's boxes that overlap by more, the best stays")
            method = gr.Dropdown(
                METHODS, value=base.fusion_method, label="Fusion", **of("fusion_method", "of the members' boxes")
            )
            fusion_iou = share("fusion_iou", "Fusion IoU", _BY_METHOD["fusion_iou"])
            conf = gr.Dropdown(
                CONFS,
                value=base.fusion_conf,
                label="Fused score",
                **of("fusion_conf", _BY_METHOD["fusion_conf"]),
            )
            classes = gr.Dropdown(
                names,
                value=self._chosen_classes(),
                multiselect=True,
                label="Classes",
                info="none chosen: all",
                filterable=len(names) > 8,
            )
            with gr.Accordion("More", open=False):
                candidates = share("score_threshold", "Candidate score", "the lowest that enters NMS")
                count = _slider(
                    1,
                    max(1000, base.candidates_per_class),
                    base.candidates_per_class,
                    step=1,
                    label="Candidates",
                    **of("candidates_per_class", "of each class and member that enter NMS"),
                )
                agnostic = gr.Checkbox(
                    base.class_agnostic, label="Class-agnostic", info="NMS across classes on the final boxes"
                )
        return [threshold, nms_iou, method, fusion_iou, conf, classes, candidates, count, agnostic]

    def _chosen_classes(self) -> list[str]:
        """The names of the classes that the settings limit the detector to; none where they do not."""
        kept = self.detector.rules.kept
        return [] if kept is None else [name for name, own in zip(self.detector.names, kept, strict=True) if own]

    def _idle_by_method(self, method: str) -> list[Any]:
        idle = why_idle(len(self.detector.model.members), self.exported, method)
        return [gr.update(interactive=name not in idle, info=idle.get(name, info)) for name, info in _BY_METHOD.items()]

    def _example(self, number: int) -> str:
        return str(self.examples[number].path)

    def _leave(self, request: gr.Request) -> None:
        self.sessions.drop(request.session_hash)

    def show(self, request: gr.Request, path: str | None, threshold: float, *values: Any) -> list[Any]:
        """What the page shows of an image with the controls' values; the network runs where the image is new.

        Returns:
            The status line and the panels.
        """
        session, nothing = request.session_hash, [panels.EMPTY, *[""] * 4]
        if path is None:
            self.sessions.drop(session)
            return ["", *nothing]
        try:
            outputs = self._outputs(session, path)
            settings = settings_of(self.detector.settings, values)
            found, seconds = find(self.detector, outputs, settings, threshold)
        except UserError as error:
            self.sessions.drop(session)
            return [panels.message(str(error)), *nothing]
        names = self.detector.names
        return [
            "",
            panels.fused_panel(outputs, found, names),
            panels.summary(outputs, found, seconds),
            panels.member_panels(outputs, found, names, threshold),
            panels.table(found),
            panels.json_panel(found, settings, threshold),
        ]

    def _outputs(self, session: str, path: str) -> Outputs:
        """The session's kept outputs if they are of this image; otherwise runs the network and keeps them."""
        outputs = self.sessions.get(session, path)
        if outputs is None:
            start = time.perf_counter()
            image = read_upload(path, self.max_pixels, self.detector.orientation != "stored")
            read = time.perf_counter() - start
            with self._one_at_a_time:
                outputs = run(self.detector, image)
            outputs = replace(outputs, read_seconds=read)
            self.sessions.put(session, path, outputs)
        return outputs


def _slider(least: float, most: float, value: float, **options: Any) -> gr.Slider:
    """A slider; Gradio's own fails where somebody empties its number or types one that is out of range."""
    slider = gr.Slider(least, most, value, **options)
    slider.preprocess = lambda number: least if number is None else min(max(number, least), most)
    return slider


def _panel(name: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False)
