"""Documents, and the next token of each."""

from stillhouse.kinds.modality import BLOCKS
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.target import NEXT_TOKEN

CAUSAL_LM = Kind(
    name="causal_lm",
    modality=BLOCKS,
    target=NEXT_TOKEN,
    plain_model="ngram",
    own_recipe="lm",
    package="stillhouse.modalities.blocks.export_model.language_package",
    judge="stillhouse.modalities.blocks.gate.gate_language",
    trial="stillhouse.modalities.blocks.gate.language_trial",
)
