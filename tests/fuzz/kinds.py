"""The kinds of input, by name.

Each is made with an empty folder to work in. ``write(draw)`` puts the next case there, ``read()`` does with it what the
tools do, and ``names`` are the parts of which a refusal must hold one. Only ``output/`` in it may be written to.
"""

from tests.fuzz.annotation_cases import Annotations, Results
from tests.fuzz.checkpoint_cases import Classifiers, Detectors, Published, Runs
from tests.fuzz.image_cases import Folder, Images, Npz
from tests.fuzz.recipe_cases import CommandLines, Recipes

KINDS = {
    "annotations": Annotations,
    "results": Results,
    "images": Images,
    "npz": Npz,
    "folder": Folder,
    "recipes": Recipes,
    "commands": CommandLines,
    "classifiers": Classifiers,
    "runs": Runs,
    "detectors": Detectors,
    "published": Published,
}
