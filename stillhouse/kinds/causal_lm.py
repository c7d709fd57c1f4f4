"""Documents, and the next token of each."""

from stillhouse.kinds.protocol import Kind

CAUSAL_LM = Kind(
    name="causal_lm",
    title="Language models",
    of_classes=False,
    gate_metrics=("bits_per_byte",),
    plain_model="ngram",
    own_recipe="lm",
    blocks={
        "views": "stillhouse.data.views:NoViews",
        "ingest": "stillhouse.sources.config:DocumentsIngest",
        "preprocess": "stillhouse.data.config:BlocksPreprocess",
        "export_soft_labels": "stillhouse.soft_labels.config:SampledExport",
        "train_student": "stillhouse.soft_labels.config:SampledStudent",
    },
    preprocessing="stillhouse.data.preprocess_blocks",
    training="stillhouse.training.language_model",
    soft_labels="stillhouse.soft_labels.export_language",
    objective="stillhouse.soft_labels.language_objective",
    evaluation="stillhouse.evaluation.language",
    package="stillhouse.evaluation.language_package",
    page="stillhouse.evaluation.report_language",
    judge="stillhouse.evaluation.gate_language",
    trial="stillhouse.evaluation.language_trial",
    comparison="stillhouse.comparison.next_token",
)
