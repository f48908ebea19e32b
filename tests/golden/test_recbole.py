#!/usr/bin/env python3
"""The twin's SASRec against RecBole's own class: same weights, same loss, same gradients.

Needs torch and recbole (exit 77 without). Dropout off, float64.
"""
import os
import sys
import warnings

warnings.filterwarnings("ignore")
try:
    import torch
    from recbole.model.sequential_recommender import SASRec
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mealrec_torch as twin  # noqa: E402

ITEMS, L, D, HEADS, INNER = 37, 10, 16, 2, 24


class Config(dict):
    def __getitem__(self, key):
        return self.get(key)


class Dataset:
    def num(self, field):
        return ITEMS + 1


def renamed(name):
    for a, b in (("item_embedding", "item"), ("position_embedding", "position"),
                 ("trm_encoder.layer.", "encoder."), ("multi_head_attention.LayerNorm", "norm1"),
                 ("feed_forward.LayerNorm", "norm2"), ("LayerNorm", "input_norm"),
                 ("multi_head_attention.query", "q"), ("multi_head_attention.key", "k"),
                 ("multi_head_attention.value", "v"), ("multi_head_attention.dense", "o"),
                 ("feed_forward.dense_1", "fc1"), ("feed_forward.dense_2", "fc2")):
        if a in name:
            name = name.replace(a, b)
    return name


def main():
    torch.manual_seed(5)
    peer = SASRec(Config(
        USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", LIST_SUFFIX="_list", NEG_PREFIX="neg_",
        ITEM_LIST_LENGTH_FIELD="item_length", MAX_ITEM_LIST_LENGTH=L, n_layers=2, n_heads=HEADS,
        hidden_size=D, inner_size=INNER, hidden_dropout_prob=0.5, attn_dropout_prob=0.5,
        hidden_act="gelu", layer_norm_eps=1e-12, initializer_range=0.5, loss_type="CE",
        device="cpu"), Dataset()).double().eval()
    length = torch.randint(1, L + 1, (50,))
    history = torch.randint(1, ITEMS + 1, (50, L)) * (torch.arange(L) < length[:, None])
    target = torch.randint(1, ITEMS + 1, (50,))
    loss = peer.calculate_loss({"item_id_list": history, "item_length": length,
                                "item_id": target})
    loss.backward()
    theirs = {renamed(n): p for n, p in peer.named_parameters()}
    cfg = twin.resolve({"model": {"name": "sasrec", "hidden": D, "inner": INNER}})
    shapes = twin.parameter_shapes(cfg, ITEMS)
    assert {n: tuple(p.shape) for n, p in theirs.items()} == shapes, sorted(theirs)
    params = {n: p.detach().clone().requires_grad_(True) for n, p in theirs.items()}
    _, own = twin.Model(cfg, params).forward(
        {"history": history, "length": length, "target": target}, {})
    own["total"].backward()
    worst = abs(float(own["total"].detach() - loss.detach())) / float(loss.detach())
    print("loss %.12f, relative difference %.3g" % (float(loss.detach()), worst))
    failed = not worst < 1e-12
    for n, p in theirs.items():
        scale = theirs[n.replace(".k.bias", ".v.bias")].grad.square().mean().sqrt()
        ratio = float((params[n].grad - p.grad).abs().max() / scale)
        if not ratio < 1e-9:
            print("FAIL grad of %s differs by %.3g of its size" % (n, ratio))
            failed = True
    print("%d gradients compared" % len(theirs))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
