"""The recipe chain-of-density: the chains that pass, the student's prompts, and ROUGE beside a grader."""

import json

import distillgen

FIRST = "The canal is a long way for ships that goes through Egypt, and it was built there many years ago."
SECOND = (
    "The Suez Canal is a way for ships through Egypt, and it was built there by Ferdinand de Lesseps in 1869."
)
THIRD = (
    "The Suez Canal in Egypt, built by Ferdinand de Lesseps in 1869, joins the Mediterranean Sea "
    "to the Red Sea."
)
# As many names as in THIRD.
SWAPPED = "The Suez Canal in Africa, dug by Said Pasha in 1859, joins the Mediterranean Sea to the Red Sea."
CHAINS = {
    "good": [FIRST, SECOND, THIRD],
    "poorer": [FIRST, THIRD, FIRST],
    "swapped": [FIRST, SECOND, SWAPPED],
    "longer": [FIRST, SECOND, THIRD + " Ships no longer go around Africa."],
    "invented": [FIRST, SECOND, THIRD.replace("joins", "joins by 1920")],
    "still": [FIRST, FIRST, FIRST],
    "good again": [FIRST, SECOND, THIRD],
}
ARTICLE = (
    "The Suez Canal in Egypt was built by Ferdinand de Lesseps in 1869. It joins the Mediterranean "
    "Sea to the Red Sea."
)


def teach(request, sample):
    asked = request.messages[-1]["content"]
    if request.messages[0]["content"].startswith("You write a summary three times"):
        return json.dumps(
            {"steps": [{"missing": "", "summary": text} for text in CHAINS[asked.partition("\n")[0]]]}
        )
    if "First answer:" in asked:  # a grader that always likes what it is shown first
        return json.dumps({"reason": "", "better": "first"})
    return THIRD


def test_kept_chains_answer_the_plain_prompt(project):
    project.rows(
        "articles.jsonl", [{"title": title, "article": ARTICLE, "summary": SECOND} for title in CHAINS]
    )
    sets = [
        "generate.n=1",
        "source.path=articles.jsonl",
        "source.held_out=null",
        "train=null",
        "evaluate.models=[teacher]",
    ]
    sets += [
        "models.grader={provider: scripted, model: echo}",
        "preferred.model=grader",
    ]  # nobody grades himself
    run = distillgen.run(
        "chain-of-density", out="run", sets=sets, teachers={"teacher": teach, "grader": teach}
    )
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert [row["title"] for row in rows] == ["good", "good again"]
    assert rows[0]["messages"] == [
        {"role": "user", "content": f"Summarise in one sentence.\n\n{ARTICLE}"},
        {"role": "assistant", "content": THIRD},
    ]
    assert {r.fields["title"]: r.dropped.filter for r in run.dropped} == {
        "poorer": "density",
        "swapped": "density",
        "longer": "density",
        "still": "density",
        "invented": "quotes",
    }
    told = json.loads((run.directory / "evaluation.json").read_text())["models"]["teacher"]
    assert told["metrics"]["rouge"]["mean"] == 1 and told["metrics"]["preferred"]["mean"] == 0
    assert told["numbers"]["preferred.shown_first"] == 1 == -told["numbers"]["preferred.shown_second"]
