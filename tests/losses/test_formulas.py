"""Losses and weights against the values of fixtures.py, with their gradients and limits."""

import math

import pytest

from tests.losses import fixtures as f
from tests.training.lessons import prepared

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEACHER = {"t": {"field": "t"}}


def rows(*, named: int = 3, label: bool = True) -> list[dict]:
    """The four rows of the fixtures; the teacher names the `named` likeliest classes of each."""
    table = []
    for i, (p, y) in enumerate(zip(f.T, f.Y, strict=True)):
        likeliest = sorted(range(3), key=lambda c: -p[c])[:named]
        table.append(
            {
                "id": str(i),
                "input.x": [float(i == place) for place in range(4)],
                "label": [f.CLASSES[y]] if label and y is not None else [],
                "teacher.t.names": [f.CLASSES[c] for c in likeliest],
                "teacher.t.logprobs": [math.log(p[c]) for c in likeliest],
                "teacher.v.vector": f.FEATURES[i],
                "node": str(i),
                "neighbours": [str(end) for start, end in f.EDGES if start == i],
            }
        )
    return table


def step_of(loop, logits=None, *, learning=False, when=(0.0, 0, 0)):
    """A step in which the student says `S`, or {head: logits}, and has the features of the fixtures."""
    from distillgen.networks.network import Out
    from distillgen.training.step import Step

    loop.model.when = when
    step = Step(loop.model, loop.train_dataset.all_rows(), learning=learning)
    heads = logits if isinstance(logits, dict) else {"class": f.S if logits is None else logits}
    tensors = {name: torch.tensor(values, requires_grad=True) for name, values in heads.items()}
    step._outs["student"] = Out(tensors, torch.arange(4), torch.tensor(f.FEATURES))
    return step


def only(loop):
    """The one loss of a loop, and its module."""
    return next(iter(loop.model.losses_with_modules))


def loss_rows(tmp_path, name, *, logits=None, table=None, **options) -> list[float]:
    """The rows of one loss with the teacher of the fixtures."""
    loop = prepared(table or rows(), [(name, {"teacher": "t", **options})], tmp_path, teachers=TEACHER)
    loss, module = only(loop)
    return loss.rows(step_of(loop, logits), module).tolist()


def close(values, expected, tolerance=1e-6) -> bool:
    return values == pytest.approx(expected, abs=tolerance)


KINDS = {"forward": f.FORWARD, "reverse": f.REVERSE, "jensen_shannon": f.JENSEN_SHANNON}


@pytest.mark.parametrize(("kind", "t"), [(kind, t) for kind, values in KINDS.items() for t in values])
def test_divergence(tmp_path, kind, t):
    assert close(loss_rows(tmp_path, "divergence", kind=kind, temperature=t), KINDS[kind][t])


def test_a_divergence_of_equals_is_zero(tmp_path):
    equal = [[math.log(x) + 3 for x in p] for p in f.T]
    for kind in KINDS:
        assert close(loss_rows(tmp_path, "divergence", kind=kind, temperature=3, logits=equal), [0] * 4)


def test_the_tail_hides_some_of_the_divergence(tmp_path):
    values = {k: loss_rows(tmp_path, "divergence", table=rows(named=k)) for k in (1, 2, 3)}
    assert close(values[1], f.TAIL[1]) and close(values[2], f.TAIL[2]) and close(values[3], f.FORWARD[1])
    assert all(a <= b + 1e-6 and b <= c + 1e-6 for a, b, c in zip(*values.values(), strict=True))


def test_logits(tmp_path):
    """Of a recorded teacher, the logarithms of the probabilities; those that it left over are the tail."""
    pairs = [(f.log(f.softmax(s)), f.log(p)) for s, p in zip(f.S, f.T, strict=True)]
    expected = [sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / 3 for s, t in pairs]
    assert close(loss_rows(tmp_path, "logits"), expected)
    top = [t.index(max(t)) for _, t in pairs]
    tails = [[math.log(1 - math.exp(x[c])) for x in pair] for c, pair in zip(top, pairs, strict=True)]
    named = [
        ((s[c] - t[c]) ** 2 + (a - b) ** 2) / 2 for c, (s, t), (a, b) in zip(top, pairs, tails, strict=True)
    ]
    assert close(loss_rows(tmp_path, "logits", table=rows(named=1)), named, 1e-5)
    assert not close(loss_rows(tmp_path, "logits", logits=f.S[::-1]), expected), "the control: other rows"


def test_logits_of_a_network_are_compared_as_they_are(tmp_path):
    from distillgen.networks.network import Out

    loop = prepared(rows(), [("logits", {"teacher": "peer"})], tmp_path, teachers=MLP_PEER)
    loss, module = only(loop)
    step = step_of(loop)
    step._outs["peer"] = Out({"class": torch.tensor(f.S) + 2}, torch.arange(4))
    assert close(loss.rows(step, module).tolist(), [4.0] * 4)


def test_dual_heads(tmp_path):
    losses = [
        ("cross_entropy", {"head": "gold", "weight": 0.5}),
        ("divergence", {"head": "soft", "teacher": "t", "temperature": 2, "weight": 0.5}),
    ]
    read = {"gold": 0.5, "soft": {"share": 0.5, "temperature": 0.5}}
    student = {"mlp": [2], "heads": ["gold", "soft"], "read": read}
    loop = prepared(rows(), losses, tmp_path, teachers=TEACHER, student=student)
    step = step_of(loop, {"gold": f.S, "soft": f.S[::-1]})
    assert close(step.total().item(), f.DUAL)
    assert close(loop.model.networks["student"].probabilities(step.out())[0].tolist(), f.READ)


def test_rescaled_logits_say_the_same_at_any_scale(tmp_path):
    large = [[7 * x for x in s] for s in f.S]
    for logits in (f.S, large):
        assert close(loss_rows(tmp_path, "divergence", standardise=True, logits=logits), f.RESCALED)
    plain = loss_rows(tmp_path, "divergence", logits=large)
    assert not close(plain, loss_rows(tmp_path, "divergence")), "the control: as they are, they do not"


def test_a_student_that_finds_all_classes_alike_learns_with_rescaled_logits(tmp_path):
    """There is no deviation to divide by; what is learnt is finite."""
    loop = prepared(rows(), [("cross_entropy", {"standardise": True})], tmp_path)
    loss, module = only(loop)
    step = step_of(loop, [[2.0, 2.0, 2.0]] * 4)
    loss.rows(step, module).sum().backward()
    gradient = step.out().classes["class"].grad
    assert gradient.isfinite().all() and gradient[:3].abs().min() > 0


@pytest.mark.parametrize(("standardise", "expected"), [(False, f.MIXED), (True, f.MIXED_RESCALED)])
def test_a_mixture_learns_both_labels_by_their_shares(tmp_path, standardise, expected):
    from distillgen.training.mixup import LABEL, SHARE

    loop = prepared(rows(), [("cross_entropy", {"standardise": standardise})], tmp_path)
    loss, module = only(loop)
    step = step_of(loop)
    alone = loss.rows(step, module).tolist()
    others = torch.tensor([-100 if y is None else y for y in f.OTHERS])
    step.batch = {**step.batch, LABEL: others, SHARE: torch.tensor(f.SHARES)}
    assert close(loss.rows(step, module).tolist(), expected)
    assert not close(alone, expected), "the control: the row's own label is another loss"


@pytest.mark.parametrize("t", f.PLACKETT_LUCE)
def test_plackett_luce(tmp_path, t):
    assert close(loss_rows(tmp_path, "plackett_luce", temperature=t), f.PLACKETT_LUCE[t])
    moved = [[x + 5 for x in s] for s in f.S]
    assert close(loss_rows(tmp_path, "plackett_luce", temperature=t, logits=moved), f.PLACKETT_LUCE[t], 3e-6)


def test_plackett_luce_with_equal_weights_is_list_mle(tmp_path):
    assert close(loss_rows(tmp_path, "plackett_luce", temperature=1e6), f.LIST_MLE)


def test_plackett_luce_of_a_teacher_that_is_sure_of_the_label_is_cross_entropy(tmp_path):
    sure = [{**r, "teacher.t.names": r["label"] or ["a"], "teacher.t.logprobs": [0.0]} for r in rows()]
    expected = [-math.log(f.softmax(s)[y or 0]) for s, y in zip(f.S, f.Y, strict=True)]
    assert close(loss_rows(tmp_path, "plackett_luce", table=sure), expected)


def test_classes_that_a_teacher_did_not_name_have_no_order(tmp_path):
    """The two others are tied: each is compared with both, whichever comes first."""
    one = loss_rows(tmp_path, "plackett_luce", temperature=1e6, table=rows(named=1, label=False))
    expected = []
    for s, p in zip(f.S, f.T, strict=True):
        top = p.index(max(p))
        others = [x for c, x in enumerate(s) if c != top]
        both = math.log(sum(map(math.exp, others)))
        expected.append((-math.log(f.softmax(s)[top]) + sum(both - x for x in others)) / 3)
    assert close(one, expected)


@pytest.mark.parametrize("t", f.TAID)
def test_taid(tmp_path, t):
    assert close(loss_rows(tmp_path, "taid", start=t), f.TAID[t])


def test_the_target_of_taid_is_a_constant(tmp_path):
    """The gradient by the student's logits is q − p_t, and nothing comes from the student in the target."""
    loop = prepared(rows(), [("taid", {"teacher": "t", "start": 0.4})], tmp_path, teachers=TEACHER)
    loss, module = only(loop)
    step = step_of(loop)
    logits = step.out().classes["class"]
    (gradient,) = torch.autograd.grad(loss.rows(step, module).sum(), [logits])
    mixed = [
        [0.6 * a + 0.4 * b for a, b in zip(s, f.log(p), strict=True)] for s, p in zip(f.S, f.T, strict=True)
    ]
    expected = [
        [a - b for a, b in zip(f.softmax(s), f.softmax(m), strict=True)]
        for s, m in zip(f.S, mixed, strict=True)
    ]
    assert torch.allclose(gradient, torch.tensor(expected), atol=1e-6)


def walked(tmp_path, losses, steps, *, learning=True, **options) -> list[float]:
    """The teacher's shares after steps with these mean losses."""
    loop = prepared(rows(), [("taid", {"teacher": "t", **options})], tmp_path, teachers=TEACHER)
    loss, module = only(loop)
    shares = []
    for n, value in enumerate(losses):
        step = step_of(loop, learning=learning, when=(n / steps, 0, n))
        step.mean = lambda mean, value=value: torch.tensor(value)
        loss.rows(step, module)
        shares.append(module.share.item())
    return shares


def test_the_share_of_taid_follows_the_loss_or_a_line(tmp_path):
    assert close(walked(tmp_path, f.LOSSES, f.STEPS, **f.OPTIONS), f.PATH)
    assert close(walked(tmp_path, f.LOSSES, f.STEPS, **f.OPTIONS, adaptive=False), f.LINE)
    assert close(walked(tmp_path, f.LOSSES, f.STEPS, **f.OPTIONS, learning=False), [f.OPTIONS["start"]] * 5)


def test_the_share_of_taid_never_falls_and_stays_below_its_end(tmp_path):
    draw = torch.Generator().manual_seed(0)
    losses = (torch.rand(60, generator=draw) * 5).tolist()
    shares = walked(tmp_path, losses, 60, start=0.3, end=0.8, pace=0.5, momentum=0.5)
    assert all(a <= b for a, b in zip(shares, shares[1:], strict=False))
    assert max(shares) == pytest.approx(0.8) and shares[0] == pytest.approx(0.3)


def test_the_state_of_taid_is_set_by_the_loss_of_the_step(tmp_path):
    loop = prepared(rows(), [("taid", {"teacher": "t"})], tmp_path, teachers=TEACHER)
    loss, module = only(loop)
    loss.rows(step_of(loop, learning=True), module)
    assert close(module.before.item(), sum(f.TAID[0.4]) / 4)


def test_neighbours(tmp_path):
    for options, expected in (
        ({"high": 0}, f.LOW),
        ({"low": 0}, f.HIGH),
        ({"low": 0.5, "high": 2}, 0.5 * f.LOW + 2 * f.HIGH),
    ):
        assert close(sum(loss_rows(tmp_path, "neighbours", **options)) / 4, expected)


def test_neighbours_in_a_batch_without_an_edge(tmp_path):
    apart = [{**r, "neighbours": []} for r in rows()]
    assert close(loss_rows(tmp_path, "neighbours", table=apart), f.FORWARD[1])


def test_surer(tmp_path):
    weights = {"ahead": ("surer", {"teacher": "t", "high": 2, "low": 1})}
    loop = prepared(rows(), [("cross_entropy", {})], tmp_path, teachers=TEACHER, weights=weights)
    assert step_of(loop).weight("ahead").tolist() == f.SURER
    assert step_of(loop).weight("3 - ahead").tolist() == [3 - w for w in f.SURER]
    entropies = loop.model._weights["ahead"]._entropy
    assert close(entropies(torch.tensor(f.S)).tolist(), f.ENTROPY_S)
    assert close(entropies(torch.tensor(f.T).log()).tolist(), f.ENTROPY_T)


def gated(tmp_path, **options):
    """A loop with the gate of the fixtures over three teachers, who say the same."""
    weights = {"route": ("gate", {"over": 3, **options})}
    teachers = {name: {"field": "t"} for name in "tuv"}
    copied = [
        r | {f"teacher.{n}.{k}": r[f"teacher.t.{k}"] for n in "uv" for k in ("names", "logprobs")}
        for r in rows()
    ]
    losses = [("divergence", {"teacher": ["t", "u", "v"], "weight": "route"})]
    loop = prepared(copied, losses, tmp_path, teachers=teachers, weights=weights, student={"mlp": [2]})
    layer = loop.model.parts["route"]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(f.LAYER[0]))
        layer.bias.copy_(torch.tensor(f.LAYER[1]))
    return loop, layer


def test_a_soft_gate_shares_a_row_out(tmp_path):
    loop, layer = gated(tmp_path, balance=0.5)
    step = step_of(loop)
    shares = step.weight("route")
    assert shares.shape == (3, 4) and close(shares.T[0].tolist(), f.GATE)
    assert close(step.total().item(), sum(f.FORWARD[1]) / 4)
    assert close(loop.model._weights["route"].learns(step, layer).item(), 0.5 * f.BALANCE)


def test_a_hard_gate_sends_a_row_to_one_teacher(tmp_path):
    loop, _ = gated(tmp_path, soft=False)
    expected = [[float(max(g) == x) for x in g] for g in map(f.gate, f.FEATURES)]
    assert step_of(loop).weight("route").T.tolist() == expected


def test_a_soft_gate_learns_from_usefulness_and_a_hard_one_does_not(tmp_path):
    for soft in (True, False):
        loop, layer = gated(tmp_path, soft=soft)
        table = loop.train_dataset.columns
        table["teacher.u.logprobs"] = table["teacher.u.logprobs"].roll(1, 1)
        total = step_of(loop).total()
        (gradient,) = torch.autograd.grad(total, [layer.weight], allow_unused=True)
        assert (gradient is not None and gradient.abs().max() > 1e-3) == soft


def test_a_number_of_the_record_is_a_weight(tmp_path):
    table = [r | {"teacher.w.vector": [float(i)]} for i, r in enumerate(rows())]
    weights = {"w": ("field", {"name": "w"})}
    losses = [("divergence", {"teacher": "t", "weight": "w"})]
    teachers = {**TEACHER, "w": {"field": "w", "reads": ["number"]}}
    loop = prepared(table, losses, tmp_path, teachers=teachers, weights=weights)
    assert close(step_of(loop).total().item(), sum(i * x for i, x in enumerate(f.FORWARD[1])) / 4)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_features(tmp_path, kind):
    teachers = {"v": {"field": "v"}}
    losses = [("features", {"teacher": "v", "kind": kind})]
    loop = prepared(rows(), losses, tmp_path, teachers=teachers, student={"mlp": [2]})
    loss, (projection,) = only(loop)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor([[1.0, 0.5], [0.0, -1.0]]))
        projection.bias.copy_(torch.tensor([0.1, -0.2]))
    expected = []
    for a, b in f.FEATURES:
        x, y = a + 0.5 * b + 0.1, -b - 0.2
        cosine = (x * a + y * b) / math.hypot(x, y) / math.hypot(a, b)
        expected.append(((x - a) ** 2 + (y - b) ** 2) / 2 if kind == "mse" else 1 - cosine)
    values = loss.rows(step_of(loop), [projection])
    assert close(values.tolist(), expected)
    assert torch.autograd.grad(values.sum(), [projection.weight])[0].abs().max() > 0


@pytest.mark.parametrize("alpha", f.INFORMATION)
def test_the_bound_of_information(alpha):
    from distillgen.losses.information import bound

    scores = torch.tensor(f.SCORES, requires_grad=True)
    values = bound(scores, torch.tensor(f.BASELINES), alpha)
    assert close(values.tolist(), f.INFORMATION[alpha])
    assert torch.autograd.grad(values.sum(), [scores])[0].isfinite().all()


def gaussian(scored: bool, alpha: float, *, count: int = 32, batches: int = 400) -> tuple[float, float]:
    """The mean bound over batches of pairs of jointly Gaussian numbers that share 5 nats, and its error.

    The score is log p(x, y) / p(x) p(y) itself, and the baseline 0. The control takes strangers as pairs.
    """
    from distillgen.losses.information import bound

    draw, size = torch.Generator().manual_seed(0), 4
    square = 1 - math.exp(-2 * 5 / size)
    values = []
    for _ in range(batches):
        x, noise = (torch.randn(count, size, generator=draw) for _ in range(2))
        y = square**0.5 * x + (1 - square) ** 0.5 * noise
        mean = square**0.5 * x[:, None]
        density = ((y**2 - (y - mean) ** 2 / (1 - square)).sum(-1) - size * math.log(1 - square)) / 2
        values.append(bound(density if scored else density.roll(1, 0), torch.zeros(count), alpha).mean())
    bounds = torch.stack(values)
    return bounds.mean().item(), bounds.std().item() / batches**0.5


def test_the_bound_of_five_nats_grows_as_alpha_falls_and_stays_below_it():
    """At α = 1 it cannot pass log 32 = 3.47; strangers share nothing."""
    bounds = {alpha: gaussian(True, alpha) for alpha in (1, 0.9, 0.5, 0.01)}
    means = [mean for mean, _ in bounds.values()]
    assert means == sorted(means) and means[0] <= math.log(32)
    assert means[-1] > 4.5 and all(mean <= 5 + 2 * error for mean, error in bounds.values())
    assert all(gaussian(False, alpha)[0] <= 0.1 for alpha in bounds)


def informed(tmp_path, **options):
    """A loop with the loss, whose student has the features of the fixtures; the loss, and its critic."""
    teachers, losses = {"v": {"field": "v"}}, [("information", {"teacher": "v", **options})]
    loop = prepared(rows(), losses, tmp_path, teachers=teachers, student={"mlp": [2]})
    return loop, *only(loop)


def test_information_scores_each_pair_of_features_and_vectors(tmp_path):
    loop, loss, (critic,) = informed(tmp_path, alpha=0.5, neurons=3)
    features = torch.tensor(f.FEATURES)
    step = step_of(loop)
    values = loss.rows(step, [critic])
    for j, value in enumerate(values.tolist()):
        column = [
            critic["score"](critic["student"](x) + critic["teacher"](features[j])).item() for x in features
        ]
        base = critic["baseline"](features[j]).item()
        powers, others = [math.exp(s) for s in column], [math.exp(s) for i, s in enumerate(column) if i != j]
        normal = [0.5 * sum(p) / len(p) + 0.5 * math.exp(base) for p in (powers, others)]
        assert value == pytest.approx(
            -1 - column[j] + math.log(normal[0]) + sum(others) / 3 / normal[1], abs=1e-5
        )
    gradients = torch.autograd.grad(values.sum(), list(critic.parameters()), allow_unused=True)
    assert all(g is not None and g.abs().max() > 0 for g in gradients)


def test_information_of_one_row_teaches_nothing(tmp_path):
    loop, loss, (critic,) = informed(tmp_path)
    step = step_of(loop)
    step.vector = lambda name: torch.tensor(f.FEATURES[:1], requires_grad=True)
    (value,) = loss.rows(step, [critic])
    value.backward()
    assert value.item() == 0


def attended(tmp_path, *, teacher=f.WIDER, student=f.PROJECTIONS, **options) -> list[float]:
    """The rows of the relations of the fixtures' queries, keys and values."""
    from distillgen.losses.attention_relations import AttentionRelations
    from distillgen.networks.network import Out

    step = step_of(prepared(rows()[:2], [("cross_entropy", {})], tmp_path))
    for name, values in (("student", student), ("peer", teacher)):
        step._outs[name] = Out({}, torch.arange(2), projections=torch.tensor(values))
    return AttentionRelations(teacher="peer", heads=2, **options).rows(step, None).tolist()


@pytest.mark.parametrize("kind", f.RELATIONS)
def test_relations_of_attention(tmp_path, kind):
    assert close(attended(tmp_path, kind=kind), f.RELATIONS[kind])
    assert close(attended(tmp_path, kind=kind, teacher=f.PROJECTIONS), [0, 0])
    assert not close(attended(tmp_path, kind=kind, teacher=f.WIDER[::-1]), f.RELATIONS[kind], 1e-3), (
        "another row"
    )


def test_relations_of_attention_that_do_not_fit_are_an_error(tmp_path):
    from distillgen.errors import ConfigError

    short = [[one[:2] for one in row] for row in f.WIDER]
    odd = [[[token[:7] for token in one] for one in row] for row in f.WIDER]
    narrow = [[[token[:3] for token in one] for one in row] for row in f.PROJECTIONS]
    for wrong in ({"teacher": short}, {"teacher": odd}, {"student": narrow}):
        with pytest.raises(ConfigError, match="'student' has 3 tokens .*, and 'peer' [23]"):
            attended(tmp_path, **wrong)


def test_features_without_a_map_are_compared_as_they_are(tmp_path):
    from distillgen.errors import ConfigError

    losses = [("features", {"teacher": "v", "linear": False})]
    loop = prepared(rows(), losses, tmp_path, teachers={"v": {"field": "v"}}, student={"mlp": [2]})
    loss, module = only(loop)
    step = step_of(loop)
    step._outs["student"] = step.out()._replace(features=torch.tensor(f.CHANGED))
    pairs = zip(f.FEATURES, f.CHANGED, strict=True)
    assert module is None and close(
        loss.rows(step, None).tolist(), [math.dist(a, b) ** 2 / 2 for a, b in pairs]
    )
    with pytest.raises(ConfigError, match="'student' has 3 features, and 'v' 2; leave out linear: false"):
        prepared(rows(), losses, tmp_path, teachers={"v": {"field": "v"}}, student={"mlp": [3]})


def test_disagreement(tmp_path):
    weights = {"far": ("disagreement", {"teacher": "t"})}
    losses = [("divergence", {"teacher": "t", "weight": "far"})]
    loop = prepared(rows(), losses, tmp_path, teachers=TEACHER, weights=weights)
    step = step_of(loop)
    values = step.weight("far")
    assert close(values.tolist(), f.DISAGREEMENT) and not values.requires_grad
    assert close(step.total().item(), sum(map(math.prod, zip(f.DISAGREEMENT, f.FORWARD[1], strict=True))) / 4)


def contrasted(tmp_path, **options):
    """The loss `contrast` alone, and its linear map."""
    loop = prepared(rows(), [("contrast", options)], tmp_path, student={"mlp": [2]})
    return loop, *only(loop)


def test_contrast(tmp_path, monkeypatch):
    loop, loss, linear = contrasted(tmp_path, width=2)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
        linear.bias.zero_()
    step, changed = step_of(loop), step_of(loop)
    changed._outs["student"] = changed.out()._replace(features=torch.tensor(f.CHANGED))
    monkeypatch.setattr(step, "again", lambda batch: changed)
    values = loss.rows(step, linear)
    assert close(values.tolist(), f.NT_XENT)
    values.sum().backward()
    assert linear.weight.grad.abs().max() > 0


def test_a_changed_row_has_a_mixture_of_the_statistics_of_two_and_its_own_form(tmp_path):
    loop, loss, _ = contrasted(tmp_path, beta=1.0)
    draw = torch.Generator().manual_seed(0)
    pictures, numbers = torch.randn(3, 2, 4, 4, generator=draw) * 5 + 2, torch.tensor([[1.0], [2.0], [3.0]])
    step = step_of(loop)
    step.batch = {"row": torch.arange(3), "input.p": pictures, "input.n": numbers}
    changed = loss._changed(step)
    assert changed["input.n"].equal(numbers), "one number has no deviation"
    new = changed["input.p"]
    forms = [(x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True) for x in (pictures, new)]
    assert torch.allclose(*forms, atol=1e-4) and not torch.allclose(new, pictures)
    for i in range(3):
        means = [pictures[k].mean((1, 2)) for k in range(3)]
        shares = [
            (new[i].mean((1, 2)) - means[k]) / (means[i] - means[k]) for k in range(3) if k != i
        ]  # of both channels, if the other row is k
        alike = [share for share in shares if abs(share[0] - share[1]) < 1e-3 and -1e-3 < share[0] < 1.001]
        assert len(alike) >= 1, "one λ for all channels"
    assert loss._changed(step)["input.p"].equal(new), "the same step has the same rows"
    later = step_of(loop, when=(0.5, 1, 7))
    later.batch = step.batch
    assert not loss._changed(later)["input.p"].equal(new)


def test_the_surer_teacher_has_the_larger_share(tmp_path):
    second = {"teacher.u.names": [*f.CLASSES], "teacher.u.logprobs": []}
    table = [
        r | second | {"teacher.u.logprobs": list(map(math.log, p))}
        for r, p in zip(rows(), f.SECOND, strict=True)
    ]
    weights = {"trust": ("sure", {"of": ["t", "u"]})}
    losses = [("divergence", {"teacher": ["t", "u"], "weight": "trust"})]
    teachers = {**TEACHER, "u": {"field": "u"}}
    loop = prepared(table, losses, tmp_path, teachers=teachers, weights=weights)
    first, other = step_of(loop).weight("trust")
    assert close(first.tolist(), f.SURE) and close((first + other).tolist(), [1] * 4)
    second_rows = [f.forward(s, p, 1) for s, p in zip(f.S, f.SECOND, strict=True)]
    pairs = zip(f.SURE, f.FORWARD[1], second_rows, strict=True)
    assert close(step_of(loop).total().item(), sum(w * a + (1 - w) * b for w, a, b in pairs) / 4)
    even = prepared(
        table,
        losses,
        tmp_path,
        teachers=teachers,
        weights={"trust": ("sure", {"of": ["t", "u"], "temperature": 1e6})},
    )
    assert close(step_of(even).weight("trust")[0].tolist(), [0.5] * 4)


def related_to_means(tmp_path, features=f.CHANGED, **options):
    """The loss `prototypes` of a student with these features, and its module."""
    losses = [("prototypes", {"teacher": "v"})]
    teachers = {"v": {"field": "v"}}
    loop = prepared(rows(), losses, tmp_path, teachers=teachers, **{"student": {"mlp": [2]}, **options})
    loss, module = only(loop)
    step = step_of(loop)
    step._outs["student"] = step.out()._replace(features=torch.tensor(features, requires_grad=True))
    return loss.rows(step, module), module, step


def test_prototypes(tmp_path):
    values, module, step = related_to_means(tmp_path)
    assert close(values.tolist(), f.PROTOTYPES)
    assert torch.allclose(module.means[0], torch.tensor(f.FEATURES[:3])), "one row of each class"
    assert not list(module.parameters()), "they are fitted, and learn nothing"
    values.sum().backward()
    assert step.out().features.grad.abs().max() > 0
    assert close(related_to_means(tmp_path, f.FEATURES)[0].tolist(), [0] * 4)


def test_prototypes_need_features_of_one_width(tmp_path):
    from distillgen.errors import ConfigError

    with pytest.raises(ConfigError, match="'student' has 3 features, and 'v' gives 2 features"):
        related_to_means(tmp_path, student={"mlp": [3]})


def test_prototypes_are_those_of_the_rows_also_where_a_control_exchanges_what_a_teacher_sees(tmp_path):
    big = prepared(rows(), [("cross_entropy", {})], tmp_path, student={"mlp": [2]})
    big.save_model(str(tmp_path / "big"))
    loops = [
        prepared(
            rows(),
            [("prototypes", {"teacher": "big"})],
            tmp_path,
            student={"mlp": [2]},
            teachers={"big": {"model": "big", "inputs": ["x"]}},
            models={"big": tmp_path / "big"},
            shuffled=shuffled,
        )
        for shuffled in (False, True)
    ]
    (loss, plain), (_, control) = map(only, loops)
    assert plain.means.equal(control.means)
    assert not torch.allclose(*(loss.rows(step_of(loop), plain) for loop in loops))


def related(tmp_path, *, over=f.OVER, progress=0.0, **options) -> list[float]:
    """The rows of the relations of the fixtures' tokens, all of which are drawn."""
    from distillgen.losses.token_relations import TokenRelations
    from distillgen.networks.network import Out
    from distillgen.training.part import PartSizes

    loss = TokenRelations(teacher="peer", **{"inner": 0, "local": 0, "global": 0, **options})
    module = loss.module(PartSizes(3, {}, {"student": 2, "peer": 3}))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor(f.LAYER[0]))
        module[0].bias.copy_(torch.tensor(f.LAYER[1]))
    step = step_of(prepared(rows()[:2], [("cross_entropy", {})], tmp_path), when=(progress, 0, 0))
    for name, tokens in (("student", f.NEAR), ("peer", over)):
        step._outs[name] = Out({}, torch.arange(2), None, torch.tensor(tokens))
    return loss.rows(step, module).tolist()


def test_relations_of_tokens(tmp_path):
    assert close(related(tmp_path, inner=1), f.INNER)
    for (k, sigma), expected in f.LOCAL.items():
        assert close(related(tmp_path, local=1, k=k, sigma=sigma), expected)
    for progress, expected in ((0.0, f.GLOBAL[1.0]), (0.5, f.GLOBAL_HALFWAY), (1.0, f.GLOBAL[0.1])):
        assert close(related(tmp_path, progress=progress, **{"global": 1}), expected)
    both = [10 * a + 2 * b + c for a, b, c in zip(f.INNER, f.LOCAL[2, 1.0], f.GLOBAL[1.0], strict=True)]
    assert close(related(tmp_path, inner=10, local=2, k=2, **{"global": 1}), both)


def test_relations_to_the_tokens_of_another_row_are_others(tmp_path):
    """The control: the teacher's tokens of the other row fit less well."""
    for options, own in (({"inner": 1}, f.INNER), ({"global": 1, "warm": 0.1}, f.GLOBAL[0.1])):
        other = related(tmp_path, over=f.OVER[::-1], **options)
        assert sum(other) > sum(own) + 1e-3


def test_a_control_gives_the_tokens_of_other_rows(tmp_path):
    from distillgen.networks.network import Out

    loop = prepared(rows(), [("cross_entropy", {})], tmp_path)
    loop.model.teachers.exchanged = ["t"]
    step, tokens = step_of(loop), torch.arange(4.0)[:, None, None].expand(4, 3, 2)
    for name in ("t", "u"):
        step._outs[name] = Out({}, torch.arange(4), None, tokens)
    assert step.tokens("t")[:, 0, 0].tolist() == [2, 3, 0, 1] and step.tokens("u").equal(tokens)


def test_some_of_the_tokens_are_drawn_anew_in_each_step(tmp_path):
    from distillgen.losses.token_relations import TokenRelations
    from distillgen.networks.network import Out

    draw = torch.Generator().manual_seed(0)
    tokens = [torch.randn(50, 4, 3, generator=draw) for _ in range(2)]

    def value(count: int, sampled: int) -> float:
        step = step_of(loop, when=(0.0, 0, count))
        for name, one in zip(("student", "peer"), tokens, strict=True):
            step._outs[name] = Out({}, torch.arange(50), None, one)
        relations = TokenRelations(teacher="peer", inner=0, k=3, sampled=sampled, **{"global": 0})
        return relations.rows(step, [torch.nn.Identity()]).mean().item()

    loop = prepared(rows(), [("cross_entropy", {})], tmp_path)
    assert value(1, 20) == value(1, 20) != value(2, 20)
    assert value(1, 200) == pytest.approx(value(2, 200), abs=1e-6), "all are drawn, in another order"


VIT = {
    "transformers": {
        "model_type": "vit",
        "patch_size": 1,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 4,
    },
    "shape": [2, 2],
}


def seeing(tmp_path, *, peer=VIT, **options):
    """A loop in which a ViT learns the relations of a peer, of other width."""
    wide = {"transformers": {**VIT["transformers"], "hidden_size": 8}, "shape": [2, 2]}
    teachers = {"peer": {"peer": wide if peer is VIT else peer, "inputs": ["x"]}}
    losses = [("token_relations", {"teacher": "peer", **options})]
    return prepared(rows(), losses, tmp_path, teachers=teachers, student=VIT)


@pytest.mark.parametrize("term", ["inner", "local", "global"])
def test_each_term_moves_the_student_and_not_its_teacher(tmp_path, term):
    terms = {name: 1 if name == term else 0 for name in ("inner", "local", "global")}
    loop = seeing(tmp_path, k=2, **terms)
    loop.model.train()
    loop.model(loop.train_dataset.all_rows()).backward()
    moved = {
        name: any(p.grad is not None and p.grad.abs().max() > 1e-7 for p in part.parameters())
        for name, part in (*loop.model.networks.items(), ("map", loop.model.parts))
    }
    assert moved == {"student": True, "peer": False, "map": term == "global"}


def test_tokens_that_do_not_fit_are_an_error(tmp_path):
    from distillgen.errors import ConfigError

    coarse = {"transformers": {**VIT["transformers"], "patch_size": 2}, "shape": [2, 2]}
    loop = seeing(tmp_path, peer=coarse)
    with pytest.raises(
        ConfigError, match="'student' has 5 tokens a row, and 'peer' 2; give both as many patches"
    ):
        loop.model(loop.train_dataset.all_rows())
    with pytest.raises(ConfigError, match="token_relations: 'peer' gives no tokens"):
        seeing(tmp_path, peer={"mlp": [4]})
    with pytest.raises(ConfigError, match="'peer' gives no tokens; name a network whose body has some"):
        step_of(prepared(rows(), LABELS_OF_PEER, tmp_path, teachers=MLP_PEER)).tokens("peer")


MLP_PEER = {"peer": {"peer": {"mlp": [2]}, "inputs": ["x"]}}
LABELS_OF_PEER = [("cross_entropy", {}), ("divergence", {"teacher": "peer"})]


PARTS = {
    "cross_entropy": {},
    "divergence": {"teacher": "t"},
    "logits": {"teacher": "t"},
    "taid": {"teacher": "t"},
    "plackett_luce": {"teacher": "t"},
    "neighbours": {"teacher": "t"},
    "features": {"teacher": "v"},
    "contrast": {},
    "prototypes": {"teacher": "v"},
    "subclasses": {"teacher": "t", "embedding": "v"},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_batch_without_any_label_has_a_finite_loss_and_gradient(tmp_path, name):
    teachers = {**TEACHER, "v": {"field": "v"}}
    loop = prepared(rows(), [(name, PARTS[name])], tmp_path, teachers=teachers, student={"mlp": [2]})
    batch = {**loop.train_dataset.all_rows(), "label": torch.full((4,), -100)}
    loop.model.train()
    loss = loop.model(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in loop.model.parameters() if p.grad is not None)


PEERS = {name: options for name, options in PARTS.items() if options}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_does_not_move_towards_its_student(tmp_path, name):
    options = {option: "peer" for option in PEERS[name]}
    teachers = {"peer": {"peer": {"mlp": [2]}, "inputs": ["x"]}}
    loop = prepared(rows(), [(name, options)], tmp_path, teachers=teachers, student={"mlp": [2]})
    loop.model.train()
    loop.model(loop.train_dataset.all_rows()).backward()
    networks = loop.model.networks
    assert all(p.grad is None or not p.grad.any() for p in networks["peer"].parameters())
    assert any(p.grad is not None and p.grad.any() for p in networks["student"].parameters())


def test_a_gate_does_not_move_the_student_by_its_own_loss(tmp_path):
    loop, layer = gated(tmp_path, balance=0.5)
    step = step_of(loop)
    features = torch.tensor(f.FEATURES, requires_grad=True)
    step._outs["student"] = step.out()._replace(features=features)
    loop.model._weights["route"].learns(step, layer).backward()
    assert features.grad is None and layer.weight.grad.any()


def test_surer_divides_by_its_temperature(tmp_path):
    weight = {"w": ("surer", {"teacher": "t", "temperature": 10})}
    loop = prepared(rows(), [("cross_entropy", {})], tmp_path, teachers=TEACHER, weights=weight)
    cold = loop.model._weights["w"]._entropy(torch.tensor(f.S)).tolist()
    assert close(cold, [f.entropy(f.softmax(s, 10)) for s in f.S])


def test_vectors_that_nobody_gives_are_an_error(tmp_path):
    from distillgen.errors import ConfigError

    teachers = {**TEACHER, "v": {"field": "v"}}
    loop = prepared(rows(), [("features", {"teacher": "v"})], tmp_path, teachers=teachers)
    with pytest.raises(ConfigError, match="'t' gives no vectors; name a stage embed"):
        step_of(loop).vector("t")
    with pytest.raises(ConfigError, match="'t' gives no vectors"):
        prepared(rows(), [("features", {"teacher": "t"})], tmp_path, teachers=TEACHER)


def test_margin_mse_of_sentence_transformers():
    """The objective `embedder` hands this loss on; its documents here have one number, which is the score."""
    losses = pytest.importorskip("sentence_transformers.losses")
    loss = losses.MarginMSELoss(torch.nn.Identity(), similarity_fct=lambda a, b: (a * b).sum(-1))
    right, wrong = (torch.tensor(column)[:, None] for column in zip(*f.STUDENT_SCORES, strict=True))
    margins = torch.tensor([a - b for a, b in f.TEACHER_SCORES])
    value = loss.compute_loss_from_embeddings([torch.ones(2, 1), right, wrong], margins)
    assert close(value.item(), f.MARGIN_MSE)
