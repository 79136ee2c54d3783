"""``quiltwork cluster``: jobs from a file, policies beside each other, how many servers; and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from small_studies import write_jobs, write_need
from typer.testing import CliRunner

from quiltwork.cli.cluster import app
from quiltwork.core.errors import BadInputError, QuiltworkError


def invoke(*words):
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


@pytest.fixture
def base(tmp_path):
    """Two training and four inference servers, as words of a command."""
    return ["simulate", "--jobs", write_jobs(tmp_path), "--train", 2, "--infer", 4, "--inference", write_need(tmp_path)]


def test_policies_are_shown_beside_each_other(base):
    done = invoke(*base, "--policy", "fifo", "--policy", "sjf", "--policy", "lyra")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["figure", "fifo", "sjf", "lyra", "what", "it", "is"]
    assert any(line.split()[:1] == ["goodput"] and "%" in line for line in lines)
    assert any("fifo's divided by it" in line and "1.00x" in line for line in lines)


def test_without_a_policy_first_come_first_served_and_lyra_are_compared(base):
    told = json.loads(invoke(*base, "--json").stdout)
    assert [arm["name"] for arm in told["arms"]] == ["fifo", "lyra"]
    assert set(told["wall_s"]) == {"fifo", "lyra"}
    assert told["study"]["jobs"] == 120


def test_every_option_reaches_the_study(base, tmp_path):
    told = json.loads(
        invoke(*base, "--column", "small", "--policy", "lyra:stickiness=0.5", "--set", "headroom=0.05", "--seed", 7,
               "--gpus-per-server", 16, "--types", "V100=1,T4=0.4", "--fungible", 0.5, "--elastic", "drawn",
               "--elastic-share", 0.3, "--stretch", 3, "--checkpointed", 1, "--hetero", 0.5, "--mixing", 0.8,
               "--checkpoint", "5m", "--estimates", "none", "--days", 2, "--limit", 50, "--json").stdout
    )  # fmt: skip
    assert told["study"] == {
        "jobs": 50, "train": 2, "infer": 4, "gpus_per_server": 16, "types": ["V100", "T4"],
        "capability": {"V100": 1.0, "T4": 0.4},
        "labels": {"fungible": 0.5, "hetero": 0.5, "checkpointed": 1.0, "elastic": "drawn", "elastic_share": 0.3,
                   "stretch": 3},
        "speed": "linear", "mixing": 0.8, "checkpoint_s": 300.0, "estimates": "none", "days": 2.0, "seed": 7,
    }  # fmt: skip
    rules = told["arms"][0]["rules"]
    assert (rules["headroom"], rules["stickiness"]) == (0.05, 0.5)


def test_quotas_are_of_every_policy_and_what_they_cannot_be_is_said(base, tmp_path):
    words = [*base, "--policy", "sjf", "--policy", "sjf:quotas=team1=2"]
    told = json.loads(invoke(*words, "--quota", "team0=8", "--quota", "team1=4", "--quota", "temm=1", "--json").stdout)
    assert [arm["rules"]["quotas"] for arm in told["arms"]] == [{"team0": 8, "team1": 4, "temm": 1}, {"team1": 2}]
    assert told["notes"][-1] == "there is a quota of team 'temm', and no job of it"
    for wrong, message in (
        (["--quota", "team0=17"], "quotas: teams are guaranteed 17 GPUs in all, and training's servers have 16"),
        (["--quota", "team0"], "--quota: 'team0' is not TEAM=GPUs"),
        (["--quota", "a=1", "--quota", "a=2"], "--quota: team 'a' is given twice"),
    ):
        with pytest.raises(BadInputError, match=message):
            invoke(*words, *wrong)
    with pytest.raises(BadInputError, match=r"guaranteed 12 GPUs in all, and training's servers have 8"):
        invoke("whatif", "--jobs", write_jobs(tmp_path), "--train", "1,2", "--quota", "team0=12", "--skip-too-large")


def test_jobs_of_slurm_and_of_any_table_are_simulated(tmp_path):
    (tmp_path / "slurm").write_text(
        "JobID|Account|Submit|Start|End|Elapsed|AllocTRES\n"
        "1|a|2025-01-01T00:00:00|2025-01-01T00:01:00|2025-01-01T01:01:00|01:00:00|billing=8,gres/gpu=4\n"
        "2|b|2025-01-01T00:10:00|2025-01-01T00:11:00|2025-01-01T00:21:00|00:10:00|gres/gpu=8\n"
    )
    done = invoke("simulate", "--jobs", tmp_path / "slurm", "--train", 1, "--policy", "fifo")
    assert done.exit_code == 0
    assert "times are counted from 2025-01-01 00:00:00" in done.stdout
    (tmp_path / "own.csv").write_text("Name,Begin,GPU,Took\nx,0,1,60000\ny,1000,2,60000\n")
    told = invoke("simulate", "--jobs", tmp_path / "own.csv", "--train", 1, "--policy", "fifo", "--json", "--columns",
                  "id=Name,submit=Begin,gpus=GPU,duration=Took,unit=ms")  # fmt: skip
    assert json.loads(told.stdout)["arms"][0]["metrics"]["jct_mean_s"] == 60


def test_the_folder_keeps_the_command_as_it_was_typed(base, tmp_path):
    out = tmp_path / "with space"
    left = ["--out", out, "--report", tmp_path / "r.html"]
    done = invoke(*base, "--policy", "sjf+loan", "--set", "headroom=0.05", *left, "--json")
    assert done.exit_code == 0
    told = json.loads((out / "metrics.json").read_text())
    jobs, need = tmp_path / "jobs.csv", tmp_path / "need.csv"
    assert told["command"] == (
        f"quiltwork cluster simulate --jobs {jobs} --train 2 --infer 4 --policy sjf+loan --inference {need} "
        f"--set headroom=0.05 --out '{out}' --report {tmp_path / 'r.html'}"
    )
    assert set(told["inputs"]) == {str(jobs), str(need)}
    assert "<title>sjf+loan: simulated cluster</title>" in (tmp_path / "r.html").read_text()


def test_the_same_command_leaves_the_same_files_whatever_python_hashes_with(tmp_path):
    command = ["simulate", "--jobs", "jobs.csv", "--train", "2", "--infer", "4", "--inference", "need.csv", "--policy",
               "fifo", "--policy", "lyra", "--policy", "opportunistic", "--estimates", "learned", "--seed", "3",
               "--checkpointed", "0.5", "--out", "out", "--report", "page.html", "--json"]  # fmt: skip
    left = []
    for seed in ("0", "77"):
        folder = tmp_path / seed
        folder.mkdir()
        write_jobs(folder)
        write_need(folder)
        subprocess.run(
            [sys.executable, "-c", "import sys; from quiltwork.cli import main; main(['cluster', *sys.argv[1:]])",
             *command], check=True, capture_output=True, cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        left.append({name: (folder / "out" / name).read_bytes() for name in os.listdir(folder / "out")})
    assert set(left[0]) == {"jobs.parquet", "log.parquet", "metrics.json", "timing.json"}
    for name in ("jobs.parquet", "log.parquet", "metrics.json"):
        assert left[0][name] == left[1][name]


def test_how_many_servers_hold_a_queue(tmp_path):
    words = ["whatif", "--jobs", write_jobs(tmp_path), "--train", "2,4", "--policy", "fifo", "--policy", "sjf"]
    done = invoke(*words, "--queue", "1d")
    assert done.exit_code == 0
    assert "fifo: mean queue within 24 h 00 m with 2 servers" in done.stdout
    told = json.loads(invoke(*words, "--lend", "0,2", "--json").stdout)
    assert [(p["arm"], p["lent"], p["train"]) for p in told["points"]] == [
        (arm, lent, train) for arm in ("fifo", "sjf") for lent in (0, 2) for train in (2, 4)
    ]
    assert told["command"].startswith("quiltwork cluster whatif --jobs ")
    never = invoke(*words, "--queue", "0")
    assert never.exit_code == 1
    assert "no number that was tried" in never.stdout


HEADER = "job_id,submit_s,num_gpus,duration_s\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "jobs.csv: cannot be read: No such file"),
        ("", "jobs.csv"),
        ("job_id,submit_s,num_gpus\na,0,1\n", "jobs.csv: line 1: has no column 'duration_s' .*id=...,submit="),
        (HEADER + "a,0,1,60\na,1,1,60\n", "line 3: job_id: 'a' is also on line 2"),
        (HEADER + "a,0,1,nan\n", "line 2: duration_s: 'nan' is not a length of time"),
        (HEADER + "a,0,0,60\n", "line 2: num_gpus: '0' is not a whole number of GPUs"),
        (HEADER + "a,0,17,60\n", "job a: asks for 17 GPUs, more than the 16 .*--skip-too-large"),
        (HEADER + "a,0,1,1e12\n", "job a: ran for 1e[+]12 s, over ten years"),
        (HEADER + "a,0,1,0\n", "has no jobs"),
    ],
)
def test_jobs_that_make_no_sense_are_refused_with_file_line_and_field(tmp_path, text, message):
    path = tmp_path / "jobs.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInputError, match=message) as refused:
        invoke("simulate", "--jobs", path, "--train", 2)
    assert refused.value.exit_code == 2


def test_rows_out_of_order_are_sorted_and_large_jobs_left_out_with_a_note(tmp_path):
    path = write_jobs(tmp_path, ["b,60,1,60,x", "a,0,1,60,x", "c,90,99,60,x"])
    done = invoke("simulate", "--jobs", path, "--train", 1, "--policy", "fifo", "--skip-too-large")
    assert done.exit_code == 0
    assert "1 rows submitted before the row above them: sorted" in done.stdout
    assert "left out: 1 job that asks for more than 8 GPUs (job c first)" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "lira"], "policy: 'lira' is not one of fifo"),
        (["--policy", "fifo", "--policy", "fifo"], "given twice"),
        (["--set", "headrom=1"], "'headrom' is not a rule .*did you mean headroom"),
        (["--train", 0], "train: 0 is not from 1"),
        (["--infer", -1], "infer: -1 is not from 0"),
        (["--gpus-per-server", 10**9], "gpus_per_server"),
        (["--types", "H100"], "types: 'H100' is of no known speed"),
        (["--fungible", 1.5], "labels: fungible: 1.5 is not a share"),
        (["--elastic", "some"], "labels: elastic: 'some' is not a rule .*most-gpu-time"),
        (["--stretch", 0], "labels: stretch"),
        (["--speed", "fast"], "--speed: 'fast' is neither linear nor a folder"),
        (["--mixing", 0], "mixing: 0.0 is not a share above 0"),
        (["--checkpoint", "soon"], "--checkpoint: 'soon' is not a duration"),
        (["--checkpoint", "0"], "checkpoint: 0.0 is not a length of time"),
        (["--estimates", "guess"], "estimates: 'guess' is no way to estimate"),
        (["--days", "nan"], "days: nan is not a length of time"),
        (["--columns", "id=nowhere"], "jobs.csv: line 1: has no column 'nowhere'"),
        (["--columns", "identity=x"], "columns: 'identity=x' names no column .*known: id, submit"),
        (["--column", "large"], "need.csv: line 1: has no column 'large'"),
        (["--out", "nowhere/out"], "nowhere: there is no such folder"),
        (["--report", "."], "is a folder, not a file"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_what_is_known(base, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=message):
        invoke(*base, *words)


def test_what_inference_needs_must_fit_its_servers(tmp_path):
    words = ["simulate", "--jobs", write_jobs(tmp_path), "--train", 2, "--policy", "lyra"]
    with pytest.raises(BadInputError, match="--inference: is given, but inference has no servers"):
        invoke(*words, "--inference", write_need(tmp_path))
    with pytest.raises(BadInputError, match="--column: a column is named of no file"):
        invoke(*words, "--infer", 4, "--column", "small")
    with pytest.raises(BadInputError, match=r"need\.csv: line 3: small_frac: '1\.2' is more than the whole fleet"):
        invoke(*words, "--infer", 4, "--inference", write_need(tmp_path, [0.5, 1.2]))
    (tmp_path / "counts.csv").write_text("t_s,small,large\n0,3,1\n300,5,2\n")
    counted = [*words, "--inference", tmp_path / "counts.csv", "--counts"]
    with pytest.raises(BadInputError, match=r"does not say which column is meant .*one of: small, large"):
        invoke(*counted, "--infer", 4)
    with pytest.raises(BadInputError, match="line 3: small: '5' is more than the fleet of 4"):
        invoke(*counted, "--infer", 4, "--column", "small")
    told = json.loads(invoke(*counted, "--infer", 5, "--column", "small", "--json").stdout)
    assert told["arms"][0]["metrics"]["jobs"] == 120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "150,x"], "--train: 'x' is not a number of servers"),
        (["--train", "150,"], "--train: '' is not a number of servers"),
        (["--train", "2", "--lend", "a"], "--lend: 'a' is not a number"),
        (["--train", "2", "--queue", "soon"], "--queue: 'soon' is not a duration"),
        (["--train", "2,2"], "given twice"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(tmp_path, words, message):
    with pytest.raises(BadInputError, match=message):
        invoke("whatif", "--jobs", write_jobs(tmp_path), *words)


def test_a_mistake_is_one_line_and_a_misspelt_option_names_the_right_one(tmp_path):
    program = "import sys; from quiltwork.cli import main; main(sys.argv[1:])"

    def run(*words):
        return subprocess.run([sys.executable, "-c", program, "cluster", *words], capture_output=True, text=True,
                              check=False)  # fmt: skip

    missing = run("simulate", "--jobs", str(tmp_path / "none.csv"), "--train", "2")
    assert missing.returncode == 2
    assert missing.stderr == f"quiltwork: {tmp_path}/none.csv: cannot be read: No such file or directory\n"
    misspelt = run("simulate", "--jobs", "x", "--trian", "2")
    assert misspelt.returncode == 2
    assert "--train" in misspelt.stderr
    assert issubclass(BadInputError, QuiltworkError)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_jobs_of_the_15_days_are_simulated_with_measured_speeds(data_dir, tmp_path):
    cluster = data_dir / "cluster"
    done = invoke("simulate", "--jobs", cluster / "jobs/trace15d_50390.csv.gz", "--limit", 5000, "--train", 172,
                  "--infer", 202, "--inference", cluster / "inference/inference_demand_5min_15d.csv.gz", "--column",
                  "m-small", "--speed", cluster / "profiles/sia", "--out", tmp_path / "out", "--report",
                  tmp_path / "page.html", "--json")  # fmt: skip
    told = json.loads(done.stdout)
    assert told["study"]["speed"] == "measured"
    assert told["arms"][1]["against_first"]["jct_mean"] > 1
    assert (tmp_path / "page.html").stat().st_size < 10_000_000
