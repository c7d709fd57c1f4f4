"""Texts with any number of labels each, perhaps none."""

from stillhouse.kinds.modality import TEXTS_OF_LABEL_SETS
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.target import LABEL_SET

MULTI_LABEL = Kind(
    name="multi_label",
    modality=TEXTS_OF_LABEL_SETS,
    target=LABEL_SET,
    plain_model="linear",
    own_recipe="multi_label",
    package="stillhouse.modalities.text.export_model.label_set_package",
    judge="stillhouse.modalities.text.gate.gate_label_sets",
    trial="stillhouse.modalities.text.gate.classifier_trial",
)
