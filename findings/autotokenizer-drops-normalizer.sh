#!/usr/bin/env bash
# transformers 5.23.0 with tokenizers 0.23.3: AutoTokenizer does not read the `normalizer` and `pre_tokenizer` of tokenizer.json
# where tokenizer_config.json names the class of a single model (BertTokenizer), or the model beside it is of a type like qwen2
# whatever class is named. The class builds its own from the vocabulary; post-processor, padding and truncation are kept, so the
# ids look right. `tokenizers.Tokenizer.from_file` on the same file lower-cases the text here, AutoTokenizer answers [UNK].
# With "tokenizer_class": "PreTrainedTokenizerFast" both agree, but not beside a config.json of model type qwen2.
# Output seen:
#   file alone:                          [2, 4, 5, 3]
#   BertTokenizer:                       [2, 1, 1, 3]
#   PreTrainedTokenizerFast:             [2, 4, 5, 3]
#   PreTrainedTokenizerFast, qwen2 model: differs from the file
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cd "$place"
cat > look.py <<'PY'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer


def folder(name, tokenizer, config, model=None):
    place = Path(name)
    place.mkdir()
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    if model:
        (place / "config.json").write_text(json.dumps({"model_type": model}))
    return place


pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two"]
words = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
words.normalizer = normalizers.Lowercase()
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
words.add_special_tokens(pieces[:4])
names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
# What the class would do by itself is said in tokenizer_config.json; the file says otherwise, and nobody is told.
bert = folder("bert", words, names | {"tokenizer_class": "BertTokenizer", "do_lower_case": False}, "bert")
fast = folder("fast", words, names | {"tokenizer_class": "PreTrainedTokenizerFast"}, "bert")

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
pairs = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
pairs.normalizer = normalizers.Lowercase()
pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
qwen = folder("qwen", pairs, {"tokenizer_class": "PreTrainedTokenizerFast"}, "qwen2")

alone = Tokenizer.from_file(str(bert / "tokenizer.json")).encode("One TWO").ids
found = {name: AutoTokenizer.from_pretrained(place)("One TWO")["input_ids"] for name, place in (("bert", bert), ("fast", fast))}
other = AutoTokenizer.from_pretrained(qwen)("One TWO")["input_ids"] != Tokenizer.from_file(str(qwen / "tokenizer.json")).encode("One TWO").ids
print("file alone:                         ", alone)
print("BertTokenizer:                      ", found["bert"])
print("PreTrainedTokenizerFast:            ", found["fast"])
print("PreTrainedTokenizerFast, qwen2 model:", "differs from the file" if other else "as the file")
sys.exit(not (alone == found["fast"] == [2, 4, 5, 3] and found["bert"] == [2, 1, 1, 3] and other))
PY
"$place/venv/bin/python" look.py 2>/dev/null
