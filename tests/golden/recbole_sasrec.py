#!/usr/bin/env python3
"""Train RecBole's own SASRec on one interaction log: the peer that our SASRec is compared with.

Needs torch and recbole (1.2.1). Nothing of RecBole is changed: its Dataset, data_preparation,
SASRec, Trainer._train_epoch and Trainer.evaluate are used as they are. Only the loop over epochs
is written here, because RecBole's own loop would write pickled checkpoints, and torch >= 2.6
refuses to load them back by default.

Input: a pairs file (user TAB items separated by blanks, oldest first) or a RecBole .inter file,
plain or xz. Both are rewritten as an .inter file whose time stamp is the position 1..n of the
interaction in its user's list. For an .inter input this position comes from a *stable* sort by
time (equal time stamps keep their order in the file). The rewriting matters: RecBole stores time
stamps as float32, where Unix seconds of 1998 are 64 s apart, so that it would break ties, and
merge distinct times, in its own way.

Protocol: leave one out (LS valid_and_test, order TO), n-3 training rows a user, full ranking over
all items, PAD masked only, history cut to the last L. Metrics are computed to 6 decimals; the
best epoch is chosen on validation NDCG@10 *rounded to 4 decimals*, a tie counting as improvement
(RecBole's rule), and no early stopping cuts the number of epochs. Test is scored with the weights
of the best epoch, and once more with those of the last epoch.

Usage: recbole_sasrec.py --data FILE --seed 2020 --epochs 20 --out result.json
                         [--max-len 10] [--hidden 64] [--threads 1] [--workdir DIR]
"""
import argparse
import copy
import json
import lzma
import os
import resource
import shutil
import sys
import tempfile
import time


def open_text(path):
    if path.endswith(".xz"):
        return lzma.open(path, "rt", encoding="utf-8")
    return open(path, "rt", encoding="utf-8")


def read_log(path):
    """{user: [items, oldest first]} with raw ids as strings."""
    with open_text(path) as f:
        first = f.readline().rstrip("\n")
        if first.startswith("user_id:token"):
            cols = first.split("\t")
            iu = cols.index("user_id:token")
            ii = cols.index("item_id:token")
            it = cols.index("timestamp:float")
            rows = {}
            for line in f:
                p = line.rstrip("\n").split("\t")
                rows.setdefault(p[iu], []).append((float(p[it]), p[ii]))
            return {u: [i for _, i in sorted(r, key=lambda x: x[0])] for u, r in rows.items()}
        log = {}
        line = first
        while line:
            user, items = line.rstrip("\n").split("\t")
            log[user] = items.split()
            line = f.readline()
        return log


def write_inter(log, root, name):
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name + ".inter"), "wt", encoding="utf-8") as f:
        f.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in log.items():
            for k, item in enumerate(items):
                f.write("%s\t%s\t%d\n" % (user, item, k + 1))


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int, default=2020)
    ap.add_argument("--epochs", type=int, default=20)
    ap.add_argument("--max-len", type=int, default=10)
    ap.add_argument("--hidden", type=int, default=64)
    ap.add_argument("--inner", type=int, default=256)
    ap.add_argument("--batch", type=int, default=2048)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--dropout", type=float, default=0.5)
    ap.add_argument("--eval-batch", type=int, default=4096)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--max-batches", type=int, default=0,
                    help="stop each epoch after so many batches (timing only)")
    ap.add_argument("--workdir", default=None, help="kept; without it a temporary folder is used")
    args = ap.parse_args()

    import numpy as np
    import torch
    torch.set_num_threads(args.threads)
    import recbole
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    log = read_log(args.data)
    n_users = len(log)
    n_items = len({i for r in log.values() for i in r})
    n_inter = sum(len(r) for r in log.values())
    print("data %s: %d users, %d items, %d interactions" % (
        os.path.basename(args.data), n_users, n_items, n_inter), flush=True)

    root = args.workdir or tempfile.mkdtemp(prefix="recbole-")
    cwd = os.getcwd()
    out = os.path.abspath(args.out)
    try:
        os.makedirs(root, exist_ok=True)
        os.chdir(root)  # RecBole writes log/, saved/ and log_tensorboard/ below the current folder
        write_inter(log, os.path.join(root, "dataset"), "peer")
        settings = dict(
            data_path=os.path.join(root, "dataset"), checkpoint_dir=os.path.join(root, "saved"),
            use_gpu=False, seed=args.seed, reproducibility=True, show_progress=False,
            load_col={"inter": ["user_id", "item_id", "timestamp"]},
            USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", TIME_FIELD="timestamp",
            MAX_ITEM_LIST_LENGTH=args.max_len, normalize_all=False, state="WARNING",
            eval_args={"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO",
                       "mode": "full"},
            train_neg_sample_args=None, loss_type="CE",
            n_layers=2, n_heads=2, hidden_size=args.hidden, inner_size=args.inner,
            hidden_dropout_prob=args.dropout, attn_dropout_prob=args.dropout,
            hidden_act="gelu", layer_norm_eps=1e-12, initializer_range=0.02,
            learner="adam", learning_rate=args.lr, weight_decay=0.0,
            train_batch_size=args.batch, eval_batch_size=args.eval_batch,
            epochs=args.epochs, eval_step=1, stopping_step=10 ** 6,
            metrics=["Hit", "NDCG", "MRR"], topk=[10, 20],
            valid_metric="NDCG@10", metric_decimal_place=6)
        argv, sys.argv = sys.argv, sys.argv[:1]  # RecBole parses the command line on its own
        config = Config(model="SASRec", dataset="peer", config_dict=settings)
        sys.argv = argv
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(config["model"])(config, train._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        rows = len(train._dataset)
        n_param = sum(p.numel() for p in model.parameters())
        expect = sum(max(0, len(r) - 3) for r in log.values())
        print("training rows %d (sum of n-3: %d), batches %d, valid %d, test %d, parameters %d" % (
            rows, expect, len(train), len(valid._dataset), len(test._dataset), n_param), flush=True)
        assert rows == expect

        if args.max_batches:
            def some(n, it=train):
                for k, b in enumerate(it):
                    if k == n:
                        return
                    yield b
            t = time.time()
            model.train()
            trainer._train_epoch(list(some(args.max_batches)), 0)
            t1 = time.time()
            trainer.evaluate(valid, load_best_model=False)
            print("%.3f s a batch, %.1f s an evaluation" % (
                (t1 - t) / args.max_batches, time.time() - t1), flush=True)
            return

        epochs, best, best_epoch, best_state = [], -1.0, -1, None
        t_start = time.time()
        for e in range(args.epochs):
            t0 = time.time()
            loss = trainer._train_epoch(train, e, show_progress=False)
            t1 = time.time()
            res = {k: float(v) for k, v in trainer.evaluate(valid, load_best_model=False).items()}
            t2 = time.time()
            if round(res["ndcg@10"], 4) >= best:
                best, best_epoch = round(res["ndcg@10"], 4), e
                best_state = copy.deepcopy(model.state_dict())
            epochs.append(dict(epoch=e, loss_sum=loss, loss_mean=loss / len(train),
                               train_s=t1 - t0, eval_s=t2 - t1, valid=res))
            print("epoch %d  loss %.6f (sum %.4f)  train %.1f s  eval %.1f s  %s" % (
                e, loss / len(train), loss, t1 - t0, t2 - t1,
                "  ".join("%s %.6f" % kv for kv in res.items())), flush=True)
        last = {k: float(v) for k, v in trainer.evaluate(test, load_best_model=False).items()}
        model.load_state_dict(best_state)
        res = {k: float(v) for k, v in trainer.evaluate(test, load_best_model=False).items()}
        print("test at best epoch %d: %s" % (
            best_epoch, "  ".join("%s %.6f" % kv for kv in res.items())), flush=True)
        print("test at last epoch %d: %s" % (
            args.epochs - 1, "  ".join("%s %.6f" % kv for kv in last.items())), flush=True)
        report = dict(
            data=os.path.basename(args.data), users=n_users, items=n_items, interactions=n_inter,
            training_rows=rows, parameters=n_param, seed=args.seed,
            settings=dict(max_len=args.max_len, hidden=args.hidden, inner=args.inner, layers=2,
                          heads=2, dropout=args.dropout, attention_dropout=args.dropout,
                          batch=args.batch, lr=args.lr, epochs=args.epochs, loss="CE",
                          hidden_act="gelu", layer_norm_eps=1e-12, initializer_range=0.02),
            versions=dict(torch=torch.__version__, recbole=recbole.__version__,
                          numpy=np.__version__, python=sys.version.split()[0]),
            threads=args.threads, wall_s=time.time() - t_start,
            peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
            best_epoch=best_epoch, best_valid=epochs[best_epoch]["valid"],
            test=res, test_last_epoch=last, epochs=epochs)
        os.chdir(cwd)
        with open(out + ".part", "wt") as f:
            json.dump(report, f, indent=1)
        os.replace(out + ".part", out)
    finally:
        os.chdir(cwd)
        if args.workdir is None:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
