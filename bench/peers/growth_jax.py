"""The cases of growth.py in JAX, each one compiled function; tokens lie time-major in the LSTM."""
import os

import jax
import jax.numpy as jnp

HEAD = 64
BETA_1, BETA_2, EPS, RATE = 0.9, 0.999, 1e-8, 1e-3


def versions():
    return {"jax": jax.__version__, "platform": jax.default_backend()}


def setup(args):
    usable = len(os.sched_getaffinity(0))
    if usable != args.threads:
        raise SystemExit(f"growth: --threads {args.threads}: JAX uses all usable CPUs, {usable}; expected taskset -c "
                         "with as many")
    if versions()["platform"] != "cpu":
        raise SystemExit(f"growth: JAX uses {versions()['platform']}; expected cpu (JAX_PLATFORMS=cpu)")


def prepare(args):
    keys = iter(jax.random.split(jax.random.key(args.seed), 1000))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    def uniform(*shape, bound):
        return jax.random.uniform(next(keys), shape, minval=-bound, maxval=bound)

    return {"product": product, "lstm": lstm, "encoder": encoder}[args.case](args, normal, uniform)


def product(args, normal, _):
    a = normal(args.k, args.m) if args.layout == "tn" else normal(args.m, args.k)
    b = normal(args.n, args.k) if args.layout == "nt" else normal(args.k, args.n)
    multiply = jax.jit({"nn": lambda a, b: a @ b, "nt": lambda a, b: a @ b.T, "tn": lambda a, b: a.T @ b}[args.layout])
    return lambda: multiply(a, b).block_until_ready(), {}


def lstm_layer(weights, x):
    w_ih, w_hh, b_ih, b_hh = weights

    def cell(state, projected):
        h, c = state
        i, f, g, o = jnp.split(projected + h @ w_hh.T, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], w_hh.shape[1]))
    return jax.lax.scan(cell, (zeros, zeros), x @ w_ih.T + (b_ih + b_hh))[1]


def lstm(args, normal, uniform):
    bound = args.hidden ** -0.5
    weights = [uniform(4 * args.hidden, *rest, bound=bound) for rest in ((args.input,), (args.hidden,), (), ())]
    x, dy = normal(args.time, args.batch, args.input), normal(args.time, args.batch, args.hidden)
    gradients = jax.jit(jax.grad(lambda weights, x, dy: jnp.vdot(lstm_layer(weights, x), dy), argnums=(0, 1)))
    return lambda: jax.block_until_ready(gradients(weights, x, dy)), {"path": "lax.scan"}


def norm(x, gamma, beta):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * gamma + beta


def block(p, x):
    batch, time, width = x.shape
    qkv = (norm(x, *p["norm_1"]) @ p["qkv"][0] + p["qkv"][1]).reshape(batch, time, 3, width // HEAD, HEAD)
    q, k, v = (qkv[:, :, i] for i in range(3))
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) * HEAD ** -0.5, axis=-1)
    y = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(batch, time, width)
    x = x + y @ p["output"][0] + p["output"][1]
    hidden = jax.nn.gelu(norm(x, *p["norm_2"]) @ p["linear_1"][0] + p["linear_1"][1], approximate=False)
    return x + hidden @ p["linear_2"][0] + p["linear_2"][1]


def adam(value, gradient, m, v, count):
    m = BETA_1 * m + (1 - BETA_1) * gradient
    v = BETA_2 * v + (1 - BETA_2) * jnp.square(gradient)
    rate = RATE / (1 - BETA_1 ** count)
    return value - rate * m / (jnp.sqrt(v / (1 - BETA_2 ** count)) + EPS), m, v


def encoder(args, normal, uniform):
    width = args.width

    def linear(given, made):
        return uniform(given, made, bound=given ** -0.5), uniform(made, bound=given ** -0.5)

    def parameters():
        return {"norm_1": (jnp.ones(width), jnp.zeros(width)), "norm_2": (jnp.ones(width), jnp.zeros(width)),
                "qkv": linear(width, 3 * width), "output": linear(width, width),
                "linear_1": linear(width, 4 * width), "linear_2": linear(4 * width, width)}

    def product_with(dy, blocks, x):
        for p in blocks:
            x = block(p, x)
        return jnp.vdot(x, dy)

    def step(state, x, dy):
        values, m, v, count = state
        gradients, dx = jax.grad(product_with, argnums=(1, 2))(dy, values, x)
        leaves, tree = jax.tree.flatten(values)
        updated = [adam(*each, count + 1.0) for each in
                   zip(leaves, jax.tree.leaves(gradients), jax.tree.leaves(m), jax.tree.leaves(v))]
        values, m, v = (jax.tree.unflatten(tree, part) for part in zip(*updated))
        return (values, m, v, count + 1.0), dx

    compiled = jax.jit(step, donate_argnums=0)
    values = [parameters() for _ in range(args.blocks)]
    state = (values, jax.tree.map(jnp.zeros_like, values), jax.tree.map(jnp.zeros_like, values), jnp.zeros(()))
    x, dy = normal(args.batch, args.time, width), normal(args.batch, args.time, width)

    def call():
        nonlocal state
        state, dx = compiled(state, x, dy)
        jax.block_until_ready((state, dx))

    return call, {"parameters": sum(leaf.size for leaf in jax.tree.leaves(values))}
