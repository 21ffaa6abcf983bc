"""`ed2 bench prepare`: what it makes up and what it reports. No time is asserted."""

from benchmarks import prepare


def test_the_made_up_reviews_are_prepared_in_a_process_of_their_own_and_counted():
    found = prepare.run(reviews=4000, users=200, items=60)
    assert found["setting"]["reviews"] == 4000 and found["setting"]["gzip_mib"] > 0
    kept = found["kept"]
    assert kept["users"] <= 200 and kept["items"] <= 60
    assert kept["users"] * 5 <= kept["interactions"] < 4000, "a repeated item counts once"
    assert found["seconds"] > 0 and found["reviews_per_second"] > 0 and 0.05 < found["peak_gib"] < 8


def test_the_same_seed_makes_the_same_reviews(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepare.write_reviews(tmp_path / name / "r.json.gz", 500, 20, 9)
    files = [prepare.gzip.open(tmp_path / name / "r.json.gz").read() for name in ("a", "b")]
    assert files[0] == files[1] and files[0].count(b"\n") == 500
