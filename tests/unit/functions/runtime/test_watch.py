from __future__ import annotations

from bokilog.functions.runtime.watch import Stamp, Watch


class Files:
    """A watch over files that only a test has."""

    def __init__(self, *names: str) -> None:
        self.stamps: dict[str, Stamp] = dict.fromkeys(names, (1, 10))
        self.watch = Watch(lambda file: self.stamps.get(file))
        self.watch.watch(names)


def test_a_change_counts_once_it_has_come_to_rest() -> None:
    files = Files("a.py", "b.py")
    assert files.watch.look() == ""
    files.stamps["a.py"] = (2, 11)
    assert files.watch.look() == ""
    files.stamps["b.py"] = (2, 11)
    assert files.watch.look() == "", "another change, before the first came to rest"
    assert files.watch.look() == "b.py"
    assert files.watch.look() == ""


def test_a_file_that_is_replaced_counts_once_it_is_there_again() -> None:
    files = Files("a.py")
    files.stamps["a.py"] = None
    assert [files.watch.look() for _ in range(3)] == ["", "", ""]
    files.stamps["a.py"] = (3, 10)
    assert [files.watch.look() for _ in range(2)] == ["", "a.py"]


def test_a_change_while_the_app_is_loaded_is_not_missed() -> None:
    files = Files("a.py")
    files.stamps["a.py"] = (2, 10)
    files.watch.watch(["a.py", "c.py"])
    assert [files.watch.look() for _ in range(2)] == ["", "a.py"]
