"""Arithmetic of one training step, from the sizes of the model alone: what its formulas say, with
padding and with nothing left out ("unpruned", docs/gpu.md). A product of m x n x k is 2 m n k; what
is not a product is not counted.

What it is not: the operations that a program does; `mealrec-dist plan` says those.
"""

# The widths of the figures; temporal: inner width of the encoder of the frames, npd: of NPD's.
FIGURES = {"rows": 2048, "L": 10, "K": 5, "D": 768, "text": 768, "d": 300, "layers": 2,
           "inner": 256, "temporal": 1536, "C": 128, "npd": 256, "experts": 8, "items": 18700}


def layer(tokens, keys, width, inner):
    """A Transformer layer: four projections, scores and their sum, two products of the FFN."""
    return tokens * (8 * width * width + 4 * keys * width + 4 * width * inner)


def convolutions(z):
    """U-Net: every convolution of width 3 and the skips of width 1, for one row."""
    C, D, n = z["C"], z["D"], z["K"]
    half = (n + 1) // 2

    def conv(inp, out, frames, width=3):
        return 2 * width * inp * out * frames

    def block(inp, out, frames):
        skip = conv(inp, out, frames, 1) if inp != out else 0
        return conv(inp, out, frames) + conv(out, out, frames) + skip
    return (conv(D, C, n) + block(C, C, n) + conv(C, C, half) + block(C, 2 * C, half) +
            2 * block(2 * C, 2 * C, half) + block(4 * C, 2 * C, half) + conv(2 * C, C, n) +
            block(2 * C, C, n) + conv(C, D, n))


def time_and_film(z):
    C = z["C"]
    outputs = C + 2 * C + 2 * C + 2 * C + 2 * C + C  # of the six blocks; scale and shift of each
    return 2 * C * 4 * C + 2 * 4 * C * 4 * C + 2 * 4 * C * 2 * outputs


def cross_attention(z):
    """Queries and outputs of every frame, key and value of the one context vector; five blocks."""
    half = (z["K"] + 1) // 2
    frames = {z["C"]: 2 * z["K"], 2 * z["C"]: 3 * half}  # by width: 2 blocks, 3 blocks
    blocks = {z["C"]: 2, 2 * z["C"]: 3}
    return sum(4 * w * w * frames[w] + 4 * z["D"] * w * blocks[w] for w in frames)


def forward(z, backbone):
    """{part: FLOP of forward}. The names are those of the table in docs/gpu.md."""
    B = z["rows"]
    parts = {
        "sequence encoder": z["layers"] * layer(B * z["L"], z["L"], z["d"], z["inner"]),
        "temporal encoder": layer(B * z["K"], z["K"], z["D"], z["temporal"]),
        "U-Net, convolutions": B * convolutions(z),
        "U-Net, time": B * time_and_film(z),
        "U-Net, cross-attention": B * cross_attention(z),
        "NPD": B * 2 * z["d"] * (z["K"] * z["D"] + z["text"]) +
        layer(B * (z["K"] + 2), z["K"] + 2, z["d"], z["npd"]),
        "item head": 2 * B * z["d"] * z["items"]}
    if backbone == "tedrec":
        parts["TedRec"] = 2 * B * z["L"] * z["text"] * z["d"] * z["experts"]
    return parts


def step(z, backbone):
    """{part: FLOP of forward and backward}: backward is twice forward, but for the experts, whose
    input is frozen."""
    return {n: (2 if n == "TedRec" else 3) * f for n, f in forward(z, backbone).items()}


def total(z, backbone):
    return sum(step(z, backbone).values())
