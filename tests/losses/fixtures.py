"""The formulas of the losses and weights in plain Python, by the papers and without the product, with values.

`S` are the logits of a student, `T` what a teacher says of the same rows (three classes), and `Y` the labels
(the last row has none). A function returns a number a row, or what its docstring says. Values have 9 digits.
"""

import math

CLASSES = "abc"
S = [[0.5, -0.2, 0.1], [1.5, 0.3, -0.7], [-0.4, 0.9, 0.2], [0.0, 0.6, -1.1]]
T = [[0.7, 0.2, 0.1], [0.25, 0.6, 0.15], [0.05, 0.15, 0.8], [0.4, 0.35, 0.25]]
Y = [0, 1, 2, None]


def softmax(z, temperature=1.0):
    powers = [math.exp(x / temperature) for x in z]
    return [x / sum(powers) for x in powers]


def log(p):
    return [math.log(x) for x in p]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def entropy(p):
    return -sum(x * math.log(x) for x in p)


# divergences, with a temperature and its square: T² · KL(p^T ‖ q^T) and its kin


def forward(s, p, temperature):
    return temperature**2 * kl(softmax(log(p), temperature), softmax(s, temperature))


def reverse(s, p, temperature):
    return temperature**2 * kl(softmax(s, temperature), softmax(log(p), temperature))


def jensen_shannon(s, p, temperature):
    q, p = softmax(s, temperature), softmax(log(p), temperature)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return temperature**2 * (kl(p, middle) + kl(q, middle)) / 2


def tail(s, p, k):
    """KL over the teacher's k likeliest classes, and one outcome for all others."""
    q = softmax(s)
    top = sorted(range(len(p)), key=lambda c: -p[c])[:k]
    if k == len(p):
        return kl(p, q)
    kept_p, kept_q = [p[c] for c in top], [q[c] for c in top]
    return kl([*kept_p, 1 - sum(kept_p)], [*kept_q, 1 - sum(kept_q)])


FORWARD = {
    1: [0.151481491, 0.457368314, 0.582611154, 0.133457663],
    2: [0.188820561, 0.446274843, 0.65278173, 0.146327806],
}
REVERSE = {
    1: [0.188269124, 0.466015331, 0.629248366, 0.124477353],
    2: [0.203037861, 0.467462071, 0.631151627, 0.14390652],
}
JENSEN_SHANNON = {1: [0.040902883, 0.110652333, 0.143166445, 0.031623513]}
TAIL = {
    1: [0.116129168, 0.349960282, 0.581876492, 0.015302005],
    2: [0.151481491, 0.457368314, 0.582611154, 0.133457663],
}


# DHO: half the cross-entropy of one head on labelled rows, half the divergence of the other on all rows


def dual(gold, soft):
    """The loss of all rows, one number; the labels count as a mean over the rows that have one."""
    labelled = [(s, y) for s, y in zip(gold, Y, strict=True) if y is not None]
    ce = sum(-math.log(softmax(s)[y]) for s, y in labelled) / len(labelled)
    kd = sum(forward(s, p, 2) for s, p in zip(soft, T, strict=True)) / len(T)
    return 0.5 * ce + 0.5 * kd


def read(gold, soft, share=0.5, temperature=0.5):
    """What is read of a row: α softmax(gold) + (1 − α) softmax(soft / β)."""
    pairs = zip(softmax(gold), softmax(soft, temperature), strict=True)
    return [share * a + (1 - share) * b for a, b in pairs]


DUAL = 0.904211412  # gold: S; soft: S from the last row to the first
READ = [0.343587192, 0.489237203, 0.167175605]  # of the first row


# Mixup in KD: logits divided by their own deviation, and the two labels of a mixture by their shares


def rescaled(z):
    mean = sum(z) / len(z)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / (len(z) - 1))
    return [x / deviation for x in z]


def rescaled_divergence(s, p):
    return kl(softmax(rescaled(log(p))), softmax(rescaled(s)))


def mixed(logits):
    """The loss of each row; the labels that are there count by their shares, together as a mean."""
    rows = zip(logits, Y, OTHERS, SHARES, strict=True)
    losses, labelled = [], 0.0
    for s, *labels, share in rows:
        pairs = [(y, w) for y, w in zip(labels, (share, 1 - share), strict=True) if y is not None]
        losses.append(sum(-w * math.log(softmax(s)[y]) for y, w in pairs))
        labelled += sum(w for _, w in pairs)
    return [loss * len(losses) / labelled for loss in losses]


OTHERS, SHARES = [1, 2, None, 0], [0.25, 1.0, 0.6, 0.5]  # the label of the other row; the share of the row
RESCALED = [0.086749113, 0.547252049, 0.523622115, 0.173707097]
MIXED = [1.675225863, 1.993555196, 0.983597889, 0.741280832]
MIXED_RESCALED = [2.414050599, 1.90466462, 1.134664652, 0.767283489]


# PLD: the label, then the other classes as the teacher ranks them; each choice weighed by the teacher


def plackett_luce(s, p, label, temperature, weights=None):
    weights = weights or softmax(log(p), temperature)
    order = sorted(range(len(p)), key=lambda c: (c != label, -p[c]))
    total = 0.0
    for k, c in enumerate(order):
        total += weights[c] * (-s[c] + math.log(sum(math.exp(s[d]) for d in order[k:])))
    return total


PLACKETT_LUCE = {
    1: [0.712181079, 0.953273996, 1.052535754, 0.518319226],
    4: [0.595903032, 0.649037784, 0.662209723, 0.459076067],
}
LIST_MLE = [
    0.542551763,
    0.550029532,
    0.503829687,
    0.438923773,
]  # equal weights: a third of the negative log-likelihood


# TAID: cross-entropy to softmax((1 − t) s + t z), and the path of t


def taid(s, p, t):
    z = log(p)
    target = softmax([(1 - t) * a + t * b for a, b in zip(s, z, strict=True)])
    return -sum(a * math.log(b) for a, b in zip(target, softmax(s), strict=True))


def path(losses, steps, *, start, end, pace, momentum, adaptive=True):
    """The teacher's share after each step with these mean losses; `steps` are all steps of the training."""
    t, m, before, shares = start, 0.0, None, []
    for n, loss in enumerate(losses):
        line = start + (end - start) * n / steps
        if not adaptive:
            t = line
        elif before is not None:
            m = momentum * m + (1 - momentum) * (before - loss) / before
            t = min(end, max(line, t + pace / (1 + math.exp(-m)) * (1 - t)))
        before = loss
        shares.append(t)
    return shares


TAID = {
    0.4: [1.013814988, 1.030378148, 1.067772172, 1.025495888],
    1.0: [0.953300044, 1.395005277, 1.195480607, 1.21398529],
}
LOSSES, STEPS = [1.0, 0.8, 0.9, 0.5, 0.45], 10
OPTIONS = {"start": 0.2, "end": 0.9, "pace": 0.3, "momentum": 0.5}
PATH = [0.2, 0.325995005, 0.426463883, 0.521748448, 0.599141206]
LINE = [0.2, 0.27, 0.34, 0.41, 0.48]


# BD-KD: entropies, and a weight where the student is surer than the teacher

ENTROPY_T = [0.801818553, 0.937636962, 0.612869452, 1.080527627]
ENTROPY_S = [1.057455386, 0.773617975, 0.967232775, 0.918520814]
SURER = [1, 2, 1, 2]


# TGeo-KD: nine parts of a number for each class, a small network, and a sigmoid


def class_means():
    """The teacher's mean for each class, over the rows with that label."""
    means = []
    for c in range(len(CLASSES)):
        rows = [p for p, y in zip(T, Y, strict=True) if y == c]
        means.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
    return means


def geometry(s, p, label):
    """Δ: a row without a label has no truth, and the mean of the teacher's likeliest class."""
    q = softmax(s)
    g = [float(c == label) for c in range(len(p))]
    m = class_means()[max(range(len(p)), key=lambda c: p[c]) if label is None else label]
    squares = [
        [(a - b) ** 2 for a, b in zip(one, other, strict=True)]
        for one, other in ((m, q), (g, q), (p, q), (p, g), (m, g))
    ]
    return [x for part in (q, p, g, m, *squares) for x in part]


def layers(delta, weights):
    """α of a row: three layers (weights, biases), leaky ReLU with slope 0.01, sigmoid."""
    x = delta
    for i, (matrix, bias) in enumerate(weights):
        x = [sum(a * b for a, b in zip(row, x, strict=True)) + c for row, c in zip(matrix, bias, strict=True)]
        x = x if i == len(weights) - 1 else [a if a > 0 else 0.01 * a for a in x]
    return 1 / (1 + math.exp(-x[0]))


# FF-G2M: low and high frequencies over the edges 0–1, 1–2, 2–3, in both directions

EDGES = [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]


def low():
    """The mean over edges and self-loops of KL(teacher of the end ‖ student of the start)."""
    pairs = [*EDGES, *((i, i) for i in range(len(S)))]
    return sum(kl(T[end], softmax(S[start])) for start, end in pairs) / len(pairs)


def high(temperature):
    """The mean over edges of KL between softmax(|z_i − z_j| / temperature), z less its mean."""

    def over(z, i, j):
        a, b = ([x - sum(z[k]) / len(z[k]) for x in z[k]] for k in (i, j))
        return softmax([abs(x - y) for x, y in zip(a, b, strict=True)], temperature)

    z = [log(p) for p in T]
    return sum(kl(over(z, i, j), over(S, i, j)) for i, j in EDGES) / len(EDGES)


LOW, HIGH = 0.488981671, 0.070258255


# MST-Distill: a layer over the features, and the loss that keeps all teachers in use

FEATURES = [[1.0, 0.0], [0.5, -1.0], [-0.3, 0.8], [0.2, 0.4]]
LAYER = ([[0.6, -0.2], [-0.1, 0.9], [0.3, 0.3]], [0.1, 0.0, -0.2])


def gate(features):
    matrix, bias = LAYER
    return softmax(
        [
            sum(a * b for a, b in zip(row, features, strict=True)) + c
            for row, c in zip(matrix, bias, strict=True)
        ]
    )


def balance():
    """KL(uniform ‖ mean of the gate over the rows) / teachers."""
    means = [sum(column) / len(FEATURES) for column in zip(*map(gate, FEATURES), strict=True)]
    return kl([1 / 3] * 3, means) / 3


GATE = [0.500465283, 0.224873547, 0.274661171]  # of the first row
BALANCE = 0.005973521


# TRG: relations of three tokens in each of two rows; the student's have two numbers, the teacher's three

NEAR = [[[1.0, 0.0], [0.5, -1.0], [-0.3, 0.8]], [[0.3, 0.4], [-1.0, 0.3], [0.7, 0.7]]]
OVER = [
    [[0.9, 0.1, -0.4], [0.2, -0.8, 0.5], [-0.6, 0.3, 0.3]],
    [[0.1, 0.7, 0.2], [-0.9, -0.2, 0.6], [0.8, 0.5, -0.1]],
]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a):
    return [x / math.sqrt(dot(a, a)) for x in a]


def inner():
    """Of each row, the mean squared difference of softmax(F Fᵀ / √width)."""

    def context(tokens):
        return [softmax([dot(a, b) for b in tokens], math.sqrt(len(a))) for a in tokens]

    def difference(one, other):
        pairs = [(a, b) for rows in zip(one, other, strict=True) for a, b in zip(*rows, strict=True)]
        return sum((a - b) ** 2 for a, b in pairs) / len(pairs)

    return [difference(context(s), context(t)) for s, t in zip(NEAR, OVER, strict=True)]


def graph(tokens, k, sigma):
    """Of each token, softmax over all others of exp(−‖a − b‖² / 2σ) for the k nearest b, and 0 elsewhere."""
    units, shares = [unit(token) for token in tokens], []
    for i, a in enumerate(units):
        distances = [
            sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for j, b in enumerate(units) if j != i
        ]
        nearest = sorted(range(len(distances)), key=lambda j: distances[j])[:k]
        shares.append(
            softmax([math.exp(-d / (2 * sigma)) if j in nearest else 0 for j, d in enumerate(distances)])
        )
    return shares


def of_rows(values):
    """The means over the tokens of each of the two rows."""
    return [sum(values[:3]) / 3, sum(values[3:]) / 3]


def near(k, sigma):
    """The local term: KL(student ‖ teacher) of the graphs."""
    graphs = [graph([*tokens[0], *tokens[1]], k, sigma) for tokens in (NEAR, OVER)]
    return of_rows([kl(q, p) for q, p in zip(*graphs, strict=True)])


def contrast(temperature):
    """The global term: −log of the share of the teacher's own token, after the linear map of LAYER."""
    matrix, bias = LAYER
    mapped = [
        [dot(row, token) + c for row, c in zip(matrix, bias, strict=True)] for token in [*NEAR[0], *NEAR[1]]
    ]
    teacher = [unit(token) for token in [*OVER[0], *OVER[1]]]
    return of_rows(
        [-math.log(softmax([dot(unit(s), t) for t in teacher], temperature)[i]) for i, s in enumerate(mapped)]
    )


INNER = [0.006559103, 0.000662519]
LOCAL = {(2, 1.0): [0.017504618, 0.040594156], (5, 0.5): [0.014345116, 0.02449439]}
GLOBAL = {1.0: [1.286813999, 1.396161192], 0.1: [1.032228893, 1.782955675]}
GLOBAL_HALFWAY = [0.901190073, 1.177416949]  # the temperature is √0.1


# Distiller, MI-α: the score of the features of row i and the vector of row j, and a baseline of each vector

SCORES = [[1.2, -0.3, 0.4, -1.0], [0.1, 0.9, -0.6, 0.2], [-0.5, 0.3, 1.5, -0.2], [0.0, -0.8, 0.6, 0.7]]
BASELINES = [0.3, -0.1, 0.5, 0.2]


def information(j, alpha):
    """The part of row j in Poole et al.'s I_α."""
    column = [math.exp(row[j]) for row in SCORES]
    others = [x for i, x in enumerate(column) if i != j]

    def normal(values):
        return alpha * sum(values) / len(values) + (1 - alpha) * math.exp(BASELINES[j])

    return 1 + math.log(column[j] / normal(column)) - sum(others) / len(others) / normal(others)


INFORMATION = {
    0.0: [1.230374021, 1.064286415, 1.219040193, 0.842828581],
    0.01: [1.2269839, 1.059878188, 1.214676432, 0.841517721],
    0.5: [1.040963454, 0.858687962, 0.998434227, 0.755510013],
    0.9: [0.846802684, 0.711753653, 0.813170446, 0.638900667],
    1.0: [0.78924582, 0.676934631, 0.764698408, 0.599755274],
}


# AutoDistil: relations of three tokens of width 4 (student) and 8 (teacher), split into two heads


def relations(tokens, heads, kind):
    """Z Zᵀ / √d of each head, softmaxed for kl."""
    size = len(tokens[0]) // heads
    split = [[token[h * size : (h + 1) * size] for token in tokens] for h in range(heads)]
    raw = [[[dot(a, b) / math.sqrt(size) for b in head] for a in head] for head in split]
    return raw if kind == "mse" else [[softmax(row) for row in head] for head in raw]


def attention_relations(student, teacher, heads, kind):
    """The loss of a row: over queries, keys and values the sum, over heads and tokens the mean."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        pairs = zip(relations(ours, heads, kind), relations(theirs, heads, kind), strict=True)
        rows = [(q, p) for one, other in pairs for q, p in zip(one, other, strict=True)]
        if kind == "kl":
            total += sum(kl(p, q) for q, p in rows) / len(rows)
        else:
            total += sum((a - b) ** 2 for q, p in rows for a, b in zip(q, p, strict=True)) / len(rows) / 3
    return total


# of each row: queries, keys and values, each of three tokens
PROJECTIONS = [
    [
        [[0.3, -0.2, 0.9, 0.4], [1.0, 0.1, -0.3, 0.2], [-0.6, 0.7, 0.0, -0.5]],
        [[0.5, 0.5, -0.1, 0.3], [-0.2, 0.8, 0.6, -0.9], [0.4, -0.3, 0.2, 0.1]],
        [[-0.7, 0.2, 0.3, 0.3], [0.1, 0.6, -0.4, 0.8], [0.9, -0.1, 0.5, -0.2]],
    ],
    [
        [[0.1, 0.2, -0.9, 0.7], [0.0, -0.1, 0.3, 0.6], [0.6, -0.7, 0.4, 0.5]],
        [[-0.5, 0.3, 0.1, 0.9], [0.7, 0.8, -0.6, 0.2], [0.3, 0.3, -0.2, -0.1]],
        [[0.4, 0.2, 0.8, -0.3], [-0.1, -0.6, 0.4, 0.1], [0.2, 0.1, 0.5, 0.9]],
    ],
]
WIDER = [
    [[[2 * x for x in token] + token[::-1] for token in one] for one in reversed(row)] for row in PROJECTIONS
]
RELATIONS = {"kl": [0.523553553, 0.399709177], "mse": [1.995634835, 1.976937919]}


# Margin-MSE: of scores of a right and a wrong document


def margin_mse(student, teacher):
    """`student` and `teacher` hold a pair of scores for each query."""
    return sum(((a - b) - (c - d)) ** 2 for (a, b), (c, d) in zip(student, teacher, strict=True)) / len(
        student
    )


STUDENT_SCORES, TEACHER_SCORES = [(0.9, 0.2), (0.4, 0.5)], [(3.0, 1.0), (2.0, 1.5)]
MARGIN_MSE = 1.025


# KD3: the weight by the distance of the logits; and NT-Xent of rows and of the rows changed, temperature 0.3


def disagreement(s, p):
    """The teacher's logits are its log-probabilities."""
    return 1 / (1 + math.exp(-math.dist(s, log(p))))


def nt_xent(rows, changed, temperature=0.3):
    both = [unit(vector) for vector in [*rows, *changed]]
    count = len(rows)

    def of(i):
        scores = {j: dot(both[i], both[j]) / temperature for j in range(2 * count) if j != i}
        return math.log(sum(map(math.exp, scores.values()))) - scores[(i + count) % (2 * count)]

    return [(of(i) + of(i + count)) / 2 for i in range(count)]


DISAGREEMENT = [0.948546129, 0.961881551, 0.978945658, 0.870882765]
NT_XENT = [0.439567748, 0.241049654, 0.620580945, 3.749684093]  # of FEATURES and CHANGED
CHANGED = [[0.9, 0.2], [0.4, -0.7], [-0.5, 0.6], [-0.3, 0.1]]


# MulKI: the share of two teachers in a row, and relations to the means of the classes, temperature 0.25

SECOND = T[::-1]  # what another teacher says


def sure(i):
    """The softmax over the teachers of their largest probabilities."""
    return softmax([max(T[i]), max(SECOND[i])])


def prototypes(temperature=0.25):
    """KL(teacher ‖ student) of relations; the teacher's features are FEATURES, the student's CHANGED."""
    means = [
        [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        for c in range(3)
        if (rows := [v for v, y in zip(FEATURES, Y, strict=True) if y == c])
    ]

    def relations(vector):
        return softmax([dot(unit(vector), unit(mean)) for mean in means], temperature)

    return [kl(relations(t), relations(s)) for s, t in zip(CHANGED, FEATURES, strict=True)]


SURE = [0.574442517, 0.450166003, 0.549833997, 0.425557483]  # of the first teacher
PROTOTYPES = [0.022006776, 0.001913495, 0.001473974, 1.183546216]
