"""What terms need of a teacher, and what each source of its answers gives: compared before anything is computed.

A source that gives an *expectation* says on average what the teacher says of every class or id, which is all that is linear in
the teacher's probabilities asks for. One that gives *probabilities* says it of the row at hand. *Hidden states* are what the
teacher's layers hand on.
"""

from stillhouse.core.errors import ParamsError
from stillhouse.distillation.config import DistillationParams, DivergenceTerm, FeatureTerm, Term

EXPECTATION, PROBABILITIES, HIDDEN_STATES = "expectation", "probabilities", "hidden states"

OF_DISTRIBUTIONS = frozenset({EXPECTATION, PROBABILITIES})
"""A store of distributions: every class of a classifier, or the top ids and one bucket for all others."""
OF_SAMPLES = frozenset({EXPECTATION})
"""A store of unbiased samples."""
OF_TEACHER = frozenset({EXPECTATION, PROBABILITIES, HIDDEN_STATES})
"""The teacher itself, asked in every step."""
OTHER_TOKENS = (
    "'train_student.teacher_layers' copies the teacher's embeddings too, and 'preprocess.teacher' gives the teacher other "
    "tokens than the student; leave teacher_layers out, or set preprocess.teacher to null"
)
WITH_PROBABILITIES = ("topk_tail",)
"""Methods of `export_soft_labels.sampler` whose stores hold distributions."""


def needs_of(term: Term) -> frozenset[str]:
    """What a term asks a teacher for; nothing where it goes by true labels."""
    match term:
        case FeatureTerm():
            return frozenset({HIDDEN_STATES})
        case DivergenceTerm():
            return frozenset({EXPECTATION if term.name == "forward_kl" else PROBABILITIES})
        case _:
            return frozenset()


def given_by(settings: DistillationParams, method: str | None, same_tokens: bool = True) -> frozenset[str]:
    """What the source of the settings gives. method: of the sampler, None where the store holds every class. same_tokens:
    whether the teacher reads the student's."""
    if settings.teacher == "online":
        return OF_TEACHER if same_tokens else OF_DISTRIBUTIONS
    return OF_DISTRIBUTIONS if method is None or method in WITH_PROBABILITIES else OF_SAMPLES


def require_signals(settings: DistillationParams, given: frozenset[str], method: str | None) -> None:
    """Raises ParamsError for a term that needs what its source does not give. given: see `given_by`."""
    for number, term in enumerate(settings.all_terms):
        missing = needs_of(term) - given
        if not missing:
            continue
        key = "train_student.distillation." + ("divergence" if settings.terms is None else f"terms.{number}.name")
        if HIDDEN_STATES in missing:
            if settings.teacher == "online":
                raise ParamsError(
                    f"'{key}' is {term.name}, which compares hidden states token by token, and 'preprocess.teacher' gives the "
                    "teacher other tokens than the student; leave the term out, or set preprocess.teacher to null"
                )
            raise ParamsError(
                f"'{key}' is {term.name}, which needs the teacher's hidden states, and soft labels hold none; use teacher: "
                "online"
            )
        raise ParamsError(
            f"'{key}' is {term.name}, which needs the teacher wherever the student has mass, "
            f"but 'export_soft_labels.sampler.method' is {method}; use forward_kl, method topk_tail, or teacher: online"
        )
