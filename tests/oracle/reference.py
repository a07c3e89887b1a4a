"""Further cases, drawn at random, with numbers from formulas written down a second time in numpy.

The formulas follow the papers' own signs, which descend along ``w - w_k``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tests.oracle.cases import Case

Array = NDArray[np.float64]


def draw_case(algorithm: str, options: Mapping[str, Any], seed: int) -> Case:
    """Return a case of an algorithm with random numbers, dimensions, clients and rounds.

    Args:
        algorithm: A key of the table below.
        options: Inputs that are set and not drawn.
        seed: Decides everything else.
    """
    rng = np.random.default_rng(seed)
    inputs, expected = _DRAWS[algorithm](rng, options)
    return Case(
        id=f"{algorithm} {dict(options)} {seed}",
        algorithm=algorithm,
        kind="client_step" if algorithm == "FedProx" else "multi_round",
        convention="",
        inputs=inputs,
        expected=expected,
        rtol=1e-11,
        atol=1e-11,
    )


def _server_optimizer(
    rng: Generator, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    dimension = int(rng.integers(1, 6))
    w = rng.normal(size=dimension)
    inputs: dict[str, Any] = {"global_params": w.tolist(), "rounds": [], **options}
    state: dict[str, Array] = {}
    points = []
    for t in range(1, int(rng.integers(2, 6)) + 1):
        clients = int(rng.integers(1, 5))
        theirs = rng.normal(size=(clients, dimension))
        n = rng.integers(1, 100, size=clients)
        inputs["rounds"].append({"client_params": theirs.tolist(), "num_examples": n.tolist()})
        weights = np.ones(clients) if options.get("weighting") == "uniform" else n
        descent = w - (weights / weights.sum()) @ theirs
        w = w - _descend(descent, options, state, t)
        points.append(w.tolist())
    return inputs, {"global_params_per_round": points}


def _descend(d: Array, options: Mapping[str, Any], state: dict[str, Array], t: int) -> Array:
    if "tau" not in options:
        beta = options.get("server_momentum", 0.0)
        state["v"] = beta * state.get("v", np.zeros_like(d)) + d
        step = d + beta * state["v"] if options.get("nesterov") else state["v"]
        return options.get("server_lr", 1.0) * step
    b1, b2, tau, lr = (options[name] for name in ("beta_1", "beta_2", "tau", "eta"))
    m = state["m"] = b1 * state.get("m", np.zeros_like(d)) + (1 - b1) * d
    before = state.get("v", np.full_like(d, options.get("v_init", tau**2)))
    kind = options["kind"]
    if kind == "adagrad":
        v = before + d * d
    elif kind == "adam":
        v = b2 * before + (1 - b2) * d * d
    else:
        v = before - (1 - b2) * d * d * np.sign(before - d * d)
    state["v"] = v
    correction = options.get("bias_correction", "none")
    if correction == "textbook":
        return lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + tau)
    exponent = t + 1 if correction == "flower" else t
    scale = 1.0 if correction == "none" else np.sqrt(1 - b2**exponent) / (1 - b1**exponent)
    return lr * scale * m / (np.sqrt(v) + tau)


def _adaptive(kind: str) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    def draw(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        knobs = {"eta": 0.3, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01, **options}
        inputs, expected = _server_optimizer(rng, {**knobs, "kind": kind})
        del inputs["kind"]
        return inputs, expected

    return draw


def _quadratics(rng: Generator, clients: int, dimension: int) -> tuple[Array, Array]:
    return rng.uniform(0.5, 3, size=(clients, dimension)), rng.normal(size=(clients, dimension))


def _prox(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    clients, dimension = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    a, b = _quadratics(rng, clients, dimension)
    w, n = rng.normal(size=dimension), rng.integers(1, 9, size=clients)
    mu, lr, steps = options.get("mu", 0.3), 0.1, rng.integers(1, 7, size=clients)
    results = []
    for k in range(clients):
        x = w
        for _ in range(steps[k]):
            x = x - lr * (a[k] * (x - b[k]) + mu * (x - w))
        results.append(x)
    inputs = {
        "global_params": w.tolist(),
        "client_quadratics": [{"a": a[k].tolist(), "b": b[k].tolist()} for k in range(clients)],
        "mu": mu,
        "lr": lr,
        "local_steps": steps.tolist(),
        "num_examples": n.tolist(),
    }
    expected = {
        "client_params": [x.tolist() for x in results],
        "global_params": ((n / n.sum()) @ np.array(results)).tolist(),
        "exact_prox_minimiser": ((a * b + mu * w) / (a + mu)).tolist(),
    }
    return inputs, expected


def _scaffold(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    clients, dimension = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    a, b = _quadratics(rng, clients, dimension)
    w, c = rng.normal(size=dimension), rng.normal(size=dimension)
    own = rng.normal(size=(clients, dimension))
    lr, steps, server_lr = 0.1, int(rng.integers(1, 6)), options.get("server_lr", 1.0)
    inputs: dict[str, Any] = {
        "global_params": w.tolist(),
        "client_quadratics": [{"a": a[k].tolist(), "b": b[k].tolist()} for k in range(clients)],
        "num_clients": clients,
        "participants_per_round": [],
        "lr": lr,
        "local_steps": steps,
        "server_lr": server_lr,
        "c_init": c.tolist(),
        "c_i_init": own.tolist(),
        **options,
    }
    rounds = []
    for _ in range(int(rng.integers(2, 5))):
        size = int(rng.integers(1, clients + 1))
        cohort = sorted(rng.choice(clients, size=size, replace=False).tolist())
        inputs["participants_per_round"].append(cohort)
        models, changes = [], []
        for k in cohort:
            y = w
            for _ in range(steps):
                y = y - lr * (a[k] * (y - b[k]) - own[k] + c)
            models.append(y)
            if options.get("option") == "I":
                changes.append(a[k] * (w - b[k]) - own[k])
            else:
                changes.append(own[k] - c + (w - y) / (steps * lr) - own[k])
        for k, change in zip(cohort, changes, strict=True):
            own[k] = own[k] + change
        w = w + server_lr * np.mean([y - w for y in models], axis=0)
        c = c + np.sum(changes, axis=0) / clients
        rounds.append(
            {
                "client_params": [y.tolist() for y in models],
                "delta_c": [change.tolist() for change in changes],
                "global_params": w.tolist(),
                "c": c.tolist(),
                "c_i": own.tolist(),
            }
        )
    return inputs, {"rounds": rounds}


def _fedsgd(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    dimension = int(rng.integers(1, 6))
    w = rng.normal(size=dimension)
    inputs: dict[str, Any] = {"global_params": w.tolist(), "rounds": [], **options}
    points, mean = [], w
    for _ in range(3):
        clients = int(rng.integers(1, 5))
        g, n = rng.normal(size=(clients, dimension)), rng.integers(1, 9, size=clients)
        inputs["rounds"].append({"client_gradients": g.tolist(), "num_examples": n.tolist()})
        weights = np.ones(clients) if options.get("weighting") == "uniform" else n
        mean = (weights / weights.sum()) @ g
        w = w - options["server_lr"] * mean
        points.append(w.tolist())
    return inputs, {"global_params_per_round": points, "mean_gradient": mean.tolist()}


def _qfedavg(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    dimension = int(rng.integers(1, 6))
    w, lr = rng.normal(size=dimension), float(rng.uniform(0.01, 0.5))
    inputs: dict[str, Any] = {"global_params": w.tolist(), "rounds": [], "client_lr": lr, **options}
    q, L, points = options["q"], options.get("lipschitz", 1 / lr), []
    for _ in range(3):
        clients = int(rng.integers(1, 5))
        theirs = rng.normal(size=(clients, dimension))
        F = rng.uniform(0.1, 3, size=clients)
        inputs["rounds"].append(
            {"client_params": theirs.tolist(), "loss_of_global_model": F.tolist()}
        )
        F = F + options.get("loss_offset", 0.0)
        gradients = L * (w - theirs)
        h = q * F ** (q - 1) * (gradients**2).sum(axis=1) + L * F**q
        w = w - (F**q) @ gradients / h.sum()
        points.append(w.tolist())
    return inputs, {"global_params_per_round": points}


def _fedexp(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    dimension = int(rng.integers(1, 6))
    w = rng.normal(size=dimension)
    inputs: dict[str, Any] = {"global_params": w.tolist(), "rounds": [], **options}
    points, lrs = [w], []
    for _ in range(3):
        clients = int(rng.integers(1, 7))
        d, n = rng.normal(size=(clients, dimension)), rng.integers(1, 9, size=clients)
        inputs["rounds"].append({"client_deltas": d.tolist(), "num_examples": n.tolist()})
        p = np.full(clients, 1 / clients) if options.get("weighting") == "uniform" else n / n.sum()
        spread = sum(p[k] * np.linalg.norm(d[k]) ** 2 for k in range(clients))
        lr = max(1.0, spread / (2 * (np.linalg.norm(p @ d) ** 2 + options["epsilon"])))
        points.append(points[-1] + lr * (p @ d))
        lrs.append([lr])
    return inputs, {
        "global_params_per_round": [point.tolist() for point in points[1:]],
        "server_lr_per_round": lrs,
        "mean_of_last_two": ((points[-1] + points[-2]) / 2).tolist(),
    }


def _fednova(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    clients, dimension = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    a, b = _quadratics(rng, clients, dimension)
    w, p, lr = rng.normal(size=dimension), rng.dirichlet(np.ones(clients)), 0.05
    taus = rng.integers(1, 8, size=clients)
    rho, mu = options.get("momentum", 0.0), options.get("mu", 0.0)
    vectors, models = [], []
    for k in range(clients):
        x, v = w, np.zeros(dimension)
        for _ in range(taus[k]):
            g = a[k] * (x - b[k]) + mu * (x - w)
            v = rho * v + g
            x = x - lr * (g + rho * v if options.get("nesterov") else v)
        models.append(x)
        left = taus[k] - 1 - np.arange(taus[k])  # steps that come after each
        if mu:
            vectors.append((1 - lr * mu) ** left)
        elif options.get("nesterov"):
            vectors.append(1 + rho * (1 - rho ** (left + 1)) / (1 - rho))
        else:
            vectors.append((1 - rho ** (left + 1)) / (1 - rho))
    norms = np.array([one.sum() for one in vectors])
    d = [(w - x) / (lr * norm) for x, norm in zip(models, norms, strict=True)]
    inputs = {
        "global_params": w.tolist(),
        "client_quadratics": [{"a": a[k].tolist(), "b": b[k].tolist()} for k in range(clients)],
        "p": p.tolist(),
        "taus": taus.tolist(),
        "lr": lr,
        **options,
    }
    expected = {
        "client_params": [x.tolist() for x in models],
        "a_vectors": [one.tolist() for one in vectors],
        "a_norms": norms.tolist(),
        "tau_eff_from_a": float(p @ norms),
        "tau_eff_from_steps": float(p @ taus),
        "global_params": (w - lr * (p @ norms) * (p @ np.array(d))).tolist(),
    }
    return inputs, expected


def _feddyn(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    clients, dimension = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    a, b = _quadratics(rng, clients, dimension)
    w, lr, steps, alpha = rng.normal(size=dimension), 0.1, 5, options["alpha"]
    inputs: dict[str, Any] = {
        "global_params": w.tolist(),
        "client_quadratics": [{"a": a[k].tolist(), "b": b[k].tolist()} for k in range(clients)],
        "num_clients": clients,
        "participants_per_round": [],
        "lr": lr,
        "local_steps": steps,
        **options,
    }
    h, own, rounds = np.zeros(dimension), np.zeros((clients, dimension)), []
    for _ in range(4):
        size = int(rng.integers(1, clients + 1))
        cohort = sorted(rng.choice(clients, size=size, replace=False).tolist())
        inputs["participants_per_round"].append(cohort)
        models = []
        for k in cohort:
            x = w
            for _ in range(steps):
                x = x - lr * (a[k] * (x - b[k]) - own[k] + alpha * (x - w))
            own[k] = own[k] - alpha * (x - w)
            models.append(x)
        h = h - alpha / clients * np.sum([x - w for x in models], axis=0)
        mean = np.mean(models, axis=0)
        w = mean - h / alpha
        rounds.append(
            {
                "client_params": [x.tolist() for x in models],
                "mean_params": mean.tolist(),
                "global_params": w.tolist(),
                "h": h.tolist(),
                "h_k": own.tolist(),
            }
        )
    return inputs, {"rounds": rounds}


def _moon(rng: Generator, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    z, received, last = rng.normal(size=(3, int(rng.integers(2, 6))))
    cosines = [z @ one / np.sqrt((z @ z) * (one @ one)) for one in (received, last)]
    inputs = {"z": z.tolist(), "z_glob": received.tolist(), "z_prev": last.tolist(), **options}
    gap = (cosines[1] - cosines[0]) / options["temperature"]
    return inputs, {"l_con": float(np.logaddexp(0, gap))}


_DRAWS: Mapping[str, Callable[..., tuple[dict[str, Any], dict[str, Any]]]] = {
    "FedAvg": _server_optimizer,
    "FedAvgM": _server_optimizer,
    "FedAdagrad": _adaptive("adagrad"),
    "FedAdam": _adaptive("adam"),
    "FedYogi": _adaptive("yogi"),
    "FedProx": _prox,
    "SCAFFOLD": _scaffold,
    "FedSGD": _fedsgd,
    "q-FedAvg": _qfedavg,
    "FedExP": _fedexp,
    "FedNova": _fednova,
    "FedDyn": _feddyn,
    "MOON": _moon,
}
