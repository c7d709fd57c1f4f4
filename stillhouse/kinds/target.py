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
LABEL_SET = Target(
    room="label_set",
    title="Multi-label classifiers",
    of_classes=True,
    new_head=True,
    gate_metrics=("micro_f1", "macro_f1"),
    blocks={
        "ingest": "stillhouse.sources.label_set_sources:LabelSetsIngest",
        "train_teacher": "stillhouse.targets.label_set.train.label_set_config:LabelSetTeacher",
        "student": "stillhouse.targets.label_set.train.label_set_config:LabelSetStudent",
        "train_student": "stillhouse.targets.label_set.train_student.label_set_student_config:TrainLabelSetStudent",
        "finetune": "stillhouse.targets.label_set.train.label_set_config:LabelSetFinetune",
    },
    training="stillhouse.targets.label_set.train.label_set_training",
    soft_labels="stillhouse.targets.label_set.export_soft_labels.export_label_sets",
    objective="stillhouse.targets.label_set.train_student.label_set_objective",
    evaluation="stillhouse.targets.label_set.evaluate.label_set_evaluation",
    page="stillhouse.targets.label_set.report.report_label_sets",
    comparison="stillhouse.comparison.label_set",
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
