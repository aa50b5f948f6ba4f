"""Links to the explanation of a field, such as ``train.lr``, and of a command: from its name, and in the search."""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform

from divdet.commands import COMMANDS
from docs.site.fields import anchor, fields

_FIELD = re.compile(r"(?:--)?((?:model|data|train|postprocess)\.\w+)\b")
_COMMAND = re.compile(r"divdet ([\w-]+)$")


class LinkFields(SphinxPostTransform):
    """Turns code in running text that names a field or a command into a link to it."""

    default_priority = 5

    def run(self) -> None:
        """Looks at all code of a page."""
        known = {field.key: "cls" for field in fields("train-cls")} | {field.key: "" for field in fields("train-det")}
        labels = self.env.domains.standard_domain.anonlabels
        for code in list(self.document.findall(nodes.literal)):
            field, command = _FIELD.match(code.astext()), _COMMAND.match(code.astext())
            if field and field[1] in known:
                page, place = labels[anchor(field[1], known[field[1]])]
            elif command and command[1] in COMMANDS:
                page, place = labels[f"command-{command[1]}"]
            else:
                continue
            inside = code.parent
            while inside and not isinstance(inside, nodes.reference | nodes.title | nodes.term):
                inside = inside.parent
            if inside is None:
                address = self.app.builder.get_relative_uri(self.env.docname, page) + f"#{place}"
                link = nodes.reference("", "", refuri=address, internal=True)
                code.replace_self(link)
                link += code


def _index(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Lets the search find fields and commands themselves, not only their pages."""
    domain = env.domains.standard_domain
    places = {field.key: anchor(field.key, "cls") for field in fields("train-cls")}
    places |= {field.key: anchor(field.key, "") for field in fields("train-det")}
    places |= {f"divdet {name}": f"command-{name}" for name in COMMANDS}
    for name, label in places.items():
        if label in domain.anonlabels:
            domain.objects["confval", name] = domain.anonlabels[label]
    return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the transform, and the fields to the search."""
    app.add_post_transform(LinkFields)
    app.connect("env-updated", _index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
