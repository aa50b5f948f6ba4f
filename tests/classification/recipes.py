"""A recipe of two small members."""

from pathlib import Path

from classification.settings import ClassificationTrainSettings, DataSettings, ModelSettings, TrainClassification


def recipe(data: Path, output: Path, epochs: int = 1, **others: object) -> TrainClassification:
    """Two members of resnet10_16 on an .npz file or a folder, with all augmentation and regularization on."""
    dataset = "npz" if data.suffix == ".npz" else "folder"
    return TrainClassification(
        model=ModelSettings("resnet10_16", 2),
        data=DataSettings(dataset=dataset, root=str(data), image_size=16, auto_augment="cifar10", erasing=0.5),
        train=ClassificationTrainSettings(
            epochs=epochs, batch_size=8, lr=0.05, cot_warmup_epochs=2, mixup=0.2, label_smoothing=0.1, workers=0
        ),
        output=str(output),
        device="cpu",
        **others,
    )
