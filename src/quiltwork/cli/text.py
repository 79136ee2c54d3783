"""``quiltwork text``: sentences compared, embedded, searched; models of them trained and judged."""

from __future__ import annotations

import typer

from quiltwork.cli.lazy import Command, lazy_group, show_commands

COMMANDS = {
    "similarity": Command(
        "quiltwork.cli.text_similarity:similarity", "How alike sentences are, two or a table of them."
    ),
    "explain": Command("quiltwork.cli.text_similarity:explain", "Which words make two sentences alike, and which not."),
    "embed": Command("quiltwork.cli.text_embed:embed", "Vectors of sentences."),
    "search": Command("quiltwork.cli.text_search:app", "Index sentences; find the nearest; find those that disagree."),
    "evaluate": Command("quiltwork.cli.text_evaluate:evaluate", "How well scores agree with people's."),
    "train": Command("quiltwork.cli.text_train:train", "Train word and paragraph vectors on a corpus."),
    "lexicon": Command("quiltwork.cli.text_lexicon:lexicon", "Make the lexicon of opposites again."),
}
"""A command of the room is one line here and one file."""

app = typer.Typer(cls=lazy_group(COMMANDS), add_completion=False, no_args_is_help=True)


@app.callback(help="How alike sentences are: by a model's vectors, by their words, and whether one denies the other.")
def text() -> None:
    """Only groups the commands."""


show_commands(app, COMMANDS)
