"""Pictures into one of several classes."""

from stillhouse.kinds.modality import IMAGES
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.target import CLASSES

IMAGE_CLASSIFICATION = Kind(
    name="image_classification",
    modality=IMAGES,
    target=CLASSES,
    own_blocks={
        "train_teacher": "stillhouse.targets.classes.train.image_training_config:ImageTeacher",
        "student": "stillhouse.targets.classes.train.image_training_config:ImageStudent",
        "finetune": "stillhouse.targets.classes.train.image_training_config:ImageFinetune",
    },
    plain_model="linear",
    own_recipe="image",
    package="stillhouse.modalities.images.export_model.image_package",
    judge="stillhouse.modalities.images.gate.gate_images",
    trial="stillhouse.modalities.images.gate.image_trial",
)
