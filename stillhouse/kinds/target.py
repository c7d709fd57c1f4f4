"""What is predicted of rows."""

from stillhouse.kinds.protocol import Target

CLASSES = Target(
    room="classes",
    title="Classifiers",
    of_classes=True,
    new_head=True,
    gate_metrics=("accuracy", "macro_f1"),
    blocks={
        "export_soft_labels": "stillhouse.soft_labels.produce.config:ClassesExport",
        "train_teacher": "stillhouse.targets.classes.train.classes_config:ClassesTeacher",
        "student": "stillhouse.targets.classes.train.classes_config:ClassesStudent",
        "train_baseline": "stillhouse.targets.classes.train.classes_config:ClassesBaseline",
        "finetune": "stillhouse.targets.classes.train.classes_config:ClassesFinetune",
    },
    training="stillhouse.targets.classes.train.classifier",
    soft_labels="stillhouse.targets.classes.export_soft_labels.export_classifier",
    imported="stillhouse.targets.classes.export_soft_labels.import_classes",
    objective="stillhouse.targets.classes.train_student.classifier_objective",
    evaluation="stillhouse.targets.classes.evaluate.classification",
    page="stillhouse.targets.classes.report.report_classes",
    comparison="stillhouse.comparison.classes",
)
NEXT_TOKEN = Target(
    room="next_token",
    title="Language models",
    of_classes=False,
    new_head=False,
    gate_metrics=("bits_per_byte",),
    blocks={
        "export_soft_labels": "stillhouse.soft_labels.produce.config:SampledExport",
        "train_student": "stillhouse.distillation.config:SampledStudent",
    },
    training="stillhouse.targets.next_token.train.language_model",
    soft_labels="stillhouse.targets.next_token.export_soft_labels.export_language",
    imported="stillhouse.targets.next_token.export_soft_labels.import_tokens",
    objective="stillhouse.targets.next_token.train_student.language_objective",
    evaluation="stillhouse.targets.next_token.evaluate.language",
    page="stillhouse.targets.next_token.report.report_language",
    comparison="stillhouse.comparison.next_token",
)
