"""Pictures with a class each to arrays of one size: what `preprocess` does for a classifier of images.

Each picture is decoded once, brought to the size and colour that models read, and kept as it then is. Its side of the split is
a hash of its own pixels, before anything is done to them: at another size the same pictures are held out. Pictures of which
models see the same are one picture, and stand on one side.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false

import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from stillhouse.core.artifacts import DATA, MANIFEST, write_json
from stillhouse.core.progress import Progress
from stillhouse.modalities.images.ingest.picture_reading import pixels_of
from stillhouse.modalities.images.ingest.pictures import decode, quiet, read_rows, stream
from stillhouse.modalities.images.preprocess.image_preprocess_config import ImagesPreprocess
from stillhouse.modalities.images.table.image_facts import MODES, ImageFacts
from stillhouse.modalities.images.table.images import write_images
from stillhouse.preprocessing.class_labels import label_names, require_known_labels, withhold_labels
from stillhouse.preprocessing.ingested import finish
from stillhouse.preprocessing.labels import WITHHELD
from stillhouse.preprocessing.splits import SplitReport, drop_rows_of_other_task, separate, thin_classes, thin_note
from stillhouse.preprocessing.tables import SPLITS

UNIT = "images"
SPECIAL_TOKENS = ()
NEEDS_END_TOKEN = False
BATCH_ROWS = 256
MOST_ALLOWED = 178_000_000
"""Pixels: what `ingest` has let pass."""
CHUNK_VALUES = 2**23
"""Values that are summed at a time."""
LEAST_DEVIATION = 1 / 255
"""Of a channel that never changes, so that nothing is divided by zero."""


def most_rows(amount: int, settings: Mapping[str, Any]) -> int:
    """The rows themselves. settings: the block `preprocess`, as it is written."""
    return amount


def preprocess(settings: ImagesPreprocess, out: Path) -> None:
    """Fill `out` as the stage leaves it. Raises DataError naming the row of a picture that cannot be read."""
    names = ["source", "new"]
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".pixels-") as scratch:
        with quiet():
            both = {
                name: decoded(DATA / "ingest" / f"{name}.parquet", settings, Path(scratch) / f"{name}.npy") for name in names
            }
        pixels = {name: array for name, (array, _) in both.items()}
        if not len(pixels["new"]):
            del pixels["new"]
        tasks = {}
        for name, array in pixels.items():
            rows = read_rows(DATA / "ingest" / f"{name}.parquet")
            rows = rows.assign(place=np.arange(len(rows)), seen=contents(array), own=both[name][1])
            # Of pictures that models see as one, the first by its own pixels speaks for all.
            rows = rows.assign(folded=rows.groupby("seen")["own"].transform("min"))
            tasks[name] = separate(rows, settings.split, SplitReport(rows_in=len(rows)))
        if "new" in tasks:
            source, report = tasks["source"]
            tasks["source"] = drop_rows_of_other_task(source, tasks["new"][0], report, by="seen"), report
        facts = facts_of(settings, pixels["source"], tasks["source"][0])
        facts.write_beside(out / "processor")
        statistics = {}
        for name, (table, report) in tasks.items():
            share = settings.withheld_labels if name == "source" else 0.0
            statistics[name] = write_task(out / name, table, pixels[name], facts, share, report)
    finish(statistics, out)


def decoded(table: Path, settings: ImagesPreprocess, scratch: Path) -> tuple[np.ndarray, list[str]]:
    """uint8 (N, H, W, C), on disk: every picture of a canonical table, in its order; and digests of their own pixels."""
    mode, channels = MODES[settings.colour], len(Image.new(MODES[settings.colour], (1, 1)).getbands())
    size = (settings.width, settings.height)

    def scaled(row: tuple[str, bytes]) -> tuple[np.ndarray, str]:
        image = decode(row[1], f"row {row[0]} of {table}", max_pixels=MOST_ALLOWED)
        own = pixels_of(image)
        if image.mode != mode:
            image = image.convert(mode)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(settings.height, settings.width, channels), own

    count = len(read_rows(table))
    if not count:
        return np.zeros((0, settings.height, settings.width, channels), dtype=np.uint8), []
    pixels = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.uint8, shape=(count, *size[::-1], channels))
    begin, digests = 0, list[str]()
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(count, f"pictures of {table.stem}", UNIT) as bar:
        for rows in batches(table):
            for place, (picture, own) in enumerate(pool.map(scaled, rows), start=begin):
                pixels[place] = picture
                digests.append(own)
            begin += len(rows)
            bar.update(len(rows))
    return pixels, digests


def batches(table: Path) -> Iterator[list[tuple[str, bytes]]]:
    """Ids and files, some rows at a time."""
    for batch in stream(table, ["id", "image"], BATCH_ROWS):
        yield list(zip(batch.column("id").to_pylist(), batch.column("image").to_pylist(), strict=True))


def contents(pixels: np.ndarray) -> list[str]:
    """A digest of each picture as models see it."""
    return [blake2b(picture.tobytes(), digest_size=16).hexdigest() for picture in pixels]


def facts_of(settings: ImagesPreprocess, pixels: np.ndarray, table: pd.DataFrame) -> ImageFacts:
    """Size, colour, and mean and deviation of each channel over the training rows."""
    places = table.loc[table["split"] == "train", "place"].to_numpy()
    sums = np.zeros((2, pixels.shape[-1]))
    step = max(1, CHUNK_VALUES // pixels[0].size)
    for begin in range(0, len(places), step):
        # Whole numbers up to here: the same sums however they are cut.
        part = pixels[places[begin : begin + step]].reshape(-1, pixels.shape[-1]).astype(np.int64)
        sums += [part.sum(0), (part**2).sum(0)]
    count = len(places) * pixels.shape[1] * pixels.shape[2]
    mean = sums[0] / count / 255
    deviation = np.sqrt(np.maximum(sums[1] / count / 255**2 - mean**2, 0))
    return ImageFacts(
        height=settings.height,
        width=settings.width,
        colour=settings.colour,
        mean=[round(float(value), 6) for value in mean],
        std=[round(max(float(value), LEAST_DEVIATION), 6) for value in deviation],
    )


def write_task(
    folder: Path, table: pd.DataFrame, pixels: np.ndarray, facts: ImageFacts, withheld: float, report: SplitReport
) -> dict[str, Any]:
    """Write one task; returns its statistics. withheld: share of the training rows that lose their label."""
    folder.mkdir()
    names, hidden = label_names(table, folder.name), withhold_labels(table, withheld)
    if note := require_known_labels(table, hidden, names, folder.name, withheld):
        print(f"note: {folder.name}: {note}")
    index = {name: number for number, name in enumerate(names)}
    labels = np.where(hidden, WITHHELD, table["label"].map(index)).astype(np.int32)
    digests, counts = {}, {}
    for split in SPLITS:
        chosen = np.flatnonzero((table["split"] == split).to_numpy())
        part = table.iloc[chosen]
        places = part["place"].to_numpy()
        digests[split] = write_images(folder / f"{split}.arrow", part["id"].tolist(), labels[chosen], pixels, places)
        counts[split] = part["label"].value_counts().reindex(names, fill_value=0)
    pd.DataFrame(counts).rename_axis("label").to_csv(folder / "class_counts.csv")
    write_json(folder / "labels.json", names)
    write_json(
        folder / MANIFEST,
        {"splits": digests, "image": asdict(facts), "preprocessing": facts.words(), "classes": len(names)},
    )
    statistics = {
        **{key: value for key, value in asdict(report).items() if key != "empty"},
        **{f"{split}_rows": int((table["split"] == split).sum()) for split in SPLITS},
        "classes": len(names),
        "balance": round(float(counts["train"].max() / counts["train"].min()), 2),
        "withheld_labels": int(hidden.sum()),
    }
    thin = thin_classes(table.loc[table["split"] == "test", "label"], names)
    statistics |= {f"classes_{key}": len(found) for key, found in thin.items() if found}
    unlabelled = int((table["label"] == "").sum())
    if unlabelled:
        statistics["unlabelled"] = unlabelled
    sizes = " / ".join(f"{statistics[f'{split}_rows']:,}" for split in SPLITS)
    print(
        f"{folder.name}: {sizes} images, {len(names)} classes; dropped {report.duplicates:,} duplicates, "
        f"{report.shared_between_published_splits:,} shared between splits; {report.conflicting_labels:,} images with "
        "conflicting labels" + (f"; {unlabelled:,} images without a label" if unlabelled else "")
    )
    if note := thin_note(thin, len(names)):
        print(f"note: {folder.name}: {note}")
    return statistics
