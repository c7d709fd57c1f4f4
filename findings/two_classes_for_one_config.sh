#!/bin/sh
# transformers 5.23.0 with torch 2.13.0 (CPU), Python 3.11.
#
# AutoModelForImageClassification.from_config(config) of an architecture that has several such classes (DeiT and LeViT have one
# with a teacher's token beside the plain one, Perceiver one for each way of reading pixels) ends in "TypeError: 'NoneType'
# object is not iterable": to choose among them it goes through `config.architectures`, which is None in every config that did
# not come out of a file. `from_pretrained` and all architectures with one class are not affected. With `config.architectures = []`
# the same call makes the first class.
#
# Output seen:
#   deit: TypeError: 'NoneType' object is not iterable; with architectures = []: DeiTForImageClassification
#   levit: TypeError: 'NoneType' object is not iterable; with architectures = []: LevitForImageClassification
#   vit: ViTForImageClassification
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from transformers import AutoConfig, AutoModelForImageClassification

small = {
    "deit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "levit": {},
    "vit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
}
seen = []
for name, options in small.items():
    config = AutoConfig.for_model(name, **options)
    try:
        said = type(AutoModelForImageClassification.from_config(config)).__name__
    except TypeError as error:
        config.architectures = []
        made = type(AutoModelForImageClassification.from_config(config)).__name__
        said = f"TypeError: {error}; with architectures = []: {made}"
    seen.append(f"{name}: {said}")
    print(seen[-1])
wanted = [
    "deit: TypeError: 'NoneType' object is not iterable; with architectures = []: DeiTForImageClassification",
    "levit: TypeError: 'NoneType' object is not iterable; with architectures = []: LevitForImageClassification",
    "vit: ViTForImageClassification",
]
sys.exit(seen != wanted)
PYTHON
