"""The pipeline's seed reaches all that draws, and is added to the seeds of stages, filters and requests."""

import distillgen
from distillgen.flow.stage_list import seeded
from distillgen.stages.train import Train

ROWS = [{"question": f"Is {i} prime?", "topic": "numbers", "weight": 1 + i % 7} for i in range(60)]
SOURCE = {"source": {"path": "rows.jsonl"}}
ASK = {"generate": {"model": "t", "template": "{{ question }}", "output": "answer", "n": 2}}
DRAW = {"filter": [{"sample_by_score": {"by": "weight", "per": ["topic"], "n": 9, "best": 60}}]}


def run(project, out, *stages, seed=0, asked=None, **options):
    def teacher(request, sample):
        if asked is not None:
            asked.append((request.sampling.get("seed"), sample))
        return "yes"

    project.rows("rows.jsonl", ROWS)
    models = {"t": {"provider": "scripted", "model": "echo"}}
    pipeline = {"version": 1, "seed": seed, "models": models, "stages": [*stages]}
    distillgen.run(pipeline, out=out, teachers={"t": teacher}, **options)
    return project.read(f"{out}/corpus.jsonl")


def questions(rows):
    return [row["question"] for row in rows]


def test_the_seed_of_a_filter_is_added_to_that_of_the_pipeline(project):
    def drawn(seed, own):
        stage = {"filter": [{"sample_by_score": DRAW["filter"][0]["sample_by_score"] | own}]}
        return questions(run(project, f"out/{seed}/{own.get('seed')}", SOURCE, stage, seed=seed))

    assert drawn(0, {}) == drawn(0, {"seed": 0}) and len(drawn(0, {})) == 9
    assert drawn(3, {}) == drawn(0, {"seed": 3}) == drawn(1, {"seed": 2}) != drawn(0, {})


def test_each_seed_holds_out_other_items_and_seed_0_those_of_before(project):
    source = {"source": {"path": "rows.jsonl", "held_out": 0.3}}
    splits = {
        seed: [row["split"] for row in run(project, f"out/{seed}", source, seed=seed)] for seed in (0, 1, 2)
    }
    assert len({tuple(split) for split in splits.values()}) == 3
    assert all(6 < split.count("test") < 30 for split in splits.values())
    before = "".join("x" if split == "test" else "." for split in splits[0])
    assert before == HELD_OUT


HELD_OUT = "......x..x.xxx.x.xx..xx.....x.x......x.....x.x.x..xx.....x.."


def test_a_seed_that_is_sent_is_moved_so_that_no_two_samples_share_one(project):
    sent = {}
    for seed in (0, 1, 2):
        sent[seed] = []
        ask = {"generate": {**ASK["generate"], "seed": 5}}
        run(project, "out", SOURCE, ask, seed=seed, asked=sent[seed], limit=1)
    assert sent == {0: [(5, 0), (5, 1)], 1: [(1005, 0), (1005, 1)], 2: [(2005, 0), (2005, 1)]}
    asked = []
    run(project, "out", SOURCE, ask, seed=1, asked=asked, limit=1)
    assert not asked, "the answers of an earlier seed are asked for again"


def test_without_a_seed_to_send_all_seeds_share_the_answers(project):
    first, second = [], []
    run(project, "out", SOURCE, ASK, seed=0, asked=first)
    run(project, "out", SOURCE, ASK, seed=1, asked=second)
    assert len(first) == 120 and not second


def test_a_training_and_its_split_use_the_sum_of_both_seeds():
    stage = Train(student="tiny", seed=2)
    assert seeded(stage, 0) is stage and seeded(stage, 3).seed == 5 and seeded(stage, 3).options.seed == 5
    assert seeded(stage, -3).seed == 2**32 - 1 and seeded(stage, 2**32).seed == 2
