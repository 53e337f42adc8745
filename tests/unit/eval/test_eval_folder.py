"""The folder of an evaluation: rows survive, strangers' samples are never scored together."""

import json
from dataclasses import replace

import pytest
from eval_samples import make_sample, make_samples

from k15.errors import ConfigDriftError, RunFolderError, RunLockedError
from k15.eval.folder import KIND, SCHEMA, EvaluationFolder, read_samples, read_scores

IDENTITY = {"model": "abc", "temperature": 1.0, "data": {"gsm8k": "1", "math500": "2"}}


def scores(identity=IDENTITY):
    return {"kind": KIND, "schema": SCHEMA, "identity": identity}


def fill(path, samples, identity=IDENTITY):
    with EvaluationFolder.open(path, identity) as folder:
        folder.write_scores(scores(identity))
        folder.append(samples)


def test_rows_come_back_as_they_were(tmp_path):
    samples = [
        *make_samples(a="rwntf"),
        make_sample("ü", 3, reply="line\nline\u2028☃ \ud800"[:-1], details={"options": ["x"]}),
    ]
    fill(tmp_path, samples)
    assert read_samples(tmp_path) == samples
    with EvaluationFolder.open(tmp_path, IDENTITY) as folder:
        assert folder.samples == samples


def test_a_torn_last_row_is_cut_and_its_sample_made_anew(tmp_path):
    samples = make_samples(a="rw", b="rw")
    fill(tmp_path, samples)
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-cut])
        with EvaluationFolder.open(tmp_path, IDENTITY) as folder:
            assert folder.samples == samples[:3]
            folder.append([samples[3]])
        assert path.read_bytes() == whole


def test_a_damaged_row_in_the_middle_is_named(tmp_path):
    fill(tmp_path, make_samples(a="rw"))
    path = tmp_path / "samples.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace('"wrong"', '"maybe"'), ""]))
    with pytest.raises(RunFolderError, match="line 2 is damaged"):
        read_samples(tmp_path)


def test_a_sample_counts_once(tmp_path):
    fill(tmp_path, [make_sample(reply="first"), make_sample(reply="second")])
    assert [s.reply for s in read_samples(tmp_path)] == ["first"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "xyz"}, "model was 'abc' and is 'xyz'"),
        ({"temperature": 0.5}, "temperature was 1.0 and is 0.5"),
        ({"data": {"gsm8k": "other"}}, "the data of gsm8k changed"),
    ],
)
def test_samples_of_something_else_are_refused(tmp_path, change, message):
    fill(tmp_path, make_samples(a="r"))
    with pytest.raises(ConfigDriftError, match=message):
        EvaluationFolder.open(tmp_path, IDENTITY | change)
    assert len(read_samples(tmp_path)) == 1


def test_benchmarks_may_be_added_and_left_out(tmp_path):
    fill(tmp_path, make_samples(a="r"))
    with EvaluationFolder.open(tmp_path, IDENTITY | {"data": {"aime2024": "3", "gsm8k": "1"}}) as folder:
        assert len(folder.samples) == 1


def test_fresh_moves_the_old_aside(tmp_path):
    fill(tmp_path, make_samples(a="r"))
    for number in (1, 2):
        with EvaluationFolder.open(tmp_path, {"model": number}, fresh=True) as folder:
            assert folder.samples == []
            folder.write_scores(scores({"model": number}))
            folder.append([replace(make_sample(), reply=str(number))])
    assert len((tmp_path / ".old-1" / "samples.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / ".old-2" / "scores.json").read_text())["identity"] == {"model": 1}


def test_samples_without_scores_have_no_owner(tmp_path):
    fill(tmp_path, make_samples(a="r"))
    (tmp_path / "scores.json").unlink()
    with pytest.raises(RunFolderError, match="nobody knows which model"):
        EvaluationFolder.open(tmp_path, IDENTITY)


def test_two_evaluations_do_not_share_a_folder(tmp_path):
    with EvaluationFolder.open(tmp_path, IDENTITY), pytest.raises(RunLockedError):
        EvaluationFolder.open(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": "k15-run"}', '{"kind": "k15-evaluation", "schema": 99}']
)
def test_scores_of_something_else_are_refused(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(RunFolderError):
        read_scores(tmp_path)
