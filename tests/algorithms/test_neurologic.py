"""The search against all texts of a toy language model: 7 tokens, the next by the last two."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

np = pytest.importorskip("numpy")
from distillgen.algorithms.clauses import Clause, Clauses  # noqa: E402
from distillgen.algorithms.neurologic import Settings, Vocabulary, search, together  # noqa: E402

WORDS = ["", " a", " b", " c", " d", " e", " f"]
VOCABULARY = Vocabulary(
    text=WORDS.__getitem__,
    tokens=lambda text: [WORDS.index(f" {word}") for word in text.split() if f" {word}" in WORDS],
    decode=lambda tokens: "".join(WORDS[token] for token in tokens),
    ends={0},
)
LENGTH = 4
PLAIN = {"tolerance": 9, "prune": None, "beta": 1.25, "early_stop": 10.0, "ngram": 0, "length_penalty": 0.2}


def settings(beam: int, **options) -> Settings:
    return Settings(
        **{"beam": beam, "per_bucket": "best", "buckets": "met", "min_tokens": 0, **PLAIN, **options}
    )


class Toy:
    """A random table of log-probabilities; it counts the prefixes that it is asked for."""

    def __init__(self, seed: int) -> None:
        table = np.random.default_rng(seed).normal(size=(7, 7, 7)) * 1.5
        self.table = table - np.log(np.exp(table).sum(-1, keepdims=True))
        self.calls = 0

    def after(self, prefix: Sequence[int]):
        self.calls += 1
        return self.table[(0, 0, *prefix)[-2], (0, 0, *prefix)[-1]]

    def best(self, clauses: Sequence[Clause], **options) -> list:
        run = search(Clauses(clauses), VOCABULARY, settings(**options), max_tokens=LENGTH)
        return self.run([run])[0]

    def run(self, searches) -> list:
        results = together(searches, lambda rows, known: np.array([self.after(prefix) for _, prefix in rows]))
        return [[answer for answer in result.answers if answer.complete] for result in results]

    def texts(self):
        """All texts that end within LENGTH tokens, with their log-probabilities."""
        rows = [((), 0.0)]
        for _ in range(LENGTH):
            longer = []
            for tokens, score in rows:
                values = self.after(tokens)
                yield (*tokens, 0), score + values[0]
                longer += [((*tokens, t), score + values[t]) for t in range(1, 7)]
            rows = longer


def some_clauses(seed: int) -> list[Clause]:
    draw, clauses = random.Random(seed), []
    for _ in range(draw.randint(1, 4)):
        phrases = [" ".join(draw.choices("abcdef", k=draw.randint(1, 2))) for _ in range(draw.randint(1, 2))]
        least, most = draw.choice([(1, None), (1, None), (0, 0), (0, 1), (2, None)])
        clauses.append(Clause(tuple(phrases), least, most))
    return clauses


def meets(clauses: Sequence[Clause], tokens: Sequence[int]) -> bool:
    """Whether a text meets the clauses, by counting in the text itself."""
    text = "".join(WORDS[token] for token in tokens) + " "
    counts = [
        sum(text.startswith(f" {phrase} ", at) for phrase in {*clause.phrases} for at in range(len(text)))
        for clause in clauses
    ]
    return all(
        clause.at_least <= count <= (math.inf if clause.at_most is None else clause.at_most)
        for clause, count in zip(clauses, counts, strict=True)
    )


def test_a_beam_as_wide_as_the_space_finds_the_best_text_60_times_of_60():
    for seed in range(60):
        toy, clauses = Toy(seed), some_clauses(seed)
        space = [(score / len(t) ** 0.2, t) for t, score in toy.texts() if meets(clauses, t)]
        answers = toy.best(clauses, beam=6 ** (LENGTH - 1) * 7)
        assert [answer.tokens for answer in answers[:1]] == [tokens for _, tokens in sorted(space)[-1:]], seed
        assert all(meets(clauses, answer.tokens) for answer in answers)


def drawn(toy: Toy, rng: random.Random, *, greedy: bool) -> tuple[int, ...]:
    tokens: tuple[int, ...] = ()
    while len(tokens) < LENGTH and tokens[-1:] != (0,):
        values = toy.after(tokens)
        token = int(values.argmax()) if greedy else rng.choices(range(7), np.exp(values))[0]
        tokens = (*tokens, token)
    return tokens


def test_a_narrow_beam_meets_three_of_four_and_more_than_rejection_at_the_same_cost():
    possible = met = by_rejection = 0
    for seed in range(120):
        toy, clauses = Toy(seed), some_clauses(seed)
        if not any(meets(clauses, tokens) for tokens, _ in toy.texts()):
            continue
        possible += 1
        toy.calls = 0
        answers = toy.best(clauses, beam=4, tolerance=2)
        met += bool(answers)
        assert all(meets(clauses, answer.tokens) for answer in answers)
        calls, toy.calls, rng, samples = toy.calls, 0, random.Random(seed), list[tuple[int, ...]]()
        while toy.calls < calls:
            samples.append(drawn(toy, rng, greedy=not samples))
        by_rejection += any(tokens[-1] == 0 and meets(clauses, tokens) for tokens in samples)
    assert met >= 0.75 * possible
    assert by_rejection < 0.75 * possible, (met, by_rejection, possible)


def test_the_order_of_the_clauses_makes_no_difference_and_a_batch_neither():
    for seed in range(20):
        toy, clauses = Toy(seed), some_clauses(seed)
        alone = toy.best(clauses, beam=4, tolerance=1)
        shuffled = random.Random(seed).sample(clauses, len(clauses))
        assert toy.best(shuffled, beam=4, tolerance=1) == alone
        others = [
            search(Clauses(some_clauses(i)), VOCABULARY, settings(beam=3), max_tokens=i + 1) for i in range(7)
        ]
        this = search(Clauses(clauses), VOCABULARY, settings(beam=4, tolerance=1), max_tokens=LENGTH)
        assert toy.run([*others[:3], this, *others[3:]])[3] == alone


def test_ordered_clauses_are_met_in_their_order():
    clauses = [Clause(("a",), 1), Clause(("b",), 1)]
    for seed in range(10):
        run = search(Clauses(clauses, ordered=True), VOCABULARY, settings(beam=30), max_tokens=LENGTH)
        answers = Toy(seed).run([run])[0]
        assert answers and all(answer.text.rindex("b") > answer.text.index("a") for answer in answers)
        assert any(
            "b" in a.text and a.text.index("b") < a.text.index("a") for a in Toy(seed).best(clauses, beam=300)
        )


def test_uniform_draws_inside_a_bucket_differ_by_their_seed_only():
    def answers(seed):
        run = search(
            Clauses([Clause(("a",), 1)]), VOCABULARY, settings(beam=3, per_bucket="sample"),
            max_tokens=LENGTH, seed=seed,
        )  # fmt: skip
        return Toy(0).run([run])[0]

    assert answers(1) == answers(1)
    assert len({tuple(answers(seed)) for seed in range(8)}) > 4
    assert all(meets([Clause(("a",), 1)], answer.tokens) for seed in range(8) for answer in answers(seed))


SLOPE = np.log(np.array([0.01, 0.4, 0.25, 0.15, 0.1, 0.05, 0.04]))  # end, then a to f, each less likely


def beams(clauses: Sequence[Clause], steps: int = 1, *, ordered=False, **options) -> list[tuple[int, ...]]:
    """The beam after some steps of a model whose next token depends on nothing."""
    run = search(Clauses(clauses, ordered=ordered), VOCABULARY, settings(**options), max_tokens=9)
    prefixes = next(run).prefixes
    for _ in range(steps):
        prefixes = run.send(np.array([SLOPE] * len(prefixes))).prefixes
    return list(prefixes)


def test_a_token_for_a_clause_is_a_candidate_unless_its_rank_is_pruned():
    clause = [Clause(("f",), 1)]
    assert beams(clause, beam=2) == [(1,), (6,)]
    assert beams([], beam=2) == [(1,), (2,)]
    # the end cannot come yet, so that f is the sixth of the tokens
    assert beams(clause, beam=2, prune=7) == [(1,), (6,)] and beams(clause, beam=2, prune=6) == [(1,), (2,)]


def test_only_the_clause_whose_turn_it_is_has_candidates_and_the_likeliest_tokens_are_never_pruned():
    clauses = [Clause(("e",), 1), Clause(("f",), 1)]
    assert beams(clauses, beam=3, ordered=True) == [(1,), (2,), (5,)]
    assert beams([], beam=3, prune=2) == [(1,), (2,), (3,)]


def answers_of(values, vocabulary=VOCABULARY, max_tokens=LENGTH, stops=(), **options) -> list:
    run = search(Clauses([]), vocabulary, settings(**options), max_tokens=max_tokens, stops=stops)
    return [*together([run], lambda rows, known: np.array([np.log(values)] * len(rows)))[0].answers]


def test_a_search_goes_on_while_a_longer_text_may_be_better():
    (answer,) = answers_of([0.5, 0.4, 0.02, 0.02, 0.02, 0.02, 0.02], beam=1, length_penalty=2.0)
    assert answer.tokens == (1, 1, 1, 0)


def test_no_text_is_an_answer_twice_and_a_stop_text_may_have_several_tokens():
    two_ends = replace(VOCABULARY, ends={0, 6})
    texts = [answer.text for answer in answers_of([0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1], two_ends, beam=20)]
    assert len(texts) == len({*texts}) == 20
    stopped = answers_of([0.05, 0.4, 0.4, 0.05, 0.05, 0.03, 0.02], beam=100, stops=["a b"])
    assert any(answer.complete and answer.tokens[-2:] == (1, 2) for answer in stopped)
    assert not any("a b" in answer.text for answer in stopped)


def test_a_phrase_that_is_begun_ranks_higher_by_beta():
    clause = [Clause(("b c",), 1)]
    assert beams(clause, beam=1) == [(2,)] and beams(clause, beam=1, beta=0.0) == [(1,)]
    assert beams([Clause(("b c",), at_most=0)], beam=1) == [(1,)]
    assert beams([Clause(("e",), 1), *clause], beam=1, ordered=True) == [(1,)], "it is not its turn"
    assert beams([Clause(("e",), 1), *clause], beam=2, ordered=True) == [(1,), (5,)], "also where b may come"
    # after b c, of b c d two thirds are there, and of c d e f a fourth: b b, with a third, ranks higher
    assert beams([Clause(("b c d", "c d e f"), 1)], 2, beam=1) == [(2, 2)]
    assert beams([Clause(("b zebra c",), 1)], beam=1) == [(1,)], "the model has no tokens for the phrase"


def test_tolerance_and_buckets_decide_which_clauses_the_beam_has_met():
    clauses = [Clause(("e",), 1), Clause(("f",), 1)]
    assert beams(clauses, beam=3) == [(1,), (5,), (6,)]
    assert beams(clauses, beam=3, tolerance=0) == [(5,), (6,)]
    after = beams(clauses, 2, beam=3, tolerance=0)
    assert after and all({*tokens} == {5, 6} for tokens in after)


def test_buckets_of_progress_keep_a_place_for_texts_that_begin_a_phrase():
    """Of d and f, each begins a phrase of a clause; f alone begins one of the second."""
    clauses = [Clause(("d e",), 1), Clause(("f e",), 1)]
    plain = {"beam": 3, "beta": 0.0}
    assert beams(clauses, **plain) == [(1,), (2,), (3,)]
    assert beams(clauses, buckets="progress", **plain) == [(1,), (4,), (6,)]
    assert beams(clauses, buckets="progress", ordered=True, **plain) == [(1,), (2,), (4,)]
    whole = [Clause(("d",), 1), Clause(("e f",), 1)]  # one is met, one is begun
    assert beams(whole, buckets="progress", **plain) == [(1,), (4,), (5,)]


def test_an_end_counts_from_a_likelihood_on():
    def ended(**options):
        run = search(Clauses([]), VOCABULARY, settings(beam=2, **options), max_tokens=1)
        return [
            a.tokens for a in together([run], lambda rows, known: np.array([SLOPE]))[0].answers if a.complete
        ]

    assert ended(early_stop=3.5) == [(0,)] and ended(early_stop=3.0) == ended(early_stop=0.0) == []


def test_limits_of_an_answer():
    toy, clause = Toy(3), [Clause(("a",), 1)]
    assert min(len(a.tokens) for a in toy.best(clause, beam=300)) == 2
    assert min(len(a.tokens) for a in toy.best(clause, beam=300, min_tokens=4)) == 4
    assert any(t in a.tokens[a.tokens.index(t) + 1 :] for a in toy.best([], beam=300) for t in a.tokens[:-1])
    once = toy.best([], beam=300, ngram=1)
    assert once and all(len({*a.tokens}) == len(a.tokens) for a in once)
    run = search(Clauses(clause), VOCABULARY, settings(beam=30), max_tokens=LENGTH, stops=["c"])
    stopped = toy.run([run])[0]
    assert any(a.tokens[-1] == 3 for a in stopped) and not any("c" in a.text for a in stopped)
    assert all("a" in a.text for a in stopped)


def test_a_dead_end_names_its_clause():
    def result(*clauses):
        run = search(Clauses(clauses), VOCABULARY, settings(beam=4), max_tokens=LENGTH)
        return together([run], lambda rows, known: np.array([Toy(0).after(prefix) for _, prefix in rows]))[0]

    impossible = result(Clause(("a",), 1), Clause(("b c d e f",), 1))
    assert impossible.answers == [] and impossible.reason == (
        "the search met no text with clause 2, at least 1 of 'b c d e f'"
    )
    banned = result(Clause(("a", "b", "c", "d", "e", "f"), at_most=0), Clause(("a",), 1))
    assert not banned.answers and "clause 2, at least 1 of 'a'" in banned.reason


MANY = ["", *(f" {a}{b}" for a in "abcdef" for b in "uvwxyz")]
OF_MANY = Vocabulary(
    text=MANY.__getitem__,
    tokens=lambda text: [MANY.index(f" {word}") for word in text.split() if f" {word}" in MANY],
    decode=lambda tokens: "".join(MANY[token] for token in tokens),
    ends={0},
)


def two_searches(seed: int, *, unknown=None, prune=True):
    """The results of two random searches side by side, over 37 tokens, and how many tokens they asked for.

    With `unknown`, only the likeliest tokens that a search asks for have their log-probabilities.
    """
    draw = random.Random(seed)
    table = np.random.default_rng(seed).normal(size=(37, 37)) * draw.choice([1, 3])
    table = np.round(table) if seed % 2 else table
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    tops = []

    def logprobs(rows, top):
        tops.append(top)
        values = np.array([table[prefix[-1] if prefix else 0] for _, prefix in rows])
        for row in values if unknown is not None else ():
            row[np.argsort(-row, kind="stable")[top:]] = unknown
        return values

    searches = []
    for beam in (draw.randint(1, 3), draw.randint(2, 5)):
        words = draw.sample([word.strip() for word in MANY[1:]], draw.randint(9, 35))
        clauses = [Clause(tuple(words[:6]), 1), Clause((words[6],), 1), Clause(tuple(words[7:]), 0, 0)]
        options = settings(
            beam,
            prune=draw.randint(2, 12) if prune else None,
            beta=draw.choice([0.0, 1.25]),
            early_stop=draw.choice([0.0, 1.0, 3.0]),
            ngram=draw.choice([0, 2]),
        )
        clauses = Clauses(clauses[draw.randint(0, 2) :])
        searches.append(search(clauses, OF_MANY, options, max_tokens=6))
    return together(searches, logprobs), tops


def test_the_likeliest_tokens_are_enough_for_a_search_that_prunes():
    more = other = 0
    for seed in range(100):
        (full, once), (results, tops) = two_searches(seed), two_searches(seed, unknown=np.nan)
        assert results == full, seed
        more += len(tops) > len(once)
        other += two_searches(seed, unknown=-np.inf)[0] != full
    assert more and other, "to take unknown tokens for impossible ones gives other answers"


def test_a_search_that_does_not_prune_needs_all_tokens():
    with pytest.raises(ValueError, match="too few"):
        two_searches(0, unknown=np.nan, prune=False)


@pytest.mark.parametrize(
    "banned, values, options",
    [
        ("bcdef", [0.01, 0.4, 0.25, 0.15, 0.1, 0.05, 0.04], {"beam": 1}),  # one token only has a rank below 3
        ("cdef", [0.01, 0.4, 0.25, 0.15, 0.1, 0.05, 0.04], {"beam": 3}),  # two tokens for a beam of three
        ("", [0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1], {"beam": 1}),  # the seventh is as likely as the second
    ],
)
def test_more_tokens_are_asked_for_while_one_of_them_may_matter(banned, values, options):
    clauses = [Clause(tuple(banned), 0, 0)] if banned else []
    run = search(Clauses(clauses), VOCABULARY, settings(**options, prune=3, early_stop=0), max_tokens=9)
    question, logprobs = next(run), np.log(np.array([values]))
    logprobs[:, np.argsort(-logprobs[0], kind="stable")[question.top :]] = np.nan
    again = run.send(logprobs)
    assert again.prefixes == question.prefixes and again.top == 2 * question.top
    assert run.send(np.log(np.array([values]))).prefixes[0] == (1,)
