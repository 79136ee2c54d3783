"""Puts small made-up models into a zoo; run as a program it can be stopped at any step or given a small disk.

    python adder.py ZOO NAME SEED [--stop-at STEP] [--file-limit BYTES] [--base NAME] [--remove]

Prints how many steps there were. Exits with 7 where the disk was full.
"""

import argparse
import os
import resource
import signal
import sys

import numpy as np

from quiltwork.core.errors import CapacityError
from quiltwork.zoo import ModelRef, Part, RawTensor, TensorRef, Zoo
from quiltwork.zoo.manifest import make_block


def raw(array, dtype="F32"):
    return RawTensor(dtype, array.shape, np.ascontiguousarray(array).view(np.uint8).reshape(-1))


def arrays(seed, tuned=None):
    """Three matrices that all seeds share, and three of this seed's own; ``tuned`` moves the shared ones a little."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    made = {f"shared.{i}": shared.standard_normal((24, 40)).astype(np.float32) for i in range(3)}
    if tuned is not None:
        made = {name: (a + 0.05 * own.standard_normal(a.shape)).astype(np.float32) for name, a in made.items()}
    return made | {f"own.{i}": own.standard_normal((24, 40)).astype(np.float32) for i in range(3)}


def put(zoo, name, seed, base=None, lossy=None, tenant="public"):
    """Add the model of this seed, as a fine-tune of the model ``base`` where given; returns ``(model, session)``."""
    known = () if base is None else [t for part in zoo.model(base).parts for t in part.block.tensors]
    near = {tensor.name: tensor for tensor in known if tensor.name.startswith("shared")}
    losses = {}
    with zoo.adding() as session:
        tensors = []
        for role, array in arrays(seed, base).items():
            stored = session.tensor(raw(array), near=near[role].content if role in near else None, lossy=lossy)
            tensors.append(TensorRef(role, "F32", array.shape, stored.content, stored.stored_dtype))
            if stored.loss is not None:
                losses[role] = stored.loss
        block = make_block("ffn", {"hidden_size": 40}, tensors)
        model = session.commit(
            ModelRef(name, tenant),
            family="unknown",
            parts=[Part("layers.0.ffn", block)],
            config={"seed": seed},
            files={"tokenizer.json": session.file(b'{"a": 1}' * 40), "merges.txt": session.file(bytes([seed % 256]))},
            recipe=f"recipe {seed}".encode() * 20,
            base=None if base is None else ModelRef(base),
            lossy=losses,
        )
    return model, session


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("zoo")
    parser.add_argument("name")
    parser.add_argument("seed", type=int)
    parser.add_argument("--stop-at", type=int, default=0)
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--base")
    parser.add_argument("--remove", action="store_true", help="remove the model NAME and collect garbage instead")
    options = parser.parse_args()
    steps = []

    def watch(step):
        steps.append(step)
        if len(steps) == options.stop_at:
            print(step, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with Zoo(options.zoo, watch=watch) as zoo:
            if options.file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
            if options.remove:
                zoo.remove(options.name)
                zoo.gc()
            else:
                put(zoo, options.name, options.seed, options.base)
    except CapacityError as error:
        print(error)
        sys.exit(7)
    print(len(steps))


if __name__ == "__main__":
    main()
