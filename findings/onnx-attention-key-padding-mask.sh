#!/usr/bin/env bash
# torch 2.13.0 with onnxscript 0.7.2, onnx 1.23.2 and onnxruntime 1.32.0: attention with the usual key-padding mask, (batch, 1, 1,
# keys), exports and runs at opset 18. At opset 23, where it becomes ONNX's own Attention operator, the export succeeds and the
# model loads, but onnxruntime's CPU kernel refuses every batch: it wants a row of the mask for every query and does not broadcast.
# And the opset is what was asked for only if the converter can: opset 17 of the same model is written as 18, with a traceback in
# the log, and torch.onnx.export returns as if nothing had been.
# Output seen:
#   asked for 18: written 18, differs from torch by less than 1e-5
#   asked for 23: written 23, onnxruntime: inconsistent q_sequence_length (between attn_mask and Q)
#   asked for 23, mask expanded: written 23, differs from torch by less than 1e-5
#   asked for 17, with Pad: written 18
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2
cd "$place"
cat > look.py <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from torch.nn import functional as F


class Attention(torch.nn.Module):
    def __init__(self, expand=False, pad=False):
        super().__init__()
        self.expand, self.pad = expand, pad

    def forward(self, states, mask):
        if self.pad:
            states = F.pad(states, (0, 0, 1, 0))[:, :-1]
        heads = states[:, None]
        mask = mask[:, None, None, :]
        if self.expand:
            mask = mask.expand(-1, 1, states.shape[1], -1)
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)


def look(opset, **options):
    model = Attention(**options)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = {"states": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    example = (torch.zeros(2, 7, 8), torch.ones(2, 7, dtype=torch.bool))
    torch.onnx.export(model, example, "m.onnx", input_names=["states", "mask"], dynamic_shapes=shapes, opset_version=opset,
                      dynamo=True, verbose=False)  # fmt: skip
    written = next(entry.version for entry in onnx.load("m.onnx").opset_import if entry.domain == "")
    states, mask = torch.randn(3, 5, 8), torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:] = False
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession("m.onnx", options)
    try:
        found = session.run(None, {"states": states.numpy(), "mask": mask.numpy()})[0]
    except Exception as error:
        return written, "inconsistent q_sequence_length" in str(error)
    return written, float(np.abs(found - model(states, mask).numpy()).max()) < 1e-5 and "close"


plain, broken, expanded, other = look(18), look(23), look(23, expand=True), look(17, pad=True)
print("asked for 18: written", plain[0], "differs from torch by less than 1e-5" if plain[1] == "close" else plain[1])
print("asked for 23: written", broken[0], "onnxruntime: inconsistent q_sequence_length" if broken[1] is True else broken[1])
print("asked for 23, mask expanded: written", expanded[0], "differs from torch by less than 1e-5" if expanded[1] == "close" else expanded[1])
print("asked for 17, with Pad: written", other[0])
sys.exit(not (plain == (18, "close") and broken == (23, True) and expanded == (23, "close") and other[0] == 18))
PY
"$place/venv/bin/python" look.py 2>/dev/null | grep -v "^\["
