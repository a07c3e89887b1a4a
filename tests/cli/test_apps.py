"""What is shown of apps, wherever their clients are."""

from roundel.cli.apps import round_text


def test_a_round_is_one_line_with_what_the_clients_report():
    side = {"messages": 4, "replies": 3, "failures": 1, "metrics": {"loss": 0.5, "num-examples": 9}}
    line = {"round": 2, "train": side, "bytes_up": 1, "bytes_down": 2, "seconds": 0.25}
    assert round_text(line) == "round 2  train: 3 of 4 replied  loss 0.5  0.25 s"
