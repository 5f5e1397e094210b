import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.decision_text import explain, markdown
from tasks.errors import StageInputError
from tasks.evaluation_records import EvalReport, GateDecision, RuleResult, SuiteTask
from tasks.evaluation_sections import Gate
from tasks.gate import decide
from tasks.item_scores import ItemScores, Scores
from tasks.records import Environment

TASKS = ("facts", "grammar", "meaning")
# Fewer than params.yaml may have, for speed; test_statistics.py and tests/integration/test_gate_rates.py take more.
FEW_DRAWS = {"bootstrap_draws": 250}
SECTION = Gate.model_validate(
    {
        "confidence": 0.95,
        "bootstrap_draws": 1000,
        "seed": 7,
        "min_target_items": 100,
        "min_general_items": 300,
        "shelf_life": 3,
        "min_power": 0.5,
        "learned": {"guideline_score": {"min_gain": 0.2, "floor": 0.5}},
        "kept": {"margin": 0.03, "task_margin": 0.1},
        "champion": {"promote_if": "not_worse", "margin": 0.05},
        "best": {"margin": 0.08},
        "slices": {"by": ["topic", "length"], "min_items": 20, "margin": 0.15},
        "smoke": {"stops": 0.95, "nonempty": 1.0, "no_repetition": 0.95, "structure": 0.9},
    }
).model_copy(update=FEW_DRAWS)
ENVIRONMENT = Environment(
    python="3", platform="x", device="cpu", threads=2, git_commit=None, packages={"lm_eval": "0.4", "trl": "1.0"}
)
Role = Literal["base", "champion", "best", "candidate"]


def suite_task(task: str, **changes: Any) -> SuiteTask:
    plain: dict[str, Any] = {
        "suite": "general",
        "entry": task,
        "task": task,
        "metric": "acc",
        "version": "1",
        "num_fewshot": None,
    }
    return SuiteTask.model_validate(plain | {"apply_chat_template": False, "limit": None, "n_items": 300} | changes)


def report(
    role: Role,
    digest: str | None = "",
    items: str | None = "i" * 64,
    dtype: str = "float32",
    environment: Environment = ENVIRONMENT,
    tasks: Sequence[SuiteTask] = tuple(map(suite_task, TASKS)),
) -> EvalReport:
    found = digest if digest is None else digest or f"{role}-digest"
    return EvalReport(
        role=role,
        model_digest=found,
        items_sha256=items,
        scores_sha256=None,
        dtype=dtype,
        tasks=list(tasks),
        metrics=[],
        environment=environment,
    )


REPORTS = {
    "base": report("base"),
    "champion": report("champion", None, None),
    "best": report("best", None, None),
    "candidate": report("candidate"),
}
ALL_REPORTS = REPORTS | {"champion": report("champion")}


def column(values: Any, prefix: str = "item", better: bool = True, **slices: Any) -> ItemScores:
    names = [f"{prefix}-{index}" for index in range(len(values))]
    return ItemScores.of(names, names, values, better, slices)


def general(n: int = 300, losses: int = 0, wins: int = 0) -> dict[str, Any]:
    """0/1 scores of each task; the reference is right on the first half."""
    right = np.arange(n) < n // 2
    values = right.astype(float)
    values[:losses] = 0
    values[n - wins :] = 1
    return dict.fromkeys(TASKS, values)


def scored(level: float = 0.8, n: int = 240, acc: dict[str, Any] | None = None, **metrics: Any) -> Scores:
    """A model whose replies score around `level`, all other metrics perfect unless given."""
    guideline = np.clip(level + np.resize([-0.2, 0.2, -0.1, 0.1], n), 0, 1)
    target = {"guideline_score": guideline} | dict.fromkeys(SECTION.smoke, np.ones(n)) | metrics
    scores = {("target", "target", name): column(values) for name, values in target.items()}
    scores["target", "target_loss", "reply_loss"] = column(np.full(n, 3 - 2 * level), better=False)
    return scores | {("general", task, "acc"): column(values, task) for task, values in (acc or general()).items()}


def judge(
    candidate: Scores,
    base: Scores | None = None,
    champion: Scores | None = None,
    section: Gate = SECTION,
    best: Scores | None = None,
    tasks: Sequence[SuiteTask] = tuple(map(suite_task, TASKS)),
) -> GateDecision:
    base = scored(0.2) if base is None else base
    scores = {"base": base, "champion": champion or {}, "best": best or {}, "candidate": candidate}
    absent = {role for role, found in (("champion", champion), ("best", best)) if not found}
    names: tuple[Role, ...] = ("base", "champion", "best", "candidate")
    reports: dict[str, EvalReport] = {
        role: report(role, None, None) if role in absent else report(role, tasks=tasks) for role in names
    }
    return decide(section, reports, scores, {"champion": "v3" if champion else None, "best": "v1" if best else None})


def rules(decision: GateDecision) -> dict[str, RuleResult]:
    return {rule.rule: rule for rule in decision.rules}


def changed(**sections: Any) -> Gate:
    tree = SECTION.model_dump() | {"bootstrap_draws": 1000}
    return Gate.model_validate(tree | sections).model_copy(update=FEW_DRAWS)


def wanted(metric: str = "guideline_score", min_gain: float = 0.2, floor: float = 0.5) -> dict[str, Any]:
    return {metric: {"min_gain": min_gain, "floor": floor}}


def test_a_good_first_run_passes_without_a_champion() -> None:
    decision = judge(scored())
    assert decision.verdict == "PASS", decision.reasons()
    assert list(rules(decision)) == [
        "integrity", "learned/guideline_score", "kept", "kept/facts", "kept/grammar", "kept/meaning",
        "smoke/stops", "smoke/nonempty", "smoke/no_repetition", "smoke/structure", "wear",
    ]  # fmt: skip
    assert (decision.champion_version, decision.champion_digest) == (None, None)
    assert (decision.candidate_digest, decision.base_digest) == ("candidate-digest", "base-digest")


@pytest.mark.parametrize(("before", "worn"), [(0, False), (2, False), (3, True), (40, True)])
def test_worn_items_are_told_and_decide_nothing(before: int, worn: bool) -> None:
    scores = {"base": scored(0.2), "champion": {}, "candidate": scored()}
    decision = decide(SECTION, REPORTS, scores, judged_before=before)
    rule = rules(decision)["wear"]
    assert (decision.verdict, rule.verdict, rule.n) == ("PASS", "PASS", before)
    assert rule.reason.startswith(f"these target items have judged {before} other candidates, of 3 ")
    assert ("they are worn" in rule.reason) is worn


def test_a_first_run_still_needs_the_rest() -> None:
    assert judge(scored(0.2)).verdict == "FAIL"
    assert judge(scored(stops=np.zeros(240))).verdict == "FAIL"


def test_an_absent_champion_may_be_left_out() -> None:
    reports = {role: REPORTS[role] for role in ("base", "candidate")}
    assert decide(SECTION, reports, {"base": scored(0.2), "candidate": scored()}) == judge(scored())


def test_the_same_input_gives_the_same_decision_in_any_order() -> None:
    generator = np.random.default_rng(0)
    candidate = scored(acc=general(losses=3, wins=4))
    mixed = {}
    for key in generator.permutation(np.array([*candidate], dtype=str)).tolist():
        was = candidate[tuple(key)]
        order = generator.permutation(len(was.items))
        mixed[tuple(key)] = ItemScores.of(was.items[order], was.clusters[order], was.values[order], was.higher_is_better)
    assert judge(mixed, champion=scored(0.7)) == judge(candidate, champion=scored(0.7))


@pytest.mark.parametrize("level", [0.2, 0.4])
def test_a_tie_or_a_gain_just_at_the_threshold_is_not_better(level: float) -> None:
    learned = rules(judge(scored(level), section=changed(learned=wanted(floor=0.0))))["learned/guideline_score"]
    assert learned.verdict == "FAIL"
    assert "missed already" in learned.reason


def test_a_tie_does_not_pass_even_with_no_gain_wanted() -> None:
    decision = judge(scored(0.6), base=scored(0.6), section=changed(learned=wanted(min_gain=0.0)))
    assert rules(decision)["learned/guideline_score"].verdict == "FAIL"


def test_a_floor_is_reached_or_the_rule_fails() -> None:
    learned = rules(judge(scored(0.8), section=changed(learned=wanted(floor=0.9))))["learned/guideline_score"]
    assert learned.verdict == "FAIL"
    assert "floor 90.0 % is not reached" in learned.reason
    assert rules(judge(scored(0.8), section=changed(learned=wanted(floor=0.8))))["learned/guideline_score"].verdict == "PASS"


def test_a_lower_is_better_metric_is_turned() -> None:
    section = changed(learned=wanted("reply_loss", floor=1.0))
    candidate, base = scored(), scored()
    noise = np.random.default_rng(0).normal(0, 0.2, 240)
    for scores, level in ((candidate, 0.5), (base, 2.5)):
        scores["target", "target_loss", "reply_loss"] = column(level + noise * level, better=False)
    learned = rules(judge(candidate, base, section=section))["learned/reply_loss"]
    assert learned.verdict == "PASS"
    assert learned.value == pytest.approx(2.0, abs=0.1)
    assert "pp" not in learned.reason
    assert rules(judge(base, candidate, section=section))["learned/reply_loss"].verdict == "FAIL"


def test_kept_distinguishes_fail_from_inconclusive() -> None:
    passed, open_, failed = (rules(judge(scored(acc=general(losses=losses))))["kept"] for losses in (0, 7, 9))
    assert [passed.verdict, open_.verdict, failed.verdict] == ["PASS", "INCONCLUSIVE", "FAIL"]
    assert failed.value == pytest.approx(-0.03)  # just at the margin
    assert "some" in open_.reason
    assert "items would" in open_.reason
    assert "an unchanged model would pass" in passed.reason
    assert judge(scored(acc=general(losses=7))).verdict == "INCONCLUSIVE"


def test_one_collapsed_ability_cannot_hide_in_the_mean() -> None:
    collapsed = general(600, wins=40) | {"grammar": general(600, losses=80)["grammar"]}
    decision = judge(scored(acc=collapsed), base=scored(0.2, acc=general(600)))
    assert rules(decision)["kept"].verdict == "PASS"
    assert rules(decision)["kept/grammar"].verdict == "FAIL"
    assert decision.verdict == "FAIL"


@pytest.mark.parametrize(("champion", "verdict"), [(0.7, "PASS"), (0.79, "INCONCLUSIVE"), (0.8, "FAIL"), (0.9, "FAIL")])
def test_where_it_must_be_better_a_tie_is_not(champion: float, verdict: str) -> None:
    better = SECTION.model_copy(update={"champion": SECTION.champion.model_copy(update={"promote_if": "better"})})
    noisy = np.clip(0.8 + np.linspace(-0.2, 0.2, 240)[::-1], 0, 1)
    ours, theirs = scored(guideline_score=noisy), scored(guideline_score=np.clip(champion + np.linspace(-0.1, 0.1, 240), 0, 1))
    rule = rules(judge(ours, champion=theirs, section=better))["champion/guideline_score"]
    assert (rule.verdict, rule.threshold) == (verdict, 0.0)


@pytest.mark.parametrize(("champion", "verdict"), [(0.75, "PASS"), (0.8, "PASS"), (0.84, "INCONCLUSIVE"), (0.9, "FAIL")])
def test_the_champion_may_be_at_most_a_margin_better(champion: float, verdict: str) -> None:
    generator = np.random.default_rng(1)
    noisy = np.clip(0.8 + generator.permutation(np.linspace(-0.2, 0.2, 240)), 0, 1)
    decision = judge(
        scored(guideline_score=noisy), champion=scored(guideline_score=np.clip(champion + np.linspace(-0.1, 0.1, 240), 0, 1))
    )
    assert rules(decision)["champion/guideline_score"].verdict == verdict
    assert (decision.verdict, decision.champion_version, decision.champion_digest) == (verdict, "v3", "champion-digest")


@pytest.mark.parametrize(("best", "verdict"), [(0.8, "PASS"), (0.85, "PASS"), (0.87, "INCONCLUSIVE"), (0.9, "FAIL")])
def test_small_losses_must_not_add_up_to_a_large_one(best: float, verdict: str) -> None:
    """Each version a little worse than the one before it would pass against the champion for ever."""
    generator = np.random.default_rng(1)
    noisy = np.clip(0.8 + generator.permutation(np.linspace(-0.2, 0.2, 240)), 0, 1)
    champion, former = (scored(guideline_score=np.clip(mean + np.linspace(-0.1, 0.1, 240), 0, 1)) for mean in (0.8, best))
    decision = judge(scored(guideline_score=noisy), champion=champion, best=former)
    assert rules(decision)["champion/guideline_score"].verdict == "PASS"
    assert (rules(decision)["best/guideline_score"].verdict, decision.verdict) == (verdict, verdict)
    assert (decision.best_version, decision.is_best) == ("v1", best == 0.8)


@pytest.mark.parametrize(("champion", "is_best"), [(None, True), (0.79, True), (0.8, True), (0.81, False)])
def test_what_is_as_good_as_the_best_becomes_the_best(champion: float | None, is_best: bool) -> None:
    decision = judge(scored(0.8), champion=None if champion is None else scored(champion))
    assert (decision.best_version, decision.is_best) == ("v3" if champion else None, is_best)
    assert judge(broken("NaN")).is_best is False


def sliced(lost: float, n: int = 30, spread: float = 0.1) -> Scores:
    """240 replies of which the first `n` are on refunds, where the score is lower by `lost`."""
    topic = np.where(np.arange(240) < n, "refunds", "delivery")
    noise = np.random.default_rng(2).normal(0, spread, 240)
    values = np.clip(0.8 + noise - np.where(topic == "refunds", lost, 0), 0, 1)
    scores = scored(guideline_score=values)
    scores["target", "target", "guideline_score"] = column(values, topic=topic, length=np.full(240, "short"))
    return scores


@pytest.mark.parametrize(
    ("lost", "n", "spread", "verdict"),
    [(0.3, 30, 0.1, "FAIL"), (0.1, 30, 0.1, "PASS"), (0.3, 19, 0.1, "PASS"), (0.0, 30, 0.1, "PASS")],
)
def test_a_slice_that_surely_lost_stops_the_candidate(lost: float, n: int, spread: float, verdict: str) -> None:
    champion = scored(0.8)
    champion["target", "target", "guideline_score"] = sliced(0.0, n, 0.0)["target", "target", "guideline_score"]
    lenient = changed(champion={"promote_if": "not_worse", "margin": 0.5})
    decision = judge(sliced(lost, n, spread), champion=champion, section=lenient)
    rule = rules(decision)["slices/topic"]
    assert (rule.verdict, decision.verdict) == (verdict, verdict)
    assert ("1 of 2 slices surely lost more than 15.0 pp against champion; the worst: refunds -" in rule.reason) is (
        verdict == "FAIL"
    )
    assert ("1 more have fewer than 20 items" in rule.reason) is (n == 19)
    assert "slices/length" not in rules(decision), "all replies are of one length"


def test_a_few_bad_replies_of_a_small_slice_are_chance() -> None:
    """4 of 20, more than the margin: so much happens to one of many slices."""
    topic, champion = np.where(np.arange(240) < 20, "refunds", "delivery"), scored()
    champion["target", "target", "guideline_score"] = column(np.ones(240), topic=topic)
    for bad, verdict in ((4, "PASS"), (12, "FAIL")):
        candidate = scored()
        candidate["target", "target", "guideline_score"] = column((np.arange(240) >= bad).astype(float), topic=topic)
        rule = rules(judge(candidate, champion=champion))["slices/topic"]
        assert (rule.verdict, rule.value) == (verdict, -bad / 20)


def test_a_slice_by_a_loss_is_told_in_its_own_unit() -> None:
    topic = np.where(np.arange(240) < 40, "refunds", "delivery")
    base, candidate = scored(0.2), scored()
    losses = 1.0 + np.arange(240) % 2  # the widest gap is just 1
    base["target", "target_loss", "reply_loss"] = column(losses, better=False, topic=topic)
    candidate["target", "target_loss", "reply_loss"] = column(losses + 0.4 * (topic == "refunds"), better=False, topic=topic)
    section = changed(learned=wanted("reply_loss", floor=9) | wanted(), slices={"by": ["topic"], "min_items": 20, "margin": 0.2})
    rule = rules(judge(candidate, base=base, section=section))["slices/topic"]
    assert (rule.verdict, rule.unit) == ("FAIL", "number")
    assert "surely lost more than 0.200 against base; the worst: refunds -0.400 on 40 items" in rule.reason


def test_slices_are_compared_with_the_base_while_nothing_is_published() -> None:
    base = sliced(-0.1)
    decision = judge(sliced(0.5), base=base, section=changed(learned=wanted(min_gain=0.0, floor=0.0)))
    assert rules(decision)["slices/topic"].verdict == "FAIL"
    assert "against base" in rules(decision)["slices/topic"].reason


def quiz(level: float, n: int = 200) -> Scores:
    values = (np.arange(n) % 100 < level * 100).astype(float)
    return {("target", "quiz_a", "acc"): column(values, "a"), ("target", "quiz_b", "exact_match,strict"): column(values, "b")}


@pytest.mark.parametrize(("level", "verdict"), [(0.9, "PASS"), (0.7, "FAIL"), (0.5, "FAIL")])
def test_a_target_task_must_be_learned_too(level: float, verdict: str) -> None:
    tasks = [
        *map(suite_task, TASKS),
        suite_task("quiz_a", suite="target", entry="quiz"),
        suite_task("quiz_b", suite="target", entry="quiz", metric="exact_match,strict"),
    ]
    section = changed(learned=wanted() | wanted("quiz", floor=0.8))
    decision = judge(scored() | quiz(level), base=scored(0.2) | quiz(0.4), section=section, tasks=tasks)
    rule = rules(decision)["learned/quiz"]
    assert (rule.verdict, rule.n, decision.verdict) == (verdict, 400, verdict)
    assert rules(decision)["learned/guideline_score"].verdict == "PASS"


def test_a_general_task_has_the_metric_that_its_report_names() -> None:
    other = {("general", "maths", "exact_match,strict"): column(np.ones(300), "m")}
    tasks = [*map(suite_task, TASKS), suite_task("maths", metric="exact_match,strict")]
    worse = {("general", "maths", "exact_match,strict"): column(np.zeros(300), "m")}
    found = rules(judge(scored() | worse, base=scored(0.2) | other, tasks=tasks))
    assert (found["kept/maths"].verdict, found["kept"].verdict, found["kept"].n) == ("FAIL", "FAIL", 1200)
    assert found["kept"].reason.startswith("general suite -25.0 pp")


def test_a_general_score_that_is_no_share_is_refused() -> None:
    scores = scored() | {("general", "facts", "acc"): column(np.full(300, 7.0), "facts")}
    (rule,) = judge(scores, base=scores).rules
    assert "facts/acc is no share between 0 and 1" in rule.reason


def test_what_was_limited_is_said_aloud() -> None:
    tasks = [suite_task("facts", limit=300), *map(suite_task, TASKS[1:])]
    integrity = rules(judge(scored(), tasks=tasks))["integrity"]
    assert integrity.reason.endswith("; LIMITED: facts to 300 items, so what is said of them holds for these only")


@pytest.mark.parametrize(
    ("metric", "bad", "passes"),
    [("stops", 12, True), ("stops", 13, False), ("structure", 24, True), ("structure", 25, False), ("nonempty", 0, True),
     ("nonempty", 1, False), ("no_repetition", 12, True), ("no_repetition", 13, False)],
)  # fmt: skip
def test_smoke_rules_at_their_edges(metric: str, bad: int, passes: bool) -> None:
    metrics: dict[str, Any] = {metric: (np.arange(240) >= bad).astype(float)}
    decision = judge(scored(**metrics))
    assert rules(decision)[f"smoke/{metric}"].verdict == ("PASS" if passes else "FAIL")


def broken(how: str) -> Scores:
    scores = scored()
    key = ("target", "target", "guideline_score")
    was = scores[key]
    match how:
        case "NaN":
            scores[key] = column(np.where(np.arange(240) == 3, np.nan, 0.8))
        case "infinite":
            scores["target", "target_loss", "reply_loss"] = column(np.full(240, np.inf), better=False)
        case "missing metric":
            del scores[key]
        case "missing smoke metric":
            del scores["target", "target", "stops"]
        case "missing for some items":
            scores["target", "target", "stops"] = column(np.ones(239))
        case "missing task":
            del scores["general", "facts", "acc"]
        case "no general task":
            scores = {name: part for name, part in scores.items() if name[0] == "target"}
        case "other items":
            scores[key] = column(was.values, "other")
        case "other clusters":
            scores[key] = dataclasses.replace(was, clusters=was.clusters[::-1])
        case "other direction":
            scores[key] = dataclasses.replace(was, higher_is_better=False)
        case "twice":
            scores[key] = ItemScores.of([*was.items, was.items[0]], [*was.clusters, "x"], [*was.values, 0.5])
        case "nothing":
            scores = {}
    return scores


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("NaN", "1 scores are not finite"),
        ("infinite", "240 scores are not finite"),
        ("missing metric", "the metric target/guideline_score is missing"),
        ("missing smoke metric", "the metric target/stops is missing"),
        ("missing for some items", "target/stops is missing for 1 of 240 items"),
        ("missing task", "candidate lacks general/facts/acc"),
        ("no general task", "the metric facts/acc is missing"),
        ("other items", "different items"),
        ("other clusters", "different items, clusters"),
        ("other direction", "direction"),
        ("twice", "1 items are scored twice"),
        ("nothing", "the metric target/guideline_score is missing"),
    ],
)
def test_scores_that_cannot_be_compared_fail(how: str, words: str) -> None:
    decision = judge(broken(how))
    assert decision.verdict == "FAIL"
    assert [rule.rule for rule in decision.rules] == ["integrity"]
    assert words in decision.rules[0].reason
    assert judge(scored(), champion=broken(how) or {("general", "x", "acc"): column([1.0])}).verdict == "FAIL"


def test_a_metric_that_every_model_lacks_is_a_fail() -> None:
    decision = judge(broken("missing metric"), base=broken("missing metric"))
    assert decision.verdict == "FAIL"
    assert "guideline_score is missing" in decision.rules[0].reason


@pytest.mark.parametrize(
    "change",
    [
        {"items": "j" * 64},
        {"dtype": "bfloat16"},
        {"environment": ENVIRONMENT.model_copy(update={"device": "cuda"})},
        {"environment": ENVIRONMENT.model_copy(update={"packages": {"lm_eval": "0.3", "trl": "2.0"}})},
    ],
)
def test_other_items_or_conditions_cannot_be_compared(change: dict[str, Any]) -> None:
    reports = ALL_REPORTS | {"champion": report("champion", **change)}
    decision = decide(SECTION, reports, {"base": scored(0.2), "champion": scored(0.7), "candidate": scored()})
    assert decision.verdict == "FAIL"
    assert "differs: base" in decision.rules[0].reason


@pytest.mark.parametrize("role", ["base", "candidate"])
def test_without_base_or_candidate_there_is_nothing_to_judge(role: Role) -> None:
    with pytest.raises(StageInputError, match=f"evaluate@{role}"):
        decide(SECTION, REPORTS | {role: report(role, None, None)}, {"base": scored(0.2), "candidate": scored()})


@pytest.mark.parametrize(("n", "each"), [(99, 100), (100, 99), (1, 1)])
def test_too_few_items_are_inconclusive_and_never_pass(n: int, each: int) -> None:
    decision = judge(scored(n=n, acc=general(each)), base=scored(0.2, n=n, acc=general(each)))
    assert rules(decision)["integrity"].verdict == "INCONCLUSIVE"
    assert "wanted at least" in rules(decision)["integrity"].reason
    assert decision.verdict == "INCONCLUSIVE"


def test_one_item_suites_do_not_pass_even_if_allowed() -> None:
    section = SECTION.model_copy(update={"min_target_items": 1, "min_general_items": 1})
    one, zero, acc = np.ones(1), np.zeros(1), {"facts": np.ones(1)}
    good, bad = scored(n=1, acc=acc, guideline_score=one), scored(n=1, acc=acc, guideline_score=zero)
    decision = judge(good, bad, section=section, tasks=[suite_task("facts")])
    assert (rules(decision)["integrity"].verdict, decision.verdict) == ("PASS", "INCONCLUSIVE")


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.6), st.integers(0, 12))
def test_better_scores_never_turn_pass_into_fail(seed: int, level: float, losses: int) -> None:
    generator = np.random.default_rng(seed)
    values = np.clip(level + generator.normal(0.2, 0.2, 240), 0, 1)
    better = np.clip(values + generator.choice([0.0, 0.3], 240), 0, 1)
    before = judge(scored(guideline_score=values, acc=general(losses=losses)), champion=scored(0.5))
    after = judge(scored(guideline_score=better, acc=general(losses=max(0, losses - 2))), champion=scored(0.5))
    rank = ("FAIL", "INCONCLUSIVE", "PASS")
    assert rank.index(after.verdict) >= rank.index(before.verdict)


def test_many_items_are_judged() -> None:
    n = 24_000
    acc = general(n // 4)
    decision = judge(scored(n=n // 4, acc=acc), base=scored(0.2, n=n // 4, acc=acc))
    assert decision.verdict == "PASS"
    assert rules(decision)["kept"].n == 18_000


def test_reasons_give_figures_in_points_also_when_they_pass() -> None:
    found = rules(judge(scored(), champion=scored(0.8)))
    assert "guideline_score +60.0 pp against base (20.0 % -> 80.0 %) on 240 items" in found["learned/guideline_score"].reason
    for name in ("learned/guideline_score", "kept", "kept/facts", "champion/guideline_score"):
        assert " pp against " in found[name].reason
        assert "with 95 % confidence at least" in found[name].reason
        assert ", wanted more than " in found[name].reason
    assert found["smoke/nonempty"].reason == "100.0 % of 240 replies are not empty, wanted all"


def test_texts_mention_every_rule_and_cannot_be_broken_by_names() -> None:
    odd = {"a|b\n<c>": general()["facts"]}
    section = SECTION.model_copy(update={"min_general_items": 100})
    decisions = [
        judge(scored(), champion=scored(0.8)),
        judge(scored(0.2, stops=np.zeros(240))),
        judge(broken("NaN")),
        judge(scored(acc=odd), base=scored(0.2, acc=odd), section=section, tasks=[suite_task("a|b\n<c>")]),
    ]
    for decision, rule in itertools.chain.from_iterable(((d, rule) for rule in d.rules) for d in decisions):
        assert rule.reason in explain(decision)
        assert decision.verdict in explain(decision).splitlines()[0]
    for decision in decisions:
        lines = markdown(decision).splitlines()
        table = [line for line in lines if line.startswith("|")]
        assert len(table) == len(decision.rules) + 2
        assert {line.replace("\\|", "").count("|") for line in table} == {8}
        assert lines[-1] == table[-1]
        assert "<c>" not in markdown(decision)
    assert "champion v3" in explain(decisions[0])
    assert "champion none yet" in explain(decisions[1])
