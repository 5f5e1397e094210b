"""The sections `evaluate` and `gate` of params.yaml, typed."""

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tasks.sections import CountFrom1, RelativePath, Section, Share

GUIDELINE_PARTS = ("structure", "category", "priority", "policy_facts")
REPLY_LOSS = "reply_loss"
HYGIENE = ("stops", "nonempty", "no_repetition")
"""Metrics of every generated reply, whatever the scorers."""
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Texts = Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)]


class GuidelineScorer(Section):
    """The mean of structure, category, priority and policy_facts, by the section `guidelines`; each is a metric too."""

    type: Literal["guidelines"]


class ExactMatchScorer(Section):
    """1 where the reply equals the reference but for case, punctuation and blanks."""

    type: Literal["exact_match"]


class RegexScorer(Section):
    """1 where the pattern finds the same in the reply as in the reference."""

    type: Literal["regex"]
    pattern: str = Field(description="what its first group matches is compared, or the whole match if it has none")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class JsonSchemaScorer(Section):
    """1 where the reply is JSON that fits the schema."""

    type: Literal["json_schema"]
    file: RelativePath = Field(description="of the schema, in data/eval")


class ContainsScorer(Section):
    """The share of the texts that the reply contains, whatever the case."""

    type: Literal["contains"]
    texts: Texts


class OmitsScorer(Section):
    """1 where the reply contains none of the texts, whatever the case."""

    type: Literal["omits"]
    texts: Texts


class OverlapScorer(Section):
    """How much of the reference the reply says: F1 of the longest common subsequence, of character n-grams, of tokens."""

    type: Literal["rouge_l", "chrf", "token_f1"]


class PythonScorer(Section):
    """A function of yours: `def score(reply: str, doc: dict) -> float`, from 0 to 1, higher is better."""

    type: Literal["python"]
    entry_point: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="MODULE:FUNCTION; a module of data/eval, or an installed one"
    )


class JudgeScorer(Section):
    """A language model says whether reply or reference is better, in both orders: 1, 0.5 for a tie, 0."""

    type: Literal["judge"]
    base_url: str = Field(pattern=r"^https?://\S+$", description="of an OpenAI-compatible API, as in http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1)
    criteria: str = Field(pattern=r"\S", description="what makes a reply better, in words")


Scorer = Annotated[
    GuidelineScorer
    | ExactMatchScorer
    | RegexScorer
    | JsonSchemaScorer
    | ContainsScorer
    | OmitsScorer
    | OverlapScorer
    | PythonScorer
    | JudgeScorer,
    Field(discriminator="type"),
]


class EvalTask(Section):
    """A task or group of lm-eval's; null: as the task itself says."""

    task: str = Field(min_length=1)
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    apply_chat_template: bool = False
    limit: CountFrom1 | None = Field(None, description="only the first items; the decision says so aloud")


def _by_name(value: object) -> object:
    return {"task": value} if isinstance(value, str) else value


NamedTask = Annotated[EvalTask, BeforeValidator(_by_name)]


class Evaluate(Section):
    dtype: Literal["auto", "float32", "bfloat16"]
    max_new_tokens: CountFrom1 = Field(description="of a generated reply")
    generation_batch_size: CountFrom1
    loglikelihood_batch_size: CountFrom1
    scorers: dict[Name, Scorer] = Field(min_length=1, description="of the replies to the test split, by the name of their metric")
    target_tasks: tuple[NamedTask, ...] = Field(description="lm-eval tasks of the wanted behaviour, beside the test split")
    general_tasks: tuple[NamedTask, ...] = Field(
        min_length=1, description="lm-eval tasks of what must not be lost: ours of data/eval, or lm-eval's own, by name"
    )

    @model_validator(mode="after")
    def _names_are_different(self) -> Self:
        names = [*self.reply_metrics, REPLY_LOSS, *(task.task for task in (*self.target_tasks, *self.general_tasks))]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"evaluate: {', '.join(twice)} would name more than one metric or task; rename or remove one")
        return self

    @property
    def reply_metrics(self) -> list[str]:
        """Metrics of a generated reply."""
        parts = GUIDELINE_PARTS if any(scorer.type == "guidelines" for scorer in self.scorers.values()) else ()
        return [*self.scorers, *parts, *HYGIENE]

    @property
    def judges(self) -> set[str]:
        return {name for name, scorer in self.scorers.items() if scorer.type == "judge"}


class Gain(Section):
    min_gain: float = Field(ge=0, description="the lower bound of the gain of candidate over base must be above")
    floor: float = Field(ge=0, description="the candidate's own mean must reach; if the metric is a loss, it may not exceed")


class Kept(Section):
    margin: Share = Field(description="how much the pooled general suite may lose against base")
    task_margin: Share = Field(description="how much one ability may lose against base")


class Champion(Section):
    promote_if: Literal["not_worse", "better"] = Field(
        description="what the candidate must be, compared with the published model, in every metric of `learned`"
    )
    margin: Share = Field(description="not_worse: how much each of them may lose against it")


class Best(Section):
    margin: Share = Field(description="how much each metric of `learned` may lose against the best version ever published")


class Slices(Section):
    by: tuple[Literal["topic", "language", "length"], ...]
    min_items: int = Field(ge=2, description="of a slice that is judged")
    margin: Share = Field(description="a slice that surely lost, and more than this, stops the candidate")


class Gate(Section):
    confidence: float = Field(ge=0.5, lt=1, description="of each one-sided lower bound")
    bootstrap_draws: int = Field(ge=1000, le=100_000)
    seed: int = Field(ge=0)
    min_target_items: CountFrom1
    min_general_items: CountFrom1
    min_power: Share = Field(
        description="how often a model without any loss must pass `kept`, or no run is begun; 0: begin it all the same"
    )
    shelf_life: CountFrom1 = Field(description="candidates that the same items may judge before the decision says they are worn")
    learned: dict[str, Gain] = Field(
        min_length=1, description="by metric of the target suite, or by task of evaluate.target_tasks; every one of them must be"
    )
    kept: Kept
    champion: Champion
    best: Best
    slices: Slices
    smoke: dict[str, Share] = Field(description="by metric of a reply, the least mean that the candidate must have")

    @model_validator(mode="after")
    def _states_the_hygiene(self) -> Self:
        if missing := [metric for metric in HYGIENE if metric not in self.smoke]:
            raise ValueError(f"gate.smoke: lacks {', '.join(missing)}; state 0 for what is not wanted")
        return self

    @model_validator(mode="after")
    def _shares_where_the_metric_is_one(self) -> Self:
        for metric, gain in self.learned.items():
            if metric != REPLY_LOSS and max(gain.min_gain, gain.floor) > 1:
                raise ValueError(f"gate.learned.{metric} is a share, so min_gain and floor must be at most 1")
        return self
