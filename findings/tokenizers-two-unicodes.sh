#!/usr/bin/env bash
# tokenizers 0.23.3: one normaliser, two releases of Unicode. `NFC` orders combining marks by tables of Unicode 9 (2016), so marks
# that are newer keep the order in which they were typed: two spellings that are canonically equal stay different, in Telugu
# (nukta, 2021), Lao, Hanifi Rohingya, Quranic Arabic. `Lowercase` beside it knows letters of Unicode 17 (2025), which Python 3.11
# does not, and has no final sigma. So a tokenizer.json does not do what the same words do in Python, whichever Python it is.
# Output seen (the last line depends on Python: 3.11 has Unicode 14.0.0):
#   Telugu nukta + anudatta, two orders: NFC of tokenizers leaves 2 spellings, of Python 1
#   marks that NFC of tokenizers does not order: 98 of 912
#   lower case: U+1C89 (Unicode 16) becomes U+1C8A, and of a final sigma: σ
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cd "$place"
cat > look.py <<'PY'
import sys
import unicodedata

from tokenizers import normalizers

nfc, lower = normalizers.NFC(), normalizers.Lowercase()
# Telugu ka with nukta (U+0C3C, class 7) and an anudatta (U+0952, class 220), in both orders.
spellings = ["\u0c15\u0952\u0c3c", "\u0c15\u0c3c\u0952"]
theirs, ours = ({normalise(text) for text in spellings} for normalise in (nfc.normalize_str, lambda text: unicodedata.normalize("NFC", text)))
print(f"Telugu nukta + anudatta, two orders: NFC of tokenizers leaves {len(theirs)} spellings, of Python {len(ours)}")
marks = [chr(code) for code in range(0x110000) if unicodedata.combining(chr(code))]
others = "\u0323\u0301\u0334\u0345\u05b0"
unordered = [
    mark
    for mark in marks
    if any(nfc.normalize_str(text) != unicodedata.normalize("NFC", text) for other in others for text in (f"x{mark}{other}", f"x{other}{mark}"))
]
print(f"marks that NFC of tokenizers does not order: {len(unordered)} of {len(marks)}")
new, sigma = lower.normalize_str("\u1c89"), lower.normalize_str("ΟΔΟΣ")[-1]
print(f"lower case: U+1C89 (Unicode 16) becomes U+{ord(new):04X}, and of a final sigma: {sigma}")
sys.exit(not ((len(theirs), len(ours)) == (2, 1) and len(unordered) >= 98 and (new, sigma) == ("\u1c8a", "σ")))
PY
"$place/venv/bin/python" look.py
