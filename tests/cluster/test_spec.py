"""A job as its user writes it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.spec import Batch, Checkpoint, JobSpec, LearningRate, parse_spec, read_spec
from quiltwork.core.errors import BadInputError, NotFoundError

FULL = """
name: vision/resnet
team: vision
command: python train.py --name 'two words'
workers: {min: 2, max: 8}
gpus_per_worker: 4
gpu_types: [V100, T4]
mem_per_gpu: 16GB
fungible: true
heterogeneous: yes
batch: {mode: fixed_local, size: 32}
lr: {base: 0.1, rule: sqrt, warmup_steps: 10}
checkpoint:
  path: /data/ckpt
  interval: 10m
  on_warning: false
est_duration: 2h
priority: -3
retries: 2
time_limit: 1d
grace: 45
env: {OMP_NUM_THREADS: 1, MODE: fast}
workdir: /data
"""


def job(*lines, name="j", command="true"):
    return "\n".join([f"name: {name}", f"command: {command}", *lines]) + "\n"


def test_every_field_is_read():
    assert parse_spec(FULL) == JobSpec(
        name="vision/resnet",
        team="vision",
        command=("python", "train.py", "--name", "two words"),
        w_min=2,
        w_max=8,
        gpus_per_worker=4,
        gpu_types=("V100", "T4"),
        mem_per_gpu=16_000_000_000,
        fungible=True,
        heterogeneous=True,
        batch=Batch("fixed_local", 32),
        lr=LearningRate(0.1, "sqrt", 10),
        checkpoint=Checkpoint("/data/ckpt", 600.0, False),
        est_duration_s=7200.0,
        priority=-3,
        retries=2,
        time_limit_s=86400.0,
        grace_s=45.0,
        env={"OMP_NUM_THREADS": "1", "MODE": "fast"},
        workdir="/data",
    )


def test_a_name_and_a_command_are_a_job():
    spec = parse_spec(job())
    assert (spec.w_min, spec.w_max, spec.elastic, spec.team) == (1, 1, False, "default")


def test_a_number_of_workers_is_both_least_and_most():
    assert (parse_spec(job("workers: 3")).w_min, parse_spec(job("workers: 3")).w_max) == (3, 3)


def test_a_command_may_be_a_list_that_is_taken_as_it_is():
    assert parse_spec("name: j\ncommand: [sh, -c, 'echo $RANK; exit 3', 7]").command == (
        *("sh", "-c", "echo $RANK; exit 3", "7"),
    )


def test_a_trainable_has_a_config_and_a_seed():
    spec = parse_spec("name: j\ntrainable: my.module:make\nconfig: {lr: 1e-3, deep: [1, {a: null}]}\nseed: 7")
    assert (spec.trainable, spec.seed, spec.command) == ("my.module:make", 7, ())
    assert spec.config == {"lr": 0.001, "deep": [1, {"a": None}]}


@pytest.mark.parametrize(("written", "meant"), [("1e-3", 0.001), ("2.5E3", 2500.0), (".5e1", 5.0), ("'1e-3'", "1e-3")])
def test_a_number_with_an_exponent_is_a_number_as_in_json(written, meant):
    assert parse_spec(f"name: j\ntrainable: a:b\nconfig: {{x: {written}}}").config == {"x": meant}


def test_words_that_yaml_takes_for_something_else_are_taken_as_they_are_written():
    spec = parse_spec("name: 2024-01-01\ncommand: true\nenv: {A: yes, B: 1.50}")
    assert (spec.name, spec.command, spec.env) == ("2024-01-01", ("true",), {"A": "yes", "B": "1.50"})


def test_json_is_read_too():
    document = {"name": "j", "command": ["true"], "workers": {"min": 1, "max": 2}}
    assert parse_spec(json.dumps(document)).elastic


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (job("workers: {min: 4, max: 2}"), r"line 3: workers\.max: 2 is less than min, 4"),
        (job("workers: 0"), "line 3: workers: '0' is not a whole number of at least 1"),
        (job("workers:", "  min: 0", "  max: 2"), r"line 4: workers\.min: '0'"),
        (job("workers: {min: 1}"), "line 3: workers: has no field 'max'"),
        (job("workers: 1.5"), "line 3: workers: '1.5' is not a whole number"),
        (job("workers: many"), "line 3: workers: 'many' is not a whole number"),
        (job("workers: true"), "line 3: workers: 'true' is not a whole number"),
        (job("gpus_per_worker: 0"), "line 3: gpus_per_worker: '0'"),
        (job("gpu_types: []"), "line 3: gpu_types: must list"),
        (job("gpu_types: T4"), "line 3: gpu_types: must be a list"),
        (job("gpu_types: [T4, T4]"), "line 3: gpu_types"),
        (job("mem_per_gpu: lots"), "line 3: mem_per_gpu: 'lots' is not a size"),
        (job("fungible: perhaps"), "line 3: fungible: 'perhaps' is neither true nor false"),
        (job("batch: {mode: huge}"), r"line 3: batch\.mode: 'huge' is not one of"),
        (job("lr: {rule: linear}"), "line 3: lr: has no field 'base'"),
        (job("lr: {base: -1}"), r"line 3: lr\.base: '-1' is not a positive number"),
        (job("lr: {base: .nan}"), r"line 3: lr\.base: '.nan' is not a positive number"),
        (job("checkpoint: {path: x, interval: soon}"), r"line 3: checkpoint\.interval: 'soon' is not a length of time"),
        (job("est_duration: .nan"), "line 3: est_duration"),
        (job("est_duration: 0"), "line 3: est_duration: '0' is not above 0"),
        (job("time_limit: -5"), "line 3: time_limit"),
        (job("env: {A B: 1}"), r"line 3: env\.A B: 'A B' is not the name of a variable"),
        (job("env: {A: [1]}"), r"line 3: env\.A: must be text"),
        (job("wrokers: 3"), "line 3: wrokers: is not a field.*known: name"),
        (job("team: a", "team: b"), "line 4: team: is there twice"),
        (job("seed: 3"), "line 3: seed: is for a trainable"),
        (job("trainable: a:b"), "line 2: command: needs a command or a trainable, and not both"),
        (job(command='"unclosed \'quote"'), "line 2: command: cannot be split"),
        (job(command="[]"), "line 2: command: is empty"),
        (job(name="../up"), "line 1: name: '../up' is not a name"),
        ("command: true", "line 1: has no field 'name'"),
        ("name: j", "line 1: needs a command or a trainable"),
        ("name: j\ntrainable: nothing", "line 2: trainable: 'nothing' is not of the form module:factory"),
        ("name: j\ntrainable: a:b\nconfig: [1]", "line 3: config: must be a set of named fields"),
        ("name: j\ntrainable: a:b\nconfig: {when: 2024-01-01}", r"line 3: config\.when: '2024-01-01' is not JSON"),
        ("- a\n- b", "line 1: must be a set of named fields"),
        ("name: [", "is not YAML"),
        ("name: !!python/object:os.system x\ncommand: true", "line 1: name: must be text"),
        ("", "is empty"),
        ("a: &x [1]\nb: *x", "line 2: anchors and aliases have no place here"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_field(text, message):
    with pytest.raises(BadInputError, match=f"job: .*{message}|job: {message}"):
        parse_spec(text)


def test_a_file_is_named_in_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(job("workers: 0"))
    with pytest.raises(BadInputError, match=r"job\.yaml: line 3: workers"):
        read_spec(path)
    path.write_bytes(b"name: \xff")
    with pytest.raises(BadInputError, match=r"job\.yaml: is not UTF-8"):
        read_spec(path)
    with pytest.raises(NotFoundError, match=r"absent\.yaml: there is no such file"):
        read_spec(tmp_path / "absent.yaml")


def test_a_deeply_nested_document_is_refused():
    with pytest.raises(BadInputError, match="nested too deeply"):
        parse_spec("name: j\nconfig: " + "[" * 5000 + "]" * 5000)


@given(st.text(max_size=200))
def test_any_text_is_a_job_or_is_refused(text):
    try:
        spec = parse_spec(text)
    except BadInputError:
        return
    assert spec.name
