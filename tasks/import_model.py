"""What `make model` does with a model before DVC gets it: into one folder, in the form that trainings read, with its origin.

In: a folder of transformers or sentence-transformers, a GGUF file, a hub id at its commit, or a folder or GGUF file of an
installed package. Out: `config.json`, weights as safetensors, tokenizer, `origin.json`; on stdout sentences about it, as JSON.
No file that may hold code is read, and none is run: neither pickles nor Python beside the weights nor that of the package.

    python -m tasks.import_model models/bert --into data/raw/models/bert
"""

import argparse
import datetime
import json
from pathlib import Path

from stillhouse.core.artifacts import digest_file, published, read_json, write_json
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options
from stillhouse.models.model_folders import weight_files
from tasks.imports.licences import UNKNOWN, licence_beside
from tasks.imports.model_sources import ModelSource, find_model

ORIGIN = "origin.json"


def main() -> None:
    parser = Options("tasks.import_model", __doc__)
    parser.add_argument("source", help="folder, file.gguf, owner/model@commit or package:folder")
    parser.add_argument("--into", type=Path, required=True, help="the folder that the model becomes; replaced as a whole")
    options = parser.parse_args()
    with one_line_errors("model"):
        print(json.dumps(import_model(options)))


def import_model(options: argparse.Namespace) -> list[str]:
    """Write the model into its folder, whole or not at all; returns sentences about it. Raises StillhouseError."""
    source = find_model(options.source)
    with published(options.into) as folder:
        if source.path.is_file():
            from tasks.imports.gguf_model import convert_gguf

            facts, licence = convert_gguf(source.path, folder, options.source)
            origin = source.origin | {"file": source.path.name, "sha256": digest_file(source.path)}
            said = (licence, "general.license of the file") if licence else licence_beside(source.path.parent)
        else:
            from tasks.imports.model_copy import copy_model

            facts = copy_model(source.path, folder, options.source)
            origin = source.origin | earlier(source)
            said = licence_beside(source.path)
        if said is None and source.licence:
            said = source.licence, "metadata of the package"
        name, place = said or (UNKNOWN, "no file says")
        weights = {path.name: digest_file(path) for path in weight_files(folder)}
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_json(
            folder / ORIGIN,
            {"from": origin, "licence": name, "licence_said_by": place, "date": today, "weights_sha256": weights},
        )
    size = sum(path.stat().st_size for path in weight_files(options.into))
    return [*facts, f"{size / 1e6:,.1f} MB of weights, licence {name} ({place})"]


def earlier(source: ModelSource) -> dict:
    """What a folder that was imported before says of itself."""
    path = source.path / ORIGIN
    return {"earlier": read_json(path)} if path.is_file() else {}


if __name__ == "__main__":
    main()
