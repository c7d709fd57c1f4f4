"""Texts into one of several classes."""

from stillhouse.kinds.modality import TEXTS
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.target import CLASSES

TEXT_CLASSIFICATION = Kind(
    name="text_classification",
    modality=TEXTS,
    target=CLASSES,
    plain_model="linear",
    own_recipe="intents",
    package="stillhouse.modalities.text.export_model.classifier_package",
    judge="stillhouse.modalities.text.gate.gate_texts",
    trial="stillhouse.modalities.text.gate.classifier_trial",
)
