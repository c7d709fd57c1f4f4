"""What rows there are."""

from dataclasses import replace

from stillhouse.kinds.protocol import Modality

TEXTS = Modality(
    room="text",
    row="text",
    blocks={
        "ingest": "stillhouse.sources.config:ClassesIngest",
        "preprocess": "stillhouse.preprocessing.config:RowsPreprocess",
        "train_student": "stillhouse.distillation.config:TextsStudent",
    },
    teacher_data="preprocess/teacher",
    own_options="stillhouse.models.own_options",
    ingestion="stillhouse.modalities.text.ingest.ingest_texts",
    preprocessing="stillhouse.modalities.text.preprocess.preprocess_rows",
    models="stillhouse.modalities.text.rows.text_task",
    student_start="stillhouse.modalities.text.rows.teacher_vectors",
)
TEXTS_OF_LABEL_SETS = replace(
    TEXTS,
    ingestion="stillhouse.modalities.text.ingest.ingest_label_sets",
    preprocessing="stillhouse.modalities.text.preprocess.preprocess_label_sets",
)
"""The same room, and rows that models read alike: a source holds lists in the place of one class, and `ingest` and `preprocess`
alone tell one from the other."""
BLOCKS = Modality(
    room="blocks",
    row="block",
    blocks={
        "ingest": "stillhouse.sources.config:DocumentsIngest",
        "views": "stillhouse.data.views:NoViews",
        "preprocess": "stillhouse.preprocessing.config:BlocksPreprocess",
    },
    ingestion="stillhouse.modalities.blocks.ingest.ingest_documents",
    preprocessing="stillhouse.modalities.blocks.preprocess.preprocess_blocks",
    models="stillhouse.modalities.blocks.rows.block_task",
)
IMAGES = Modality(
    room="images",
    row="image",
    blocks={
        "ingest": "stillhouse.modalities.images.ingest.image_sources:ImagesIngest",
        "views": "stillhouse.modalities.images.table.image_config:ImageViews",
        "preprocess": "stillhouse.modalities.images.preprocess.image_preprocess_config:ImagesPreprocess",
    },
    own_options="stillhouse.models.image_options",
    ingestion="stillhouse.modalities.images.ingest.ingest_images",
    preprocessing="stillhouse.modalities.images.preprocess.preprocess_images",
    models="stillhouse.modalities.images.rows.image_task",
)
