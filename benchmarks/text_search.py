"""Search in a million sentences on this machine: how long the slowest take, how many are found, what memory it takes.

100,000 texts are real (a fifth of them windows of two sentences, of the corpus in ``$QUILTWORK_DATA``), encoded with
all-MiniLM-L6-v2; the others are those again with noise, as far apart as real ones that are near. Queries are other
sentences of the corpus, one at a time, text in and text out, timed by who asks. The exact answer is that of all vectors
in the index. Encoding and building take longest; ``$QUILTWORK_BENCH_WORK`` names a folder to keep their results in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import NotFoundError
from quiltwork.text.embedder import Vectors
from work.collection import encoded, kept, near, overlap, texts
from work.side import Side

P99, RECALL, RSS = "text.search_p99", "text.search_recall", "text.search_rss"
WHAT = "search in 1,000,000 vectors of 384 numbers, encoding the query included"
CLAIMS = (
    Claim(name=P99, room="text", title=f"{WHAT}: 99th percentile", reach=at_most(50.0), ratio="ours/baseline",
          unit="ms, against 1 ms"),
    Claim(name=RECALL, room="text", title=f"{WHAT}: recall@10 against all vectors", reach=at_least(0.95),
          ratio="ours/baseline", unit="share found, against all"),
    Claim(name=RSS, room="text", title=f"{WHAT}: resident memory of the process at most", reach=at_most(1.5),
          ratio="ours/baseline", unit="GB, against 1 GB"),
)  # fmt: skip
K, ROUNDS = 10, 5


def run(context: Context) -> Mapping[str, Outcome]:
    """Build, then ask every query once in each round; every round gives a sample of each claim."""
    from quiltwork.text.models import model_at
    from quiltwork.text.search.index import Index

    if context.data is None:
        raise NotFoundError("needs the corpus", where="text_search", hint="$QUILTWORK_DATA")
    real, total, asked = (2_000, 20_000, 100) if context.quick else (100_000, 1_000_000, 1_000)
    context.progress("reading the corpus")
    sentences, queries = texts(context.data, real, asked, context.seed)
    embedder = model_at(None)
    began = context.clock()
    vectors = encoded(sentences, embedder, context.scratch, context.progress)
    encoding = context.clock() - began
    folder = _index(context, vectors, sentences, total)
    building = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))["building_s"]
    context.progress("looking at every vector")
    with Index(folder, whole=False) as index:
        meta = index.meta
        exact, _ = index.exactly(embedder.embed(queries).vectors, K)
    del vectors
    p99, recall, rss, all_ms = [], [], [], []
    cores = os.cpu_count() or 1
    with Side("work.searching:SearchServer", threads=cores, folder=folder, cores=cores) as server:
        for query in queries[:50]:
            server.call("ask", query, K)
        for turn in range(ROUNDS):
            context.progress(f"round {turn + 1} of {ROUNDS}")
            found, took = [], []
            for query in queries:
                before = context.clock()
                found.append(server.call("ask", query, K))
                took.append(1e3 * (context.clock() - before))
            p99.append(float(np.quantile(took, 0.99)))
            recall.append(float(overlap(np.array(found), exact).mean()))
            rss.append(server.call("memory")["most"] / 1e9)
            all_ms += took
    details = {
        "sentences": meta.count, "real": real, "queries": asked, "k": K, "left_out": meta.left_out,
        "encoding_s": round(encoding, 1), "building_s": building, "median_ms": float(np.median(all_ms)),
        "connectivity": meta.connectivity, "expansion_add": meta.expansion_add,
        "expansion_search": meta.expansion_search,
        "files_gb": {name: round(size / 1e9, 3) for name, (size, _) in meta.files.items()},
    }  # fmt: skip
    rows = [{"p50 ms": round(float(np.median(all_ms)), 2), "p99 ms": round(float(np.median(p99)), 2),
             "recall@10": round(recall[0], 4), "RSS GB": round(max(rss), 3), "build s": round(building)}]  # fmt: skip
    return {
        P99: Outcome(p99, [1.0], details=details, rows=rows),
        RECALL: Outcome([recall[0]], [1.0], details=details),
        RSS: Outcome(rss, [1.0], details=details),
    }


def _index(context: Context, vectors: Vectors, sentences: Sequence[str], total: int) -> Path:
    """The folder of the index, woven once for its vectors and settings; beside it stands how long that took."""
    from quiltwork.text.models import DEFAULT
    from quiltwork.text.search.building import Graph, weave

    told = repr((hashlib.blake2b(vectors.tobytes(), digest_size=12).hexdigest(), total, context.seed, Graph()))
    folder = kept(context.scratch) / f"index-{hashlib.blake2b(told.encode(), digest_size=12).hexdigest()}"
    if not folder.exists():
        began, done = context.clock(), 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            context.progress(f"building: {done} of {total}")

        pieces = near(vectors, sentences, total, context.seed)
        weave(folder, pieces, vectors.shape[1], model=DEFAULT, progress=progress)
        took = {"building_s": round(context.clock() - began, 1)}
        folder.with_suffix(".json").write_text(json.dumps(took), encoding="utf-8")
    return folder
