"""Texts into one of several classes."""

from stillhouse.kinds.protocol import Kind

TEXT_CLASSIFICATION = Kind(
    name="text_classification",
    title="Classifiers",
    of_classes=True,
    gate_metrics=("accuracy", "macro_f1"),
    plain_model="linear",
    own_recipe="intents",
    blocks={
        "ingest": "stillhouse.sources.config:ClassesIngest",
        "preprocess": "stillhouse.data.config:RowsPreprocess",
        "train_teacher": "stillhouse.training.classes_config:ClassesTeacher",
        "student": "stillhouse.training.classes_config:ClassesStudent",
        "train_baseline": "stillhouse.training.classes_config:ClassesBaseline",
        "finetune": "stillhouse.training.classes_config:ClassesFinetune",
    },
    preprocessing="stillhouse.data.preprocess_rows",
    training="stillhouse.training.classifier",
    soft_labels="stillhouse.soft_labels.export_classifier",
    objective="stillhouse.soft_labels.classifier_objective",
    evaluation="stillhouse.evaluation.classification",
    package="stillhouse.evaluation.classifier_package",
    page="stillhouse.evaluation.report_classes",
    judge="stillhouse.evaluation.gate_classes",
    trial="stillhouse.evaluation.classifier_trial",
    comparison="stillhouse.comparison.classes",
)
