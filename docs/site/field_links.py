"""Links from the name of a field, such as ``train.lr``, to its explanation."""

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from docs.site.fields import anchor, fields

_NAME = re.compile(r"(?:--)?((?:model|data|train|postprocess)\.\w+)")


class LinkFields(SphinxTransform):
    """Turns code that names a field into a link to it."""

    default_priority = 500

    def apply(self) -> None:
        """Looks at all code in running text of a page."""
        known = {field.key: "cls" for field in fields("train-cls")} | {field.key: "" for field in fields("train-det")}
        for code in list(self.document.findall(nodes.literal)):
            found = _NAME.match(code.astext())
            inside = code.parent
            while inside and not isinstance(inside, nodes.reference | pending_xref | nodes.title | nodes.term):
                inside = inside.parent
            if not found or found[1] not in known or inside:
                continue
            target = anchor(found[1], known[found[1]])
            link = pending_xref(
                "",
                refdomain="std",
                reftype="ref",
                refexplicit=True,
                reftarget=target,
                refdoc=self.env.docname,
                refwarn=True,
            )
            code.replace_self(link)
            link += code


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the transform."""
    app.add_transform(LinkFields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
