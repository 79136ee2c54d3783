"""One model in a process of its own, behind a loop: how many small services are run today.

    python examples/one_model.py MODEL TOKENIZER [BASE]

Reads one JSON object a line ({"id", "prompt", "tokens"}) and answers with {"id", "text"}; requests that wait are
generated in one batch. BASE is the folder of an adapter's base; the adapter is merged into it. The first line written
says what it holds: {"weight_bytes"}.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, PreTrainedTokenizerFast

if len(sys.argv) > 3:
    import peft


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, tokenizer_folder = Path(sys.argv[1]), Path(sys.argv[2])
    model = load(folder, Path(sys.argv[3]) if len(sys.argv) > 3 else None)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_folder / "tokenizer.json"))
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    say({"weight_bytes": sum(weights.values())})
    waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=listen, args=(waiting,), daemon=True).start()
    while (first := waiting.get()) is not None:
        batch = [first]
        while not waiting.empty():
            more = waiting.get()
            if more is None:
                break
            batch.append(more)
        for count in sorted({request["tokens"] for request in batch}):
            answer(model, tokenizer, [request for request in batch if request["tokens"] == count], count)


def load(folder: Path, base: Path | None) -> Any:
    """A model in float32, ready to generate; no end token stops it."""
    model = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32).eval()
    if base is not None:
        model = peft.PeftModel.from_pretrained(model, folder)
        # Only some kinds of adapter can be merged; the others stay hung on their base.
        model = model.merge_and_unload().eval() if hasattr(model.base_model, "merge_and_unload") else model.eval()
    model.generation_config.eos_token_id = None
    return model


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, requests: list[dict[str, Any]], count: int) -> None:
    """Greedy answers of ``count`` tokens to all requests, padded on the left to one batch."""
    width = max(len(request["prompt"]) for request in requests)
    ids = torch.tensor([[0] * (width - len(r["prompt"])) + r["prompt"] for r in requests])
    mask = torch.tensor([[0] * (width - len(r["prompt"])) + [1] * len(r["prompt"]) for r in requests])
    cache = DynamicCache(config=model.config)
    config = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    rows = model.generate(
        input_ids=ids, attention_mask=mask, generation_config=config, past_key_values=cache
    )  # fmt: skip
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None)
    for request, row in zip(requests, rows[:, width:].tolist(), strict=True):
        # Text is what a continuation adds: decoded alone, many tokenizers drop the space it starts with.
        before = tokenizer.decode(request["prompt"], skip_special_tokens=True)
        text = tokenizer.decode([*request["prompt"], *row], skip_special_tokens=True)[len(before) :]
        say({"id": request["id"], "text": text, "kv_bytes": held})


def listen(waiting: queue.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        waiting.put(json.loads(line))
    waiting.put(None)


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
