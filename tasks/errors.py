"""Every error a person can mend, grouped by what the caller can do about it.

    PipelineError                  one line instead of a traceback; `exit_code` is what `refit` and the stages exit with
    ├── InputError                 mend what you gave: exit code 2
    │   ├── ParamsError            params.yaml, or a `--set`
    │   ├── DataError              the raw data, the policy file, an eval suite
    │   │   └── ChatTemplateError  the chat template does not write one conversation so that it can be trained on
    │   └── StageInputError        an upstream record is missing or belongs to something else: run that stage
    ├── BaseModelError             the base model cannot be had, or is not the one whose sha256 was written down
    ├── TrainingError              the trainer would have learned nothing, or did
    │   └── OutOfMemoryError       not even one row at a time fits into memory
    ├── EvalError                  a model could not be scored
    ├── NotApprovedError           push without a passed gate for exactly this model
    ├── StaleChampionError         somebody published meanwhile: judge again against the new champion
    ├── StageTimeoutError          a stage took longer than `timeouts` of params.yaml gives it
    ├── RegistryError              a published version is damaged or absent, the disk is full, or a file may not be published
    └── TransientError             the only ones that a retry may cure
        ├── NetworkError           a download, 5xx, 429
        ├── WorkspaceBusyError     somebody else works in the workspace
        └── StageKilled            the stage's process died by a signal or for want of memory

A message says where, what was found, what was wanted and what to do. All are picklable: a task runner sends them between
processes.
"""


def one_line(error: object) -> str:
    """What a library said, for the middle of a message."""
    return " ".join(str(error).split())


class PipelineError(Exception):
    """Base of every error that is reported in one line, without a traceback."""

    exit_code = 1


class InputError(PipelineError):
    """What was given is wrong; nothing was changed."""

    exit_code = 2


class ParamsError(InputError):
    """params.yaml or an override does not fit; the message lists every fault at once."""


class DataError(InputError):
    """The raw data, the policy or an eval suite cannot be used."""


class ChatTemplateError(DataError):
    """A conversation and the base model's chat template do not fit each other."""


class StageInputError(InputError):
    """A stage was started without the complete result of the one before it."""


class BaseModelError(PipelineError):
    """The base model is missing, unreachable or not the expected one."""


class TrainingError(PipelineError):
    """Training cannot start, or what came out of it is not a trained model."""


class OutOfMemoryError(TrainingError):
    """A training ran out of memory; with a smaller batch it may go on."""


class EvalError(PipelineError):
    """A model could not be scored."""


class NotApprovedError(PipelineError):
    """The gate did not pass this model, or passed another one."""


class StaleChampionError(PipelineError):
    """The champion is no longer the one that the candidate was judged against."""


class StageTimeoutError(PipelineError):
    """A stage was ended since it took too long; whether that is a hang or slow work, a person must tell."""


class RegistryError(PipelineError):
    """The registry, or a model on its way into it, is not in order; a person must look."""


class TransientError(PipelineError):
    """The same call may succeed later; a task retries it."""


class NetworkError(TransientError):
    """A server could not be reached or asked for patience."""


class WorkspaceBusyError(TransientError):
    """Somebody else holds the lease of the workspace."""


class StageKilled(TransientError):
    """A stage's process was ended by a signal."""
