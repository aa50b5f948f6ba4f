"""From the data settings of a recipe to checked training and validation annotations."""

from detection.data.annotations import CocoAnnotations
from detection.data.category_match import match_categories
from detection.data.formats.read import read_annotations
from detection.data.repeated_files import merge_repeated
from detection.settings import DataSettings
from divdet.engine.errors import UserError


def read_splits(data: DataSettings) -> tuple[CocoAnnotations, CocoAnnotations]:
    """Reads and checks the training and the validation annotations, and prints what they hold.

    Raises:
        UserError: for settings or data that cannot be used.
    """
    training = merge_repeated(read_annotations(data, "train"))
    validation = read_annotations(data, "val")
    validation = match_categories(training.category_ids, training.names, validation)
    if all(record.crowd.all() for record in training.images):
        raise UserError(f"{training.path}: there is no object to learn from ({training.describe()})")
    print(f"training on {training.path}: {training.describe()}")
    print(f"evaluating on {validation.path}: {validation.describe()}")
    return training, validation
