import json

import pytest

from ed2rec import doctor, environment


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("ED2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


def finding(what):
    return next(found for found in doctor.examine().findings if found.what == what)


def test_everything_is_looked_at_and_the_answer_is_json(quick):
    found = doctor.examine()
    assert {"python", "torch", "processor", "accelerator", "ed2rec cache", "free disk here"} <= {
        f.what for f in found.findings
    }
    assert json.loads(json.dumps(found.as_dict()))["healthy"] == found.healthy


def test_a_missing_package_comes_with_the_command_that_installs_it(quick, monkeypatch):
    monkeypatch.setattr(environment, "versions", lambda *_: {"peft": None, "torch": "1.0"})
    monkeypatch.setattr(doctor, "_requirements", lambda: {"peft": ">=0.17", "torch": ">=2.6"})
    assert finding("peft").state == "missing" and finding("peft").mend == "pip install 'peft>=0.17'"
    assert finding("torch").found == "1.0, needed >=2.6" and not doctor.examine().healthy


def test_requirements_are_those_of_the_installed_metadata():
    needed = doctor._requirements()
    assert needed["polars"].startswith(">=") and "pytest" not in needed


def test_a_cache_that_cannot_be_written_names_the_variable_that_moves_it(quick, monkeypatch):
    (quick / "cache").mkdir()
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert finding("ed2rec cache").mend == "export ED2_CACHE=FOLDER"


def test_a_check_that_fails_is_a_finding_and_not_a_crash(quick, monkeypatch):
    monkeypatch.setattr(environment, "accelerators", lambda: 1 / 0)
    assert finding("accelerators").found.startswith("ZeroDivisionError")


@pytest.mark.parametrize(
    ("left", "right"), [("2.6.0", ">=2.6"), ("2.13.0+cpu", ">=2.6"), ("0.21", ">=0.21"), ("5.0.0rc1", ">=5.0")]
)
def test_versions_are_compared_as_numbers(left, right):
    assert doctor._numbers(left) >= doctor._numbers(right)
    assert doctor._numbers("2.5.9") < doctor._numbers(">=2.6")


def test_what_a_run_records_of_its_surroundings_is_json():
    found = environment.describe()
    assert json.loads(json.dumps(found)) == found
    assert found["hardware"]["cores"] >= 1 and found["versions"]["numpy"]
