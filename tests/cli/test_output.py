from __future__ import annotations

import json

from quiltwork.cli.output import emit, narration, table, transfer


def test_json_where_asked_and_else_the_table(capsys):
    shown = table("name", "bytes", numbers=("bytes",))
    shown.add_row("[red]a[/red]", "1")
    emit({"a": [1, None, "é"]}, True, shown)
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, "é"]}
    emit({}, False, shown)
    assert capsys.readouterr().out.splitlines()[0].split() == ["name", "bytes"]


def test_text_is_printed_as_it_is(capsys):
    emit({}, False, "[bold]not markup[/bold]")
    assert capsys.readouterr().out == "[bold]not markup[/bold]\n"


def test_wide_tables_are_not_squeezed_into_a_pipe(capsys):
    shown = table("a", "b")
    shown.add_row("x" * 60, "y" * 60)
    emit({}, False, shown)
    assert "x" * 60 + "  " + "y" * 60 in capsys.readouterr().out


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    with transfer("[adding") as advance, narration("bench") as say:
        advance(10)
        say("half [of it")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
