"""What a confusion matrix says about each class."""

from roundel.core.confusion import precision_recall


def test_precision_and_recall_of_each_class() -> None:
    # Of five taken for class 0 four are, and of six of class 0 four were found; class 2 was
    # never taken for anything, class 3 never occurs.
    confusion = [[4, 2, 0, 0], [1, 3, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]
    assert precision_recall(confusion) == {
        "precision": [4 / 5, 3 / 10, None, None],
        "recall": [4 / 6, 3 / 4, 0.0, None],
    }
